"""The confusion matrix of boxes or masks at a score; see :mod:`.diagnosis` for the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hotcoco.mask
import numpy as np

from rfdetr_repro.data.segmentation import rle_of

from .coco import CocoEvaluator, ImageDetections
from .hits import IOU, Hits

Array = np.ndarray[Any, Any]


def confusion(
    evaluator: CocoEvaluator,
    detections: Sequence[ImageDetections],
    kind: str,
    found: Hits,
    threshold: float,
) -> Array:
    """The confusion matrix, int64 (classes + 1, classes + 1); see the module's definitions."""
    matrix = np.zeros((found.classes + 1, found.classes + 1), dtype=np.int64)
    background = found.classes
    right = found.shown(threshold) & found.hit
    np.add.at(matrix, (found.label[right], found.label[right]), 1)
    wrong = np.flatnonzero(found.shown(threshold) & ~found.hit)
    missed = np.flatnonzero(found.missed(threshold))
    shapes = _Shapes(evaluator, detections, kind)
    wrong_of = _by_image(found.image, wrong)
    missed_of = _by_image(found.object_image, missed)
    paired_wrong: list[int] = []
    paired_missed: list[int] = []
    for image in wrong_of.keys() & missed_of.keys():
        ours, theirs = wrong_of[image], missed_of[image]
        order = ours[np.argsort(-found.score[ours], kind="stable")]
        ious = shapes.ious(image, order, found.row[theirs])
        for row, column in _pairs(ious):
            paired_wrong.append(int(order[row]))
            paired_missed.append(int(theirs[column]))
    np.add.at(matrix, (found.object_label[paired_missed], found.label[paired_wrong]), 1)
    left = np.setdiff1d(missed, paired_missed)
    matrix[:, background] += np.bincount(found.object_label[left], minlength=background + 1)
    extra = np.setdiff1d(wrong, paired_wrong)
    matrix[background] += np.bincount(found.label[extra], minlength=background + 1)
    return matrix


def _by_image(image: Array, rows: Array) -> dict[int, Array]:
    if not len(rows):
        return {}
    order = rows[np.argsort(image[rows], kind="stable")]
    numbers, starts = np.unique(image[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


def _pairs(ious: Array) -> list[tuple[int, int]]:
    """Pairs (row, column) of an IoU of at least 0.5, the best first; every row and column at most
    once, of equal IoUs the earlier row first.
    """
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(ious >= IOU)
    order = np.argsort(-ious[rows, columns], kind="stable")
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    return pairs


class _Shapes:
    """IoUs of detections and objects, of their boxes or of their masks."""

    def __init__(
        self, evaluator: CocoEvaluator, detections: Sequence[ImageDetections], kind: str
    ) -> None:
        self.split = evaluator.split
        self.masks = kind == "segm"
        empty = [np.zeros((0, 4))]
        self.boxes = np.concatenate(
            empty + [np.reshape(one.boxes_xyxy, (-1, 4)) for one in detections]
        )
        self.rles = [rle for one in detections for rle in one.masks_rle or ()]

    def ious(self, image: int, rows: Array, objects: Array) -> Array:
        """IoUs of the detections ``rows`` and the rows ``objects`` of the split's table, float64
        (detections, objects).
        """
        table = self.split.table
        if self.masks:
            info = self.split.images[image]
            theirs = [
                rle_of(table.segmentations.readable(row), info.height, info.width)
                for row in objects.tolist()
            ]
            ours = [self.rles[row] for row in rows.tolist()]
            return np.asarray(hotcoco.mask.iou(ours, theirs, [False] * len(theirs)))
        truth = table.boxes_xywh[objects]
        return box_ious(self.boxes[rows], np.c_[truth[:, :2], truth[:, :2] + truth[:, 2:]])


def box_ious(ours: Array, theirs: Array) -> Array:
    """IoU of every box of ``ours`` (n, 4) and ``theirs`` (m, 4), xyxy: float64 (n, m)."""
    ours = np.asarray(ours, dtype=np.float64)[:, None]
    theirs = np.asarray(theirs, dtype=np.float64)[None]
    low = np.maximum(ours[..., :2], theirs[..., :2])
    high = np.minimum(ours[..., 2:], theirs[..., 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=-1)
    sizes = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (ours, theirs)]
    whole = sizes[0] + sizes[1] - inner
    return np.divide(inner, whole, out=np.zeros_like(inner), where=whole > 0)
