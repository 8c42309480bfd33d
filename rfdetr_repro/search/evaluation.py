"""Accuracy of configurations, shared exactly (docs/search.md): work items of the search, a group of
one backbone each, and what evaluates the items, in this process or on a worker elsewhere.

Configurations that differ only in decoder depth and query count share the backbone, the two-stage
selection and one decoder pass; each still gets the same numbers as its own sliced subnet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.loader import Making, evaluation_batches
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.data.transfer import batches_on
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections, images_by_id
from rfdetr_repro.evaluation.matches import (
    THRESHOLDS,
    Matches,
    Objects,
    accuracy_of,
)
from rfdetr_repro.evaluation.predict_split import BATCH, detections_of, device_of
from rfdetr_repro.evaluation.shared_matches import SharedMatcher
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops.device import available_bytes, to_device
from rfdetr_repro.records.record import Accuracy
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

log = logging.getLogger(__name__)

# bytes of decoded pictures that a search, or each of its workers, keeps in memory at most; less
# where a quarter of the available memory is less
CACHE = 8 << 30
WORKERS_CACHE = 1 << 30

Accuracies = dict[Arch, dict[str, Accuracy]]  # accuracy of each configuration, by kind
Parts = dict[Arch, dict[str, Matches]]
KINDS = ("bbox", "segm")


@dataclass(frozen=True)
class Goal:
    """The metric that the search maximises: box or mask AP, averaged over some IoU thresholds,
    given by their indices.
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
    """The goal of a metric's name; raises :class:`InputError` for an unknown metric."""
    if metric not in GOALS:
        raise InputError(f"unknown metric {metric!r}", hint=f"choose one of {', '.join(GOALS)}")
    return GOALS[metric]


@dataclass(frozen=True)
class Whole:
    """A work item: accuracy of configurations with one backbone on the whole split."""

    archs: tuple[Arch, ...]


@dataclass(frozen=True)
class Part:
    """A work item: matches of configurations with one backbone on the images at ``places``,
    numbered in order of image id (:mod:`rfdetr_repro.evaluation.matches`).
    """

    archs: tuple[Arch, ...]
    places: tuple[int, ...]


class GroupEvaluation:
    """Evaluates work items of one supernet on one split."""

    def __init__(self, detector: Detector, split: CocoSplit, masks: bool) -> None:
        """``masks``: evaluate mask AP too."""
        self.detector = detector
        self.split = split
        self.kinds = KINDS if masks else KINDS[:1]
        self.evaluator = CocoEvaluator(split)
        self.objects = Objects.of(self.evaluator)
        self.matcher = SharedMatcher(self.evaluator)
        self._by_id = images_by_id(split)

    def __call__(self, item: Whole | Part) -> Accuracies | Parts:
        """The result of a work item."""
        return (
            self.accuracies(item.archs)
            if isinstance(item, Whole)
            else self.matches(item.archs, item.places)
        )

    def accuracies(self, archs: Sequence[Arch]) -> Accuracies:
        """Accuracy of each configuration on the whole split, by kind; ``archs`` must share one
        backbone.
        """
        everything = self._matches(archs, None)
        return {
            arch: {
                kind: accuracy_of(found, self.objects, self.evaluator.max_dets)
                for kind, found in of_kind.items()
            }
            for arch, of_kind in everything.items()
        }

    def matches(self, archs: Sequence[Arch], places: Sequence[int]) -> Parts:
        """Matches of each configuration on the images at ``places``, by kind; ``archs`` must share
        one backbone.
        """
        return self._matches(archs, [self._by_id[place] for place in places])

    def _matches(self, archs: Sequence[Arch], indices: Sequence[int] | None) -> Parts:
        found = shared_detections(
            self.detector, self.split, archs, masks="segm" in self.kinds, indices=indices
        )
        of_kind = {kind: self.matcher.matches(found, kind) for kind in self.kinds}
        return {arch: {kind: of_kind[kind][arch] for kind in self.kinds} for arch in archs}


@dataclass(frozen=True)
class EvaluationSource:
    """How another process makes the same :class:`GroupEvaluation`: from paths that it can read,
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
        """The supernet, its card and the split; raises :class:`InputError` if a file differs from
        the driver's.
        """
        torch.set_num_threads(self.threads)
        detector, card, digest = load_supernet(self.checkpoint)
        split = read_split(self.data, "val", ClassMap(card.category_ids, card.class_names))
        seen = [
            (self.checkpoint, digest, self.checkpoint_sha256),
            (self.data, split.sha256, self.split_sha256),
        ]
        for where, found, expected in seen:
            if found != expected:
                message = (
                    f"the file of a worker ({found[:12]}) differs from the file of the search "
                    f"({expected[:12]})"
                )
                raise InputError(message, where, "give all machines the same folder")
        return to_device(detector, self.device), card, split

    def __call__(self) -> GroupEvaluation:
        """Loads model and split in a worker."""
        detector, _, split = self.load()
        keep_pictures(split, WORKERS_CACHE)
        return GroupEvaluation(detector, split, self.masks)


@torch.inference_mode()
def shared_detections(
    detector: Detector,
    split: CocoSplit,
    archs: Sequence[Arch],
    *,
    masks: bool,
    indices: Sequence[int] | None = None,
) -> dict[Arch, list[ImageDetections]]:
    """Detections of all ``archs``, which must share one backbone, from one pass over the split, or
    over its images at ``indices``.
    """
    if len({arch.backbone for arch in archs}) != 1:
        raise ValueError("these architectures do not share a backbone")
    first = archs[0]
    depths = [arch.decoder_layers for arch in archs]
    queries = [arch.queries for arch in archs]
    found: dict[Arch, list[ImageDetections]] = {arch: [] for arch in archs}
    infos_left = iter(
        split.images if indices is None else [split.images[index] for index in indices]
    )
    device = device_of(detector)
    making = Making(pinned=device.type == "cuda")
    batches = evaluation_batches(split, first.input_hw, BATCH, indices, making=making)
    for batch in batches_on(device, batches):
        infos = list(islice(infos_left, len(batch.images)))
        maps = detector.features(batch.images, first.patch, first.windows)
        outputs = detector.decode_shared(maps, first.input_hw, depths, queries, masks=masks)
        for arch in archs:
            found[arch] += detections_of(
                outputs[arch.decoder_layers, arch.queries], infos, arch.queries, masks=masks
            )
    return found


def keep_pictures(split: CocoSplit, most: int = CACHE) -> None:
    """Keeps the decoded pictures of a split in memory, up to ``most`` bytes, because every backbone
    of a search reads all of them; says so where not all fit.
    """
    limit = min(most, WORKERS_CACHE)
    with suppress(InputError):  # a system that does not state its available memory
        limit = min(most, available_bytes(torch.device("cpu")) // 4)
    if not split.cache_images(limit):
        log.info(
            f"{limit / 2**30:.1f} GiB of decoded pictures stay in memory, of "
            f"{split.decoded_bytes / 2**30:.1f} GiB; the others are decoded once per backbone"
        )


def by_backbone(archs: Iterable[Arch]) -> Iterator[list[Arch]]:
    """Groups of architectures that share a backbone pass, in order of first appearance."""
    groups: dict[tuple[int, ...], list[Arch]] = {}
    for arch in archs:
        groups.setdefault(arch.backbone, []).append(arch)
    yield from groups.values()
