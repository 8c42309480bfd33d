"""The parts of a training run: the splits of a data set, masks where the data have masks, and the
initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from rfdetr_repro.data.coco import ClassMap, CocoSplit, has_split, read_split
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.spec.presets import Preset

from .start import start_from


@dataclass(frozen=True)
class Start:
    """A preset adapted to a data set and initial weights, with the sentences that state the
    changes.
    """

    preset: Preset
    initial: dict[str, Tensor] | None  # parameters of the detector on the CPU; None: random
    boxes_only: str  # why masks are left out; empty where masks are trained
    taken: str  # which weights the run starts from; empty for random weights


def read_splits(source: DataSource, held_out: Sequence[str] = ("val",)) -> dict[str, CocoSplit]:
    """The train split of a data set, which must exist, and the existing splits of ``held_out``."""
    train = read_split(source, "train")
    return {"train": train, **read_held_out(source, train.classes, held_out)}


def read_held_out(
    source: DataSource, classes: ClassMap, names: Sequence[str]
) -> dict[str, CocoSplit]:
    """The existing splits of ``names``, with the labels of the train split."""
    return {name: read_split(source, name, classes) for name in names if has_split(source, name)}


def boxes_only(split: CocoSplit) -> str:
    """Why a model with masks would train on boxes alone; empty if every object has a mask."""
    why = split.why_no_masks()
    return f"{why}: training boxes only" if why else ""


def start_of(preset: Preset, split: CocoSplit, weights: str | Path | None) -> Start:
    """What a run on ``split`` starts with.

    Masks are left out where an object of the split lacks a mask. ``weights``: a DINOv2 encoder, a
    released or transformers file, or an earlier run's model, whose shapes replace those of
    ``preset``; None: random weights. Raises :class:`InputError` for a file that does not fit.
    """
    without_masks = ""
    if preset.model.masks and not split.has_masks:
        preset = replace(preset, model=replace(preset.model, masks=False))
        without_masks = boxes_only(split)
    if weights is None:
        return Start(preset, None, without_masks, "")
    preset, initial, taken = start_from(weights, preset, split.classes)
    return Start(preset, initial, without_masks, taken)
