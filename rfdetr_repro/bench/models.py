"""Models by name, as artifacts to measure: ours from its presets, other people's from
``rfdetr_repro.baselines``.

An artifact is made once and found again by its file name, which holds a hash of its origin: model,
weights, categories, source code, versions. Weights are random unless a checkpoint is named, and the
manifest states which; artifacts with random weights give latencies, never accuracies.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from rfdetr_repro.baselines import catalog, package
from rfdetr_repro.baselines.baseline import ExportRequest
from rfdetr_repro.baselines.catalog import Entry
from rfdetr_repro.export.adopt.adoption import Categories
from rfdetr_repro.export.artifact import Artifact, ArtifactMeta, load_artifact, manifest_path
from rfdetr_repro.export.onnx.nms import STANDARD, Nms
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import sha256_file, writable_folder
from rfdetr_repro.spec.labels import Labels, coco_labels
from rfdetr_repro.spec.presets import PRESETS, SIZE_LETTERS
from rfdetr_repro.spec.resize_rules import ANTIALIASED
from rfdetr_repro.spec.unfinished import remove_abandoned_folders

PACKAGES = ("torch", "onnx", "onnxscript", "transformers")
SEED = 0


def model_names() -> tuple[str, ...]:
    """Every name that :func:`model_artifact` accepts on this machine."""
    return (*(f"rfdetr-{size}" for size in PRESETS), *catalog.entries())


def known_name(name: str) -> str:
    """The catalogue's name for a name with the paper's size letter (``lwdetr-s`` is
    ``lwdetr-small``); else ``name`` itself.
    """
    keys: dict[str, str] = {}
    for known, row in catalog.entries().items():
        letters = f"{row.size.family}-{row.size.size}{'-seg' * row.size.masks}".lower()
        keys.setdefault(letters, known)  # a plug-in of the same family does not take the name
    return name if name in model_names() else keys.get(name.lower(), name)


def model_id(name: str, weights: str = "random") -> ModelId:
    """Family, printed name and size, as in the paper's tables; raises :class:`InputError` for an
    unknown name.
    """
    name = known_name(name)
    if name not in model_names():
        raise catalog.unknown("model", name, model_names())
    preset = name.removeprefix("rfdetr-")
    if preset in PRESETS:
        row = PRESETS[preset]
        letter = SIZE_LETTERS.get(preset.removeprefix("seg-"), preset.removeprefix("seg-"))
        shown, task = ("RF-DETR-Seg", "segment") if row.model.masks else ("RF-DETR", "detect")
        return ModelId("rfdetr", shown, task, letter, arch=row.arch, weights=weights)
    size = catalog.entry(name).size
    task = "segment" if size.masks else "detect"
    return ModelId(size.family, size.name, task, size.size, weights=weights)


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
    """The artifact of model ``name`` in ``folder``, whose graph ends in ranked detections; made
    unless the folder already holds it.

    ``to``: "onnx", or "torch" for a file that PyTorch runs; a number of images of every run may
    follow, as in "onnx 8". Only RF-DETR's models can be had for PyTorch or for several images.

    ``checkpoint``: for RF-DETR any file that :func:`load_pretrained` reads, for a baseline a
    safetensors file with transformers' names. ``categories``: ids and names of the classes of a
    baseline's weights. ``inject``: number of candidates above the score threshold for a model with
    random weights that ends with suppression (default 100; other models have no candidates).
    ``suppression``: its kind, from ``rfdetr_repro.export.onnx.nms.KINDS``. ``labels``: the meaning
    of the labels of an RF-DETR checkpoint whose file does not state the meaning, as in
    :func:`load_pretrained`. Raises :class:`InputError` for an unknown name and for a combination
    that does not exist.
    """
    name = known_name(name)
    model = model_id(name, "random" if checkpoint is None else "trained")
    digest = None if checkpoint is None else sha256_file(checkpoint)
    model = replace(model, checkpoint_sha256=digest)
    ours = name.removeprefix("rfdetr-") in PRESETS
    if labels is not None and not ours:
        raise InputError(
            f"labels are for RF-DETR's checkpoints, and {name} uses the classes of the data",
            hint="leave the labels out",
        )
    to, _, images = to.partition(" ")
    batch = int(images or 1)
    if batch != 1 and not ours:
        raise InputError(
            f"{name} is exported for one image at a time, not for {batch}",
            hint="leave --batch out for this model",
        )
    entry = None if ours else catalog.entry(name)
    suppressed = entry is not None and entry.baseline.suppression
    if suppressed and checkpoint is None and inject is None:
        inject = package.INJECTED
    decided = {
        "inject": inject if suppressed else None,
        "suppression": suppression if suppressed else None,
        "labels": labels,
        "batch": None if batch == 1 else batch,
        "plug-in": entry.fingerprint or None if entry else None,
    }
    made = _made_by(name, digest, categories, decided)
    path = writable_folder(folder) / f"{name}-{made}.{_suffix(entry, to)}"
    remove_abandoned_folders(folder)
    if path.is_file() and manifest_path(path).is_file():
        return load_artifact(path)
    if entry is None:
        return _ours(path, model, name=name, checkpoint=checkpoint, given=labels, batch=batch)
    nms = Nms(inject=inject, kind=suppression) if suppressed else STANDARD
    weights = None if checkpoint is None else Path(checkpoint)
    provider = {entry.distribution: entry.version} if entry.is_plug_in else {}
    return _theirs(entry, ExportRequest(path, model, weights, categories, nms, provider))


def _suffix(entry: Entry | None, to: str) -> str:
    """Of the artifact's file; ``entry`` is None for a model of ours."""
    if entry is not None:
        return "recipe" if entry.baseline.torch_only else "onnx"
    return "safetensors" if to == "torch" else "onnx"


