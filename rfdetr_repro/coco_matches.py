"""Which detections COCO's matching accepts, kept per image, so that AP of any resample of the images is arithmetic.

Matching is done image by image and does not change when images are left out, repeated or weighted; only the accumulation over
images does. A paired bootstrap therefore matches once and accumulates as often as it likes (protocol section 3 asks for
intervals; :mod:`rfdetr_repro.search.race` decides by them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .coco_eval import IOU_THRESHOLDS, RECALL_THRESHOLDS, CocoEvaluator, ImageDetections

Array = np.ndarray[Any, Any]
THRESHOLDS = len(IOU_THRESHOLDS)
_BITS = 1 << np.arange(THRESHOLDS, dtype=np.uint16)
_EPSILON = np.spacing(1)  # as in pycocotools' precision


@dataclass(frozen=True)
class Matches:
    """Detections of one model on some images, image by image; within an image and class by falling score.

    ``image``: place among the split's images by id, int32 (n,). ``label``: class index, int16 (n,). ``score``: float32 (n,).
    ``accepted`` and ``ignored``: uint16 (n,), bit t set where the detection matches an object, or counts neither way, at IoU
    threshold t.
    """

    image: Array
    label: Array
    score: Array
    accepted: Array
    ignored: Array

    @classmethod
    def join(cls, parts: Iterable[Matches]) -> Matches:
        """Of disjoint images, in ascending order of image."""
        whole = [np.concatenate(columns) for columns in zip(*(part.columns() for part in parts), strict=True)]
        order = np.argsort(whole[0], kind="stable")
        return cls(*(column[order] for column in whole))

    def columns(self) -> tuple[Array, ...]:
        return self.image, self.label, self.score, self.accepted, self.ignored


@dataclass(frozen=True)
class Objects:
    """What is to be found: ``count`` int32 (images by id, classes), crowd regions left out."""

    count: Array

    @classmethod
    def of(cls, evaluator: CocoEvaluator) -> Objects:
        split = evaluator.split
        column = {number: label for label, number in enumerate(split.classes.category_ids)}
        count = np.zeros((len(split), len(column)), dtype=np.int32)
        for annotation in split.ground_truth()["annotations"]:
            if not annotation["iscrowd"]:
                count[evaluator.places[annotation["image_id"]], column[annotation["category_id"]]] += 1
        return cls(count)


def matches(evaluator: CocoEvaluator, detections: Sequence[ImageDetections], kind: str = "bbox") -> Matches:
    """COCO's matching of ``detections`` (at most one entry per image; other images are not looked at); ``kind``: bbox or segm."""
    parts: list[tuple[Array, ...]] = []
    for entry in evaluator.image_matches(detections, kind):
        number = len(entry["dtScores"])
        if number:
            flags = [np.asarray(entry[name], dtype=np.uint16).reshape(THRESHOLDS, number) for name in ("dtMatched", "dtIgnore")]
            packed = [(one * _BITS[:, None]).sum(0).astype(np.uint16) for one in flags]
            where = np.full(number, entry["image_id"] - 1, np.int32), np.full(number, entry["category_id"] - 1, np.int16)
            parts.append((*where, np.asarray(entry["dtScores"], dtype=np.float32), *packed))
    kinds = (np.int32, np.int16, np.float32, np.uint16, np.uint16)
    empty = [tuple(np.zeros(0, kind) for kind in kinds)]
    image, label, score, accepted, ignored = (np.concatenate(columns) for columns in zip(*(empty + parts), strict=True))
    order = np.lexsort((label, image))  # stable: falling scores stay so
    return Matches(image[order], label[order], score[order], accepted[order], ignored[order])


def average_precision(found: Matches, objects: Objects, images: Array, thresholds: Sequence[int]) -> float | None:
    """AP over ``images`` (places, ascending) as COCO defines it: 101 recalls, mean over classes with objects and ``thresholds``.

    None if no class has an object. Equal to :meth:`CocoEvaluator.accuracy` to the last bit (tests).
    """
    total = objects.count[images].sum(0)
    values = np.full((len(thresholds), len(RECALL_THRESHOLDS), len(total)), -1.0)
    recalls = np.array(RECALL_THRESHOLDS)
    inside = np.isin(found.image, images)
    for label in np.flatnonzero(total):
        accepted, ignored = _ranked(found, inside & (found.label == label))[1:]
        for row, threshold in enumerate(thresholds):
            hit, miss = _flags(accepted, ignored, threshold)
            true, false = np.cumsum(hit, dtype=float), np.cumsum(miss, dtype=float)
            precision = np.maximum.accumulate((true / (true + false + _EPSILON))[::-1])[::-1]
            places = np.searchsorted(true / total[label], recalls, side="left")
            values[row, :, label] = np.append(precision, 0.0)[np.minimum(places, len(precision))]
    valid = values[values > -1]
    return float(valid.mean()) if len(valid) else None


def resampled_ap(found: Matches, objects: Objects, weights: Array, thresholds: Sequence[int]) -> Array:
    """AP of each resample: float64 (B,). ``weights``: how often each image of the split was drawn, (B, images).

    The area under the precision envelope itself, not its 101 samples; the difference is below 1/101 of a class's AP and much the
    same for every model, and vanishes in their comparison. Classes without objects in a resample are left out of its mean.
    """
    drawn = np.asarray(weights.any(axis=0))[found.image]
    total = weights @ objects.count  # (B, classes)
    area, weights = np.zeros((len(weights), total.shape[1])), weights.astype(np.float32)
    for label in np.flatnonzero(total.any(axis=0)):
        image, accepted, ignored = _ranked(found, drawn & (found.label == label))
        if not len(image):
            continue
        of_image = weights[:, image]
        for threshold in thresholds:
            hit, miss = _flags(accepted, ignored, threshold)
            gained = of_image * hit
            true = np.cumsum(gained, axis=1)
            ratio = true / np.maximum(true + np.cumsum(of_image * miss, axis=1), 1e-9)
            envelope = np.maximum.accumulate(ratio[:, ::-1], axis=1)[:, ::-1]
            area[:, label] += (gained * envelope).sum(1)
    with np.errstate(invalid="ignore"):
        per_class = area / total / len(thresholds)
    return np.nan_to_num(np.nanmean(np.where(total > 0, per_class, np.nan), axis=1))


def _ranked(found: Matches, chosen: Array) -> tuple[Array, Array, Array]:
    """Image, accepted and ignored of the chosen detections by falling score; of equals the earlier image first, as in COCO."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    return found.image[rows], found.accepted[rows], found.ignored[rows]


def _flags(accepted: Array, ignored: Array, threshold: int) -> tuple[Array, Array]:
    counted = (ignored & _BITS[threshold]) == 0
    hit = (accepted & _BITS[threshold]) != 0
    return hit & counted, ~hit & counted
