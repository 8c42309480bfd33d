"""Builds a part of the benchmark: every architecture of a space on one split, with the weights of
one training seed (docs/nasbench.md).

One pass per backbone serves all its decoders, as in a search, and the matches of all decoders are
made at once. Each backbone is stored when it is done; a build that was stopped goes on there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import THRESHOLDS, Matches, Objects, average_precision
from rfdetr_repro.evaluation.shared_matches import SharedMatcher
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.nasbench.columns import FORMAT, KINDS, UNREADABLE, Part, Ranked, ranked
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError, first_line
from rfdetr_repro.spec.files import atomic_path, sha256_bytes

from .evaluation import by_backbone, keep_pictures, shared_detections

log = logging.getLogger(__name__)
Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class BuildRequest:
    """What to build: ``checkpoint`` is a supernet's file, ``training`` says how it was trained,
    ``work`` is the folder that keeps finished backbones.
    """

    checkpoint: Path
    data: DataSource
    split: str
    space: SearchSpace
    seed: int
    training: str
    work: Path

    def __call__(self, progress: Progress = iter) -> Part:
        """The part; raises :class:`InputError` before any pass where the weights or the data do not
        fit the space.
        """
        detector, card, digest = load_supernet(self.checkpoint)
        check_weights(card, self.space, self.checkpoint)
        split = read_split(self.data, self.split, ClassMap(card.category_ids, card.class_names))
        if why := split.why_no_mask_ap():
            raise InputError(f"masks cannot be evaluated: {why}", self.data, "give masks")
        about = {
            "format": FORMAT,
            "seed": self.seed,
            "split": self.split,
            "space": {name: list(axis) for name, axis in asdict(self.space).items()},
            "training": self.training,
            "checkpoint_sha256": digest,
            "split_sha256": split.sha256,
            "classes": list(split.classes.names),
        }
        keep_pictures(split)
        return build(detector, split, self.space, about, self.work, progress)


def check_weights(card: ModelCard, space: SearchSpace, checkpoint: Path) -> None:
    """Raises :class:`InputError` unless the weights can run every architecture of the space."""
    config = card.config
    most = (max(space.decoder_layers), max(space.queries))
    if most[0] > config.decoder_layers or most[1] > config.queries:
        raise InputError(
            f"the space asks for {most[0]} decoder layers and {most[1]} queries, the weights have "
            f"{config.decoder_layers} and {config.queries}",
            checkpoint,
            "give the weights of a larger supernet, or a smaller space",
        )
    if not config.masks:
        raise InputError("these weights predict no masks", checkpoint, "train with masks")


def build(
    detector: Detector,
    split: CocoSplit,
    space: SearchSpace,
    about: Mapping[str, Any],
    work: Path,
    progress: Progress = iter,
) -> Part:
    """The part of ``about`` from a detector and a split; finished backbones are kept in ``work``
    under the digest of ``about``.
    """
    evaluator = CocoEvaluator(split)
    objects = Objects.of(evaluator)
    matcher = SharedMatcher(evaluator)
    folder = work / sha256_bytes(repr(sorted(about.items())).encode())[:16]
    found: dict[Arch, tuple[Ranked, list[float]]] = {}
    for group in progress(list(by_backbone(space))):
        path = folder / f"{'-'.join(map(str, group[0].backbone))}.npz"
        if not path.exists():
            _store(path, evaluated(detector, split, matcher, objects, group), group)
        found |= _stored(path, group)
    archs = list(space)
    accuracy = np.array([found[arch][1] for arch in archs])
    return Part.of(about, objects.count, accuracy, [found[arch][0] for arch in archs])


def evaluated(
    detector: Detector,
    split: CocoSplit,
    matcher: SharedMatcher,
    objects: Objects,
    group: Sequence[Arch],
) -> dict[Arch, tuple[Ranked, list[float]]]:
    """Ranked matches, and AP of boxes and of masks on the whole split, of each architecture of
    ``group``, which share a backbone.
    """
    detections = shared_detections(detector, split, group, masks=True)
    found = {kind: matcher.matches(detections, kind) for kind in KINDS}
    return {arch: ranked_of([found[kind][arch] for kind in KINDS], objects) for arch in group}


def ranked_of(found: Sequence[Matches], objects: Objects) -> tuple[Ranked, list[float]]:
    """Ranked matches and AP from the matches of boxes and of masks of the same detections."""
    boxes, masks = found
    if boxes.ignored.any() or masks.ignored.any():
        raise InputError(
            "the split has crowd regions, which the benchmark's format does not hold",
            hint="give a split without crowd regions",
        )
    same = zip(boxes.columns()[:3], masks.columns()[:3], strict=True)
    if not all(np.array_equal(one, other) for one, other in same):
        raise AssertionError("boxes and masks come from different detections")
    everything = np.arange(len(objects.count))
    accuracy = [average_precision(one, objects, everything, range(THRESHOLDS)) for one in found]
    if None in accuracy:
        raise InputError("the split has no objects", hint="give annotations")
    classes = objects.count.shape[1]
    columns = (boxes.label, boxes.image, boxes.score, boxes.accepted, masks.accepted)
    return ranked(*columns, classes), [float(ap) for ap in accuracy if ap is not None]


def _store(
    path: Path, found: Mapping[Arch, tuple[Ranked, list[float]]], group: Sequence[Arch]
) -> None:
    columns = {
        "counts": np.array([found[arch][0].counts for arch in group]),
        "place": np.concatenate([found[arch][0].place for arch in group]),
        "pattern": np.concatenate([found[arch][0].pattern for arch in group]),
        "ap": np.array([found[arch][1] for arch in group]),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **columns)  # type: ignore[arg-type]


def _stored(path: Path, group: Sequence[Arch]) -> dict[Arch, tuple[Ranked, list[float]]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in ("counts", "place", "pattern", "ap")}
        ends = np.append(0, np.cumsum(columns["counts"].sum(1)))
        return {
            arch: (
                Ranked(
                    columns["counts"][row],
                    columns["place"][ends[row] : ends[row + 1]],
                    columns["pattern"][ends[row] : ends[row + 1]],
                ),
                columns["ap"][row].tolist(),
            )
            for row, arch in enumerate(group)
        }
    except UNREADABLE as error:
        raise InputError(
            f"not a finished backbone ({first_line(error)})", path, "remove this file"
        ) from error
