"""Work items of the search, a backbone group each, and what evaluates them: in this process or on a
worker elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rfdetr_repro.data.annotations import ClassMap
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections, images_by_id
from rfdetr_repro.evaluation.matches import THRESHOLDS, Matches, Objects, matches, with_interval
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops.device import to_device
from rfdetr_repro.records.record import Accuracy
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

from .shared import shared_detections

Accuracies = dict[Arch, dict[str, Accuracy]]  # of each configuration, by kind
Parts = dict[Arch, dict[str, Matches]]
KINDS = ("bbox", "segm")


@dataclass(frozen=True)
class Goal:
    """What the search maximises: the AP of one kind, a mean over some IoU thresholds (their
    indices).
    """

    metric: str
    kind: str
    thresholds: tuple[int, ...]


_ALL = tuple(range(THRESHOLDS))
GOALS = {
    goal.metric: goal
    for goal in (
        Goal("ap", "bbox", _ALL),
        Goal("ap50", "bbox", (0,)),
        Goal("mask_ap", "segm", _ALL),
        Goal("mask_ap50", "segm", (0,)),
    )
}


def goal(metric: str) -> Goal:
    if metric not in GOALS:
        raise InputError(f"unknown metric {metric!r}", hint=f"choose one of {', '.join(GOALS)}")
    return GOALS[metric]


@dataclass(frozen=True)
class Whole:
    """Accuracy of configurations of one backbone on the whole split."""

    archs: tuple[Arch, ...]


@dataclass(frozen=True)
class Part:
    """Matches of configurations of one backbone on the images at ``places`` (by id, see
    :mod:`..coco_matches`).
    """

    archs: tuple[Arch, ...]
    places: tuple[int, ...]


class GroupEvaluation:
    """Evaluates items of one supernet and one split; ``masks``: mask AP too."""

    def __init__(self, detector: Detector, split: CocoSplit, masks: bool) -> None:
        self.detector = detector
        self.split = split
        self.kinds = KINDS if masks else KINDS[:1]
        self.evaluator = CocoEvaluator(split)
        self.objects = Objects.of(self.evaluator)
        self._by_id = images_by_id(split)

    def __call__(self, item: Whole | Part) -> Accuracies | Parts:
        return (
            self.accuracies(item.archs)
            if isinstance(item, Whole)
            else self.matches(item.archs, item.places)
        )

    def accuracies(self, archs: Sequence[Arch]) -> Accuracies:
        found = shared_detections(self.detector, self.split, archs, masks="segm" in self.kinds)
        return {
            arch: {kind: self._accuracy(found[arch], kind) for kind in self.kinds} for arch in archs
        }

    def _accuracy(self, detections: Sequence[ImageDetections], kind: str) -> Accuracy:
        """With an interval by influences: about the cost of the AP itself, where resamples would
        cost hundreds of times that.
        """
        accuracy = self.evaluator.accuracy(detections, kind, all_areas_only=True)
        return with_interval(
            accuracy, matches(self.evaluator, detections, kind), self.objects, resamples=0
        )

    def matches(self, archs: Sequence[Arch], places: Sequence[int]) -> Parts:
        indices = [self._by_id[place] for place in places]
        found = shared_detections(
            self.detector, self.split, archs, masks="segm" in self.kinds, indices=indices
        )
        return {
            arch: {kind: matches(self.evaluator, found[arch], kind) for kind in self.kinds}
            for arch in archs
        }


@dataclass(frozen=True)
class EvaluationSource:
    """How another process comes to the same :class:`GroupEvaluation`: by paths that it can read,
    checked by SHA-256.
    """

    checkpoint: Path
    checkpoint_sha256: str
    data: DataSource
    split_sha256: str
    masks: bool
    threads: int = 1
    device: str = "cpu"

    def load(self) -> tuple[Detector, ModelCard, CocoSplit]:
        torch.set_num_threads(self.threads)
        detector, card, digest = load_supernet(self.checkpoint)
        split = read_split(self.data, "val", ClassMap(card.category_ids, card.class_names))
        seen = [
            (self.checkpoint, digest, self.checkpoint_sha256),
            (self.data, split.sha256, self.split_sha256),
        ]
        for where, found, expected in seen:
            if found != expected:
                told = f"a worker sees another file ({found[:12]}, the search {expected[:12]})"
                raise InputError(told, where, "share one folder")
        return to_device(detector, self.device), card, split

    def __call__(self) -> GroupEvaluation:
        detector, _, split = self.load()
        return GroupEvaluation(detector, split, self.masks)
