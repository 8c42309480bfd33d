"""What a training run starts with: a preset, with masks where the data have masks, and the initial
weights: a DINOv2 encoder, a released or transformers file, or the model of an earlier stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from rfdetr_repro.data.coco import ClassMap, CocoSplit
from rfdetr_repro.model.checkpoints.backbone_folders import BackboneFolder, detector_with
from rfdetr_repro.model.checkpoints.pretrained import (
    UNNAMED,
    load_pretrained,
    model_masks,
    with_classes,
    with_queries,
    without_masks,
)
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.backbones import name_of
from rfdetr_repro.spec.labels import Labels
from rfdetr_repro.spec.presets import Preset
from rfdetr_repro.spec.sizing import Sizing


@dataclass(frozen=True)
class Start:
    """A preset adapted to a data set and initial weights, with the sentences that state the
    changes.
    """

    preset: Preset
    initial: dict[str, Tensor] | None  # parameters of the detector on the CPU; None: random
    boxes_only: str  # why masks are left out; empty where masks are trained
    taken: str  # which weights the run starts from; empty for random weights


@dataclass(frozen=True)
class Backbone:
    """Weights of a backbone to start with, if any, and the seed of all other weights."""

    folder: BackboneFolder | None = None
    seed: int = 0


NO_BACKBONE = Backbone()


def boxes_only(split: CocoSplit) -> str:
    """Why a model with masks would train on boxes alone; empty if every object has a mask."""
    why = split.why_no_masks()
    return f"{why}: training boxes only" if why else ""


def start_of(
    preset: Preset,
    split: CocoSplit,
    weights: str | Path | None,
    sizing: Sizing | None = None,
    backbone: Backbone = NO_BACKBONE,
) -> Start:
    """What a run on ``split`` starts with.

    Masks are left out where an object of the split lacks a mask. ``weights``: a DINOv2 encoder, a
    released or transformers file, or an earlier run's model, whose shapes replace those of
    ``preset``; None: random weights. ``sizing``: settings that follow the data, in place of those
    of preset and file; queries are added by the rule of :func:`.pretrained.with_queries`.
    ``backbone``: a folder whose backbone replaces that of ``preset``, without ``weights``. Raises
    :class:`InputError` for a file or folder that does not fit.
    """
    why_boxes = ""
    if preset.model.masks and not split.has_masks:
        preset = replace(preset, model=replace(preset.model, masks=False))
        why_boxes = boxes_only(split)
    if weights is None:
        row = preset if sizing is None else sizing.preset(preset)
        if backbone.folder is not None:
            row, initial, taken = _start_with(backbone.folder, backbone.seed, row, split.classes)
            return Start(row, initial, why_boxes, taken)
        return Start(row, None, why_boxes, "")
    preset, initial, taken = start_from(weights, preset, split.classes)
    if sizing is not None:
        preset, initial, taken = _sized(preset, initial, taken, sizing)
    return Start(preset, initial, why_boxes, taken)


def _start_with(
    folder: BackboneFolder, seed: int, row: Preset, classes: ClassMap
) -> tuple[Preset, dict[str, Tensor], str]:
    """The preset with the backbone of a folder, weights with heads for ``classes``, and a line
    that states what was taken.
    """
    row = replace(row, model=replace(row.model, num_classes=len(classes.names)))
    detector, row, _ = detector_with(row, folder, seed)
    taken = (
        f"backbone {name_of(row.model)} from {folder.path.name} ({folder.sha256[:12]}), everything "
        f"else from random weights"
    )
    return row, cpu_weights(detector), taken


def _sized(
    preset: Preset, initial: dict[str, Tensor], taken: str, sizing: Sizing
) -> tuple[Preset, dict[str, Tensor], str]:
    """The same start with the settings of ``sizing``: no other weight changes its shape."""
    row = sizing.preset(preset)
    stored = preset.model.queries
    if sizing.queries is None or sizing.queries <= stored:
        row = replace(row, model=replace(row.model, queries=stored))
        return row, initial, taken
    detector = Detector(preset.model, preset.arch)
    detector.load_state_dict(initial)
    added = cpu_weights(with_queries(detector, sizing.queries))
    return row, added, f"{taken}, its {stored} queries repeated to {sizing.queries}"


def start_from(
    path: str | Path, row: Preset, classes: ClassMap
) -> tuple[Preset, dict[str, Tensor], str]:
    """The preset with the file's own shapes, weights with heads for ``classes``, and a line that
    states what was taken.

    From a model with masks everything except the mask head is taken where ``row`` has no masks.
    Where the file's classes are those of the data the heads are taken unchanged, else their rows
    are repeated. Raises :class:`InputError` for a file of other widths than ``row``.
    """
    has_masks = replace(row, model=replace(row.model, masks=True))
    drops_masks = not row.model.masks and model_masks(path)
    detector, card, digest = load_pretrained(path, has_masks if drops_masks else row, UNNAMED)
    if drops_masks:
        detector = without_masks(detector)
    same = (card.class_names, card.category_ids) == (classes.names, classes.category_ids)
    if not same:
        detector = with_classes(detector, Labels(classes.names, classes.category_ids))
    heads = (
        "its own classes"
        if same
        else f"heads for {len(classes.names)} classes from its {len(card.class_names)}"
    )
    taken = f"starting from {Path(path).name} ({digest[:12]}), {heads}"
    return (
        replace(row, model=detector.config),
        cpu_weights(detector),
        taken,
    )


def cpu_weights(detector: Detector) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU, for a :class:`.run.TrainRequest`."""
    return {name: tensor.cpu() for name, tensor in detector.state_dict().items()}
