"""Which detections COCO's matching at IoU 0.5 accepts, and which objects it finds: the columns that
precision, recall and F1, the confusion matrix and the worst images are computed from.

COCO matches the detections of an image and class by falling score, so a detection below a threshold
never changes the match of a detection above it: one matching serves every threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .coco import IOU_THRESHOLDS, CocoEvaluator, ImageDetections

Array = np.ndarray[Any, Any]
IOU = 0.5  # smallest IoU of a detection and the object that it finds
_AT = IOU_THRESHOLDS.index(IOU)
NOT_FOUND = -1.0


@dataclass(frozen=True)
class Hits:
    """The matching of one model on one split, for boxes or for masks.

    Detections, in the order of the list that was matched: ``image`` index in the split int64 (n,),
    ``label`` int64 (n,), ``score`` float64 (n,), ``hit`` bool (n,): finds an object; ``counts``
    bool (n,): false for a detection on a crowd region and for one beyond COCO's limit per image and
    class.

    Objects, in the order of the split's table, without crowd regions: ``row`` of the table int64
    (m,), ``object_image`` int64 (m,), ``object_label`` int64 (m,), ``found_at`` float64 (m,): score
    of the detection that finds the object, or -1 where no detection does.
    """

    images: int
    classes: int
    image: Array
    label: Array
    score: Array
    hit: Array
    counts: Array
    row: Array
    object_image: Array
    object_label: Array
    found_at: Array

    @property
    def objects(self) -> Array:
        """Number of objects of each class, int64 (classes,)."""
        return np.bincount(self.object_label, minlength=self.classes)

    @property
    def present(self) -> Array:
        """Classes that have an object, int64, ascending."""
        return np.flatnonzero(self.objects)

    def shown(self, threshold: float) -> Array:
        """Whether each detection counts and has a score of at least ``threshold``, bool (n,)."""
        return self.counts & (self.score >= as_score(threshold))

    def missed(self, threshold: float) -> Array:
        """Whether no detection with a score of at least ``threshold`` finds each object, bool
        (m,).
        """
        return self.found_at < as_score(threshold)


def as_score(threshold: float) -> float:
    """The threshold as a model's score, which has the precision of float32: a score that is printed
    as 0.9 reaches a threshold of 0.9.
    """
    return float(np.float32(threshold))


def hits(
    evaluator: CocoEvaluator, detections: Sequence[ImageDetections], kind: str, entries: Any
) -> Hits:
    """The columns of ``entries``, COCO's matching of ``detections`` for objects of every size.

    ``kind``: "bbox" or "segm"; ``entries``: see :meth:`.coco.CocoEvaluator.curves`.
    """
    split = evaluator.split
    table = split.table
    index_of = {info.id: index for index, info in enumerate(split.images)}
    lengths = [len(one.scores) for one in detections]
    image = np.repeat([index_of[one.image_id] for one in detections], lengths).astype(np.int64)
    label = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in detections)])
    score = np.concatenate([np.zeros(0), *(one.scores for one in detections)])
    hit, counts, found_at = _flags(entries, len(score), len(table.ids))
    rows = np.flatnonzero(~table.crowd)
    of_image = np.repeat(np.arange(len(split)), np.diff(table.first))
    return Hits(
        len(split),
        len(split.classes),
        image,
        label.astype(np.int64),
        score.astype(np.float64),
        hit,
        counts,
        rows,
        of_image[rows],
        table.labels[rows].astype(np.int64),
        found_at[rows],
    )


def _flags(
    entries: Iterable[Mapping[str, Any]], detections: int, annotations: int
) -> tuple[Array, Array, Array]:
    """``hit`` and ``counts`` of every detection and ``found_at`` of every annotation; ids in
    ``entries`` are 1 + the place.
    """
    hit = np.zeros(detections, dtype=bool)
    counts = np.zeros(detections, dtype=bool)
    found_at = np.full(annotations, NOT_FOUND)
    for entry in entries:
        places = np.asarray(entry["dtIds"], dtype=np.int64) - 1
        if not len(places):
            continue
        matched = np.asarray(entry["dtMatched"][_AT], dtype=bool)
        counted = ~np.asarray(entry["dtIgnore"][_AT], dtype=bool)
        counts[places] = counted
        hit[places] = matched & counted
        targets = np.asarray(entry["dtMatches"][_AT], dtype=np.int64)[matched & counted] - 1
        found_at[targets] = np.asarray(entry["dtScores"], dtype=np.float64)[matched & counted]
    return hit, counts, found_at
