"""The models of transformers that rivals are: built, started, and made ready for export."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.baseline import Size
from rfdetr_repro.baselines.deployed import Detector, merge_parallel_convolutions
from rfdetr_repro.baselines.library import LibraryBaseline, weights_of
from rfdetr_repro.spec.errors import InputError

from . import pico
from .names import PICO_SIZES

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import ClassMap

PACKAGE = "transformers"
OLDEST = (5, 0)


def check_package() -> str:
    """The version of transformers. Raises :class:`InputError` where it is missing or too old."""
    hint = "pip install 'transformers>=5'"
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            "training a rival needs transformers, which is missing", hint=hint
        ) from error
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        raise InputError(
            f"training a rival needs transformers 5 or later, not {version}", hint=hint
        )
    return version


def configuration(
    size: Size, classes: ClassMap, *, pretrained: bool, queries: int | None = None
) -> dict[str, Any]:
    """The fields of transformers' configuration of a rival, with the classes of the data.

    ``pretrained``: normalisations of the backbone stay frozen where the authors freeze them; from
    random weights they are trained. ``queries``: object queries; None: the size's own. Raises
    :class:`InputError` where transformers lacks the model.
    """
    count = len(classes.names)
    try:
        if size.id in PICO_SIZES:
            config = pico.configuration(size.family, count)
        else:
            with torch.device("meta"):
                config = _baseline(size).build(size, count).config
    except ImportError as error:
        version = importlib.metadata.version(PACKAGE)
        raise InputError(
            f"transformers {version} has no {size.name} ({error})", hint="install a newer version"
        ) from error
    if not pretrained and hasattr(config, "freeze_backbone_batch_norms"):
        config.freeze_backbone_batch_norms = False
    if queries is not None:
        config.num_queries = queries
    config.id2label = dict(enumerate(classes.names))
    config.label2id = {name: label for label, name in enumerate(classes.names)}
    fields: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return fields


def from_config(size: Size, fields: Mapping[str, Any]) -> Any:
    """transformers' detector of a :func:`configuration`: random weights as the library draws them,
    and every parameter trained that the authors train.
    """
    config_class, detector_class = pico.classes_of(size.family)
    return detector_class(config_class.from_dict(dict(fields)))


def _baseline(size: Size) -> LibraryBaseline:
    found = catalog.entry(size.id).baseline
    if not isinstance(found, LibraryBaseline):
        raise InputError(f"{size.id} is no model of transformers")
    return found


def deployed(size: Size, model: Any) -> nn.Module:
    """Images (B, 3, H, W) in the model's own normalisation -> boxes, logits, as the authors deploy
    the model; alters ``model``.
    """
    adapters: dict[str, Any] = {}
    for known in catalog.entries().values():
        baseline = known.baseline
        if isinstance(baseline, LibraryBaseline) and not known.is_plug_in:
            adapters[known.size.family] = baseline.adapter
    model.eval().requires_grad_(False)
    if size.family not in adapters:
        return Detector(merge_parallel_convolutions(model))
    if size.family.startswith("rtdetr"):  # decoder layers that no evaluation runs
        model.evaluated_layers = size.settings.get("evaluated_layers", 0)
    made: nn.Module = adapters[size.family].deployed(model)
    return made


def start(model: nn.Module, path: Path) -> tuple[dict[str, Tensor], str]:
    """The state to train ``model`` from with the weights in ``path``, and a sentence about it.

    Rows of classes stay random where the file has another number of classes. Raises
    :class:`InputError` for a file that is not safetensors, and for weights of another model.
    """
    tensors = weights_of(path)
    expected = model.state_dict()
    same_place = {expected[name].data_ptr() for name in expected.keys() & tensors.keys()}
    missing = [
        name
        for name, value in expected.items()
        if value.data_ptr() not in same_place and not name.endswith("num_batches_tracked")
    ]
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise InputError(
            f"{len(missing)} tensors are missing and {len(unknown)} unknown, such as "
            f"{[*missing, *unknown][0]}",
            path,
            "name the model that the file is of, saved by transformers",
        )
    fresh = []
    taken = {}
    for name, value in tensors.items():
        wanted = expected[name].shape
        if value.shape == wanted:
            taken[name] = value
        elif _of_classes(name) and value.shape[1:] == wanted[1:]:
            fresh.append(name)
        else:
            raise InputError(
                f"{name} has the shape {list(value.shape)}, not {list(wanted)}",
                path,
                "name the model that the file is of",
            )
    model.load_state_dict(taken, strict=False)
    heads = f", {len(fresh)} tensors of other classes are random" if fresh else ""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return state, f"starting from {path.name}{heads}"


def _of_classes(name: str) -> bool:
    return any(part in name for part in ("class_embed", "score_head", "class_head"))
