"""Models by name, as artifacts to measure: ours from its presets, other people's from the
repository's ``baselines`` folder.

An artifact is made once and found again by its name, which hashes what made it: model, weights,
categories, programs, versions. Weights are random unless a checkpoint is named, and the manifest
says which; random weights may give a latency, never an accuracy.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from rfdetr_repro.export.adopt.adoption import Categories, adopt
from rfdetr_repro.export.artifact import (
    Artifact,
    ArtifactMeta,
    load_artifact,
    manifest_path,
    write_artifact,
)
from rfdetr_repro.export.onnx.nms import Nms
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file, writable_folder
from rfdetr_repro.spec.labels import Labels, coco_labels
from rfdetr_repro.spec.presets import PRESETS, SIZE_LETTERS
from rfdetr_repro.spec.resize_rules import ANTIALIASED
from rfdetr_repro.spec.unfinished import remove_abandoned_folders, temporary_folder

PACKAGES = ("torch", "onnx", "onnxscript", "transformers")
SEED = 0
_MISSING = (
    "D-FINE, RT-DETR, LW-DETR and the rest need the repository's baselines folder on the Python "
    "path"
)


def _catalog() -> Any:
    """The module ``baselines.catalog``, or None where the repository is not on the path: the
    package does not depend on it.
    """
    return (
        importlib.import_module("baselines.catalog")
        if importlib.util.find_spec("baselines")
        else None
    )


@cache
def model_names() -> tuple[str, ...]:
    """Every name that :func:`model_artifact` takes here."""
    catalog = _catalog()
    return (*(f"rfdetr-{size}" for size in PRESETS), *(catalog.ROWS if catalog else ()))


def known_name(name: str) -> str:
    """``name`` itself, or the name here of what the scoreboard calls so by the paper's letters:
    lwdetr-s is lwdetr-small.
    """
    rows = getattr(_catalog(), "ROWS", {})
    keys = {
        f"{row.family}-{row.size}{'-seg' * row.masks}".lower(): known for known, row in rows.items()
    }
    return name if name in model_names() else keys.get(name.lower(), name)


def model_id(name: str, weights: str = "random") -> ModelId:
    """Family, printed name and size as the paper's tables have them; an unknown name is an
    :class:`InputError`.
    """
    name = known_name(name)
    if name not in model_names():
        missing = "" if _catalog() else f" ({_MISSING})"
        raise InputError(
            f"unknown model {name!r}{missing}", hint=f"choose one of {', '.join(model_names())}"
        )
    size = name.removeprefix("rfdetr-")
    if size in PRESETS:
        row = PRESETS[size]
        letter = SIZE_LETTERS.get(size.removeprefix("seg-"), size.removeprefix("seg-"))
        shown, task = ("RF-DETR-Seg", "segment") if row.model.masks else ("RF-DETR", "detect")
        return ModelId("rfdetr", shown, task, letter, arch=row.arch, weights=weights)
    row = _catalog().ROWS[name]
    task = "segment" if row.masks else "detect"
    return ModelId(row.family, row.name, task, row.size, weights=weights)


def model_artifact(
    name: str,
    folder: str | Path,
    *,
    checkpoint: str | Path | None = None,
    categories: Categories | None = None,
    to: str = "onnx",
    inject: int | None = None,
    suppression: str = "operator",
    labels: str | Sequence[str] | None = None,
) -> Artifact:
    """The artifact of model ``name`` in ``folder``: ranked detections inside, made if it is not
    there yet.

    ``to``: "onnx", or "torch" for a file that PyTorch runs, which exists of our models only.

    ``checkpoint``: for ours any file that :func:`load_pretrained` reads, for a baseline safetensors
    in transformers' names. ``categories``: ids and names of the data set behind a baseline's
    weights. ``inject``: candidates of a model with random weights that ends with suppression
    (default 100; other models have no candidates). ``suppression``: its kind, of
    ``rfdetr_repro.export.onnx.nms.KINDS``. ``labels``: what the labels of a checkpoint of ours mean
    where its file does not say so, as in :func:`load_pretrained`. Raises :class:`InputError`.
    """
    name = known_name(name)
    model = model_id(name, "random" if checkpoint is None else "trained")
    digest = None if checkpoint is None else sha256_file(checkpoint)
    model = replace(model, checkpoint_sha256=digest)
    foreign = getattr(_catalog() and _catalog().ROWS.get(name), "foreign", None) is not None
    if foreign and checkpoint is None and inject is None:
        inject = importlib.import_module("baselines.foreign").INJECTED
    ours = name.removeprefix("rfdetr-") in PRESETS
    if labels is not None and not ours:
        raise InputError(
            f"labels are for RF-DETR's files, and {name} takes the classes of the data",
            hint="leave the labels out",
        )
    decided = {
        "inject": inject if foreign else None,
        "suppression": suppression if foreign else None,
        "labels": labels,
    }
    made = _made_by(name, digest, categories, decided)
    starred = getattr(_catalog() and _catalog().ROWS.get(name), "star", "")
    suffix = "recipe" if starred else "safetensors" if to == "torch" and ours else "onnx"
    path = writable_folder(folder) / f"{name}-{made}.{suffix}"
    remove_abandoned_folders(folder)
    if path.is_file() and manifest_path(path).is_file():
        return load_artifact(path)
    if foreign:
        return _foreign(
            name, path, model, checkpoint, categories, Nms(inject=inject, kind=suppression)
        )
    if ours:
        return _ours(name, path, model, checkpoint, labels)
    return _theirs(name, path, model, checkpoint, categories)


def _made_by(
    name: str,
    checkpoint_sha256: str | None,
    categories: Categories | None,
    decided: Mapping[str, Any],
) -> str:
    """12 hex digits over all that decides the file's content; of ``decided`` what is not None."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    made = {
        "name": name,
        "weights": checkpoint_sha256 or SEED,
        "categories": categories,
        "with": versions,
        "by": _sources(),
    }
    made |= {key: value for key, value in decided.items() if value is not None}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _sources() -> str:
    """Hash of the programs that build and export models."""
    catalog = _catalog()
    package = Path(__file__).parents[1]
    folders = [
        package / "model",
        package / "export",
        package / "spec",
        *([Path(catalog.__file__).parent] if catalog else []),
    ]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))] + [Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _ours(
    name: str, path: Path, model: ModelId, checkpoint: Any, given: str | Sequence[str] | None
) -> Artifact:
    import torch

    from rfdetr_repro.export.onnx.exporter import export_onnx
    from rfdetr_repro.export.torch import export_torch
    from rfdetr_repro.model.checkpoints.pretrained import load_pretrained
    from rfdetr_repro.model.detector import Detector

    size = name.removeprefix("rfdetr-")
    row = PRESETS[size]
    if checkpoint is None:
        torch.manual_seed(SEED)
        detector = Detector(replace(row.model, groups=1), row.arch).eval()
        arch = row.arch
        labels = coco_labels()
        rule = ANTIALIASED
    else:
        detector, card, _ = load_pretrained(checkpoint, size, given)
        arch = card.arch
        labels = Labels(card.class_names, card.category_ids)
        rule = card.resize_rule
    export = export_onnx if path.suffix == ".onnx" else export_torch
    return export(
        detector.slice(arch),
        path,
        meta=ArtifactMeta(model, labels.names, labels.category_ids, rule),
    )


def _theirs(
    name: str, path: Path, model: ModelId, checkpoint: Any, categories: Categories | None
) -> Artifact:
    """Exported by PyTorch, then adopted: normalisation, choice and box form go into the file."""
    catalog = _catalog()
    row = catalog.ROWS[name]
    if row.star:
        if checkpoint is not None:
            raise InputError(
                f"{name} is measured with random weights only: {row.star}",
                hint="leave --checkpoint out",
            )
        from .starred import write_recipe

        return write_recipe(
            row, name, path, model, {"transformers": importlib.metadata.version("transformers")}
        )
    detector = catalog.module(name, "deployed", checkpoint)
    params = sum(parameter.numel() for parameter in detector.parameters())
    with temporary_folder(path.parent) as scratch:
        exported = Path(scratch, f"{name}.onnx")
        catalog.export(detector, exported, row.hw, dynamo=row.dynamo)
        adopted = adopt(
            exported,
            Path(scratch, "adopted.onnx"),
            categories=categories,
            form="detr",
            boxes="cxcywh-relative",
            normalise=row.normalise,
            weights=model.weights,
        )
        versions = {
            package: importlib.metadata.version(package) for package in ("torch", "transformers")
        }
        packages = adopted.manifest.packages | versions
        manifest = replace(adopted.manifest, model=model, params=params, packages=packages)
        return write_artifact(path, adopted.path.read_bytes(), manifest)


def _foreign(
    name: str, path: Path, model: ModelId, checkpoint: Any, categories: Categories | None, nms: Nms
) -> Artifact:
    """Exported by another process, then adopted: suppression and masks go into the file.

    Random weights leave suppression nothing to do, so a stated number of candidates is injected.
    """
    foreign = importlib.import_module("baselines.foreign")
    row = _catalog().ROWS[name]
    with temporary_folder(path.parent) as scratch:
        work = Path(scratch, "export")
        work.mkdir()
        exported = foreign.export(row.foreign, row.build(0), work, checkpoint)
        options: dict[str, Any] = {
            "form": row.form,
            "normalise": row.normalise,
            "weights": model.weights,
            "nms": nms,
        }
        adopted = adopt(
            exported.path, Path(scratch, "adopted.onnx"), categories=categories, **options
        )
        packages = adopted.manifest.packages | exported.versions
        manifest = replace(adopted.manifest, model=model, params=exported.params, packages=packages)
        return write_artifact(path, adopted.path.read_bytes(), manifest)


MODELS = model_names()