def _made_by(
    name: str,
    checkpoint_sha256: str | None,
    categories: Categories | None,
    decided: Mapping[str, Any],
) -> str:
    """12 hexadecimal digits, a hash of everything that determines the file's content, including the
    items of ``decided`` that are not None.
    """
    versions = {}
    for distribution in PACKAGES:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[distribution] = "none"
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
    """Hash of the source code that builds and exports models."""
    root = Path(__file__).parents[1]
    folders = [root / name for name in ("model", "export", "spec", "baselines")]
    kinds = ("*.py", "*.toml")
    files = [file for folder in folders for kind in kinds for file in sorted(folder.rglob(kind))]
    files.append(Path(__file__))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _ours(
    path: Path,
    model: ModelId,
    *,
    name: str,
    checkpoint: Any,
    given: str | Sequence[str] | None,
    batch: int,
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
        batch=batch,
    )


def _theirs(entry: Entry, request: ExportRequest) -> Artifact:
    """Exported by the baseline, or a recipe where no file can be made of the model."""
    reason = entry.baseline.torch_only
    if not reason:
        return _exported(entry, request)
    if request.checkpoint is not None:
        raise InputError(
            f"{entry.size.id} is measured with random weights only: {reason}",
            hint="leave --checkpoint out",
        )
    from .starred import write_recipe

    return write_recipe(entry, request)


def _exported(entry: Entry, request: ExportRequest) -> Artifact:
    """What the baseline wrote; a plug-in that did not write what was asked for is a failure, and
    nothing of it stays.
    """
    if not entry.is_plug_in:
        return entry.baseline.export(entry.size, request)
    path = request.path
    try:
        catalog.guarded(entry, lambda: entry.baseline.export(entry.size, request))
        if not path.is_file() or not manifest_path(path).is_file():
            raise StatedFailure(f"{entry.size.id} of {entry.provider} failed: it wrote no artifact")
        written = load_artifact(path)
        if written.manifest.model != request.model:
            told = "its manifest is of another model"
            raise StatedFailure(f"{entry.size.id} of {entry.provider} failed: {told}")
    except (InputError, StatedFailure):
        path.unlink(missing_ok=True)
        manifest_path(path).unlink(missing_ok=True)
        raise
    return written


def __getattr__(name: str) -> Any:
    """``MODELS`` was a constant until version 0.2."""
    if name == "MODELS":
        warnings.warn("MODELS is now model_names(); it goes with 0.3", DeprecationWarning, 2)
        return model_names()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
