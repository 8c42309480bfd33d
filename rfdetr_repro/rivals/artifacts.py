"""Artifacts of trained models: a rival exported as its authors deploy it and adopted like any other
file, and architectures of a trained RF-DETR.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rfdetr_repro.baselines.baseline import ExportRequest, Size
from rfdetr_repro.baselines.exporting import export_module
from rfdetr_repro.data.coco import ClassMap
from rfdetr_repro.export.adopt.adoption import Categories
from rfdetr_repro.export.artifact import (
    Artifact,
    ArtifactMeta,
    has_manifest,
    load_artifact,
)
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.onnx.nms import STANDARD
from rfdetr_repro.model.checkpoints.container import read_container
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.files import read_json, writable_folder
from rfdetr_repro.spec.unfinished import temporary_folder

from .library import PACKAGE, deployed, from_config
from .trainer import CONFIG
from .training import Trained


def rival_artifact(
    size: Size, classes: ClassMap, done: Trained, seed: int, folder: Path
) -> Artifact:
    """The artifact of a trained rival in ``folder``; made unless the folder holds it."""
    path = writable_folder(folder) / f"{size.id}-seed{seed}-{done.sha256[:8]}.onnx"
    if path.is_file() and has_manifest(path):
        return load_artifact(path)
    model = from_config(size, read_json(done.model.parent / CONFIG))
    model.load_state_dict(read_container(done.model)["model"])
    identity = ModelId(
        size.family,
        size.name,
        size=size.size,
        variant=f"seed {seed}",
        checkpoint_sha256=done.sha256,
    )
    return _exported(size, classes, model, identity, path)


def try_export(size: Size, classes: ClassMap, model: torch.nn.Module) -> None:
    """Exports the untrained ``model``, which is altered, and removes the file. Raises what would
    stop the export after the training.
    """
    with temporary_folder() as folder:
        identity = ModelId(size.family, size.name, size=size.size, weights="random")
        _exported(size, classes, model, identity, Path(folder, "trial.onnx"))


def _exported(
    size: Size, classes: ClassMap, model: torch.nn.Module, identity: ModelId, path: Path
) -> Artifact:
    request = ExportRequest(
        path, identity, None, Categories(classes.category_ids, classes.names), STANDARD
    )
    return export_module(deployed(size, model), size, request, packages=(PACKAGE,))


def our_artifacts(
    weights: Path, size: str, archs: Sequence[Arch], seed: int, folder: Path
) -> list[Artifact]:
    """The artifacts of architectures of a trained RF-DETR in ``folder``; made unless the folder
    holds them. ``size``: as the rows of tables name the size.
    """
    detector, card, sha256 = load_supernet(weights)
    made = []
    for arch in archs:
        path = folder / f"rfdetr-{size}-{arch.key}-seed{seed}-{sha256[:8]}.onnx"
        if path.is_file() and has_manifest(path):
            made.append(load_artifact(path))
            continue
        identity = ModelId(
            "rfdetr", "RF-DETR", size=size, variant=f"seed {seed}", checkpoint_sha256=sha256
        )
        meta = ArtifactMeta(identity, card.class_names, card.category_ids, card.resize_rule)
        made.append(export_onnx(detector.slice(arch), path, meta=meta))
    return made
