"""The detections that COCO's matching accepts, kept per image, so that AP of any resample of the
images is arithmetic.

Matching works image by image and does not change when images are left out, repeated or weighted;
only the accumulation over images changes. So a paired bootstrap matches once and accumulates many
times (protocol section 3 requires intervals; :mod:`rfdetr_repro.search.race` decides by them):
:class:`Resamples` accumulates all resamples at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from rfdetr_repro.records import ap_intervals
from rfdetr_repro.records.ap_intervals import RESAMPLES, SEED
from rfdetr_repro.records.record import AP_RULE, Accuracy, Resampled
from rfdetr_repro.spec.errors import InputError, LibraryNotBuilt

from .coco import IOU_THRESHOLDS, RECALL_THRESHOLDS, CocoEvaluator, ImageDetections

Array = np.ndarray[Any, Any]
THRESHOLDS = len(IOU_THRESHOLDS)
AT_50, AT_75 = (IOU_THRESHOLDS.index(threshold) for threshold in (0.5, 0.75))
_BITS = 1 << np.arange(THRESHOLDS, dtype=np.uint16)
_EPSILON = np.spacing(1)  # as in pycocotools' precision


@dataclass(frozen=True)
class Matches:
    """Detections of one model on some images, image by image; within an image and class by falling
    score.

    ``image``: place among the split's images by id, int32 (n,). ``label``: class index, int16 (n,).
    ``score``: float32 (n,). ``accepted`` and ``ignored``: uint16 (n,), with bit t set where the
    detection matches an object, or does not count, at IoU threshold t.
    """

    image: Array
    label: Array
    score: Array
    accepted: Array
    ignored: Array

    @classmethod
    def join(cls, parts: Iterable[Matches]) -> Matches:
        """Matches of disjoint images as one, in ascending order of image."""
        whole = [
            np.concatenate(columns)
            for columns in zip(*(part.columns() for part in parts), strict=True)
        ]
        order = np.argsort(whole[0], kind="stable")
        return cls(*(column[order] for column in whole))

    def columns(self) -> tuple[Array, ...]:
        """The five columns, in the order of the fields."""
        return self.image, self.label, self.score, self.accepted, self.ignored


@dataclass(frozen=True)
class Objects:
    """Number of objects to find: ``count`` int32 (images by id, classes), without crowd regions."""

    count: Array

    @classmethod
    def of(cls, evaluator: CocoEvaluator) -> Objects:
        """The objects of the evaluator's split."""
        split = evaluator.split
        column = {number: label for label, number in enumerate(split.classes.category_ids)}
        count = np.zeros((len(split), len(column)), dtype=np.int32)
        for annotation in split.ground_truth(segmentations=False)["annotations"]:
            if not annotation["iscrowd"]:
                count[
                    evaluator.places[annotation["image_id"]], column[annotation["category_id"]]
                ] += 1
        return cls(count)


def matches(
    evaluator: CocoEvaluator, detections: Sequence[ImageDetections], kind: str = "bbox"
) -> Matches:
    """COCO's matching of ``detections`` (at most one entry per image; other images are ignored);
    ``kind``: "bbox" or "segm".
    """
    return _gathered(evaluator.image_matches(detections, kind))


def accuracy_and_matches(
    evaluator: CocoEvaluator,
    detections: Sequence[ImageDetections],
    kind: str = "bbox",
    all_areas_only: bool = False,
    artifact_sha256: str | None = None,
) -> tuple[Accuracy, Matches]:
    """:meth:`.coco.CocoEvaluator.accuracy` and :func:`matches` of ``detections``, which are matched
    once for both.
    """
    accuracy, entries = evaluator.accuracy_with_matches(
        detections, kind, all_areas_only, artifact_sha256
    )
    return accuracy, _gathered(entries)


def _gathered(entries: Iterable[Mapping[str, Any]]) -> Matches:
    """Columns from entries of :meth:`.coco.CocoEvaluator.image_matches`, in any order."""
    parts: list[tuple[Array, ...]] = []
    for entry in entries:
        number = len(entry["dtScores"])
        if number:
            flags = [
                np.asarray(entry[name], dtype=np.uint16).reshape(THRESHOLDS, number)
                for name in ("dtMatched", "dtIgnore")
            ]
            packed = [(one * _BITS[:, None]).sum(0).astype(np.uint16) for one in flags]
            where = (
                np.full(number, entry["image_id"] - 1, np.int32),
                np.full(number, entry["category_id"] - 1, np.int16),
            )
            parts.append((*where, np.asarray(entry["dtScores"], dtype=np.float32), *packed))
    kinds = (np.int32, np.int16, np.float32, np.uint16, np.uint16)
    empty = [tuple(np.zeros(0, kind) for kind in kinds)]
    image, label, score, accepted, ignored = (
        np.concatenate(columns) for columns in zip(*(empty + parts), strict=True)
    )
    order = np.lexsort((label, image))  # stable, so that scores keep falling
    return Matches(image[order], label[order], score[order], accepted[order], ignored[order])


def average_precision(
    found: Matches, objects: Objects, images: Array, thresholds: Sequence[int]
) -> float | None:
    """AP over ``images`` (places, ascending) as COCO defines AP: 101 recalls, mean over
    ``thresholds`` and over classes with objects.

    None if no class has an object. Equal to :meth:`CocoEvaluator.accuracy` to the last bit (tests).
    """
    return _mean_precision(_precisions(found, objects, images, thresholds))


def _mean_precision(values: Array) -> float | None:
    valid = values[values > -1]
    return float(valid.mean()) if len(valid) else None


def _precisions(
    found: Matches, objects: Objects, images: Array, thresholds: Sequence[int]
) -> Array:
    """Precision by threshold, recall level and class, float64; -1 for classes without objects."""
    total = objects.count[images].sum(0)
    values = np.full((len(thresholds), len(RECALL_THRESHOLDS), len(total)), -1.0)
    recalls = np.array(RECALL_THRESHOLDS)
    bits = _BITS[list(thresholds)]
    inside = np.isin(found.image, images)
    for label in np.flatnonzero(total):
        accepted, ignored = _ranked(found, inside & (found.label == label))[1:]
        # no recall level reads what comes after the last detection that is accepted
        end = 1 + np.flatnonzero(accepted & np.bitwise_or.reduce(bits)).max(initial=-1)
        hit, miss = _flags(accepted[:end], ignored[:end], bits[:, None])
        true = np.cumsum(hit, axis=1, dtype=float)
        false = np.cumsum(miss, axis=1, dtype=float)
        precision = (true / (true + false + _EPSILON))[:, ::-1]
        precision = np.maximum.accumulate(precision, axis=1)[:, ::-1]
        for row, reached in enumerate(true / total[label]):
            places = np.searchsorted(reached, recalls, side="left")
            values[row, :, label] = np.append(precision[row], 0.0)[places]
    return values


def accuracy_of(found: Matches, objects: Objects, max_dets: int) -> Accuracy:
    """AP, AP50 and AP75 on the whole split, with the interval of AP by the images' influences,
    which costs about as much as AP; resampling would cost many times as much.

    Equal to :meth:`.coco.CocoEvaluator.accuracy` for all areas, to the last bit (tests).
    ``max_dets``: the evaluator's.
    """
    values = _precisions(found, objects, np.arange(len(objects.count)), range(THRESHOLDS))
    ap, ap50, ap75 = (_mean_precision(part) for part in (values, values[AT_50], values[AT_75]))
    accuracy = Accuracy(ap, ap50, ap75, max_dets=max_dets, rule=AP_RULE)
    return with_interval(accuracy, found, objects, resamples=0)


@dataclass(frozen=True)
class Resamples:
    """Resamples of a split's images, prepared once for the AP of any number of models.

    Made by :meth:`of`.
    """

    weights: Array  # float32 (images, B): how often each image by id was drawn
    objects: Array  # float32 (classes, B): objects of each class in each resample
    count: int  # number of resamples; B is 1 where all resamples are equal

    @classmethod
    def of(cls, objects: Objects, weights: Array) -> Resamples:
        """``weights``: whole numbers >= 0, (B, images): how often each image of the split by id was
        drawn. Raises :class:`InputError` for anything else.
        """
        drawn = np.asarray(weights)
        whole = (
            drawn.ndim == 2
            and drawn.shape[1] == len(objects.count)
            and len(drawn)
            and np.issubdtype(drawn.dtype, np.integer)
        )
        if not whole or drawn.min(initial=0) < 0:
            shape = f"resamples of {drawn.dtype} {drawn.shape}"
            raise InputError(
                shape, hint=f"give whole numbers >= 0 of shape (B, {len(objects.count)})"
            )
        if (drawn == drawn[0]).all():
            drawn = drawn[:1]
        # float64, so that BLAS computes the product, exactly
        there = drawn.astype(np.float64) @ objects.count.astype(np.float64)
        columns = [np.ascontiguousarray(part.T, dtype=np.float32) for part in (drawn, there)]
        return cls(columns[0], columns[1], len(weights))

    def average_precision(self, found: Matches, thresholds: Sequence[int]) -> Array:
        """AP of each resample, float64 (count,), as COCO defines AP: 101 recall levels, mean over
        ``thresholds`` and over the classes with an object in the resample; 0 where no class has an
        object.

        Equals, to 1e-6 (tests), the AP of a split with every image as often as it was drawn, unless
        two detections of an image and class have equal scores.
        """
        rows = np.flatnonzero(np.asarray(self.weights.any(axis=1))[found.image])
        # stable: of equal scores the earlier image first
        rows = rows[np.lexsort((-found.score[rows], found.label[rows]))]
        starts = np.searchsorted(found.label[rows], np.arange(len(self.objects) + 1)).astype(
            np.int64
        )
        columns = [
            np.ascontiguousarray(column[rows])
            for column in (found.image, found.accepted, found.ignored)
        ]
        try:
            sums = _kernel().level_sums(
                *columns, starts, self.weights, self.objects, list(thresholds)
            )
        except OverflowError as error:
            raise InputError(
                f"too many detections to resample ({error})", hint="resample fewer images"
            ) from error
        there = self.objects > 0
        classes = np.maximum(there.sum(axis=0), 1)
        values = (sums * there).sum(axis=0) / (classes * len(RECALL_THRESHOLDS) * len(thresholds))
        return np.broadcast_to(values, self.count).copy()


def resampled_ap(
    found: Matches, objects: Objects, weights: Array, thresholds: Sequence[int]
) -> Array:
    """AP of one model on each resample, float64 (B,). For several models on the same resamples use
    :class:`Resamples`.
    """
    return Resamples.of(objects, weights).average_precision(found, thresholds)


@cache
def _kernel() -> Any:
    try:
        return import_module("rfdetr_repro._resampled_ap")  # csrc/python/resampled_ap.cpp
    except ImportError as error:
        raise LibraryNotBuilt(
            f"the compiled module of resampled AP does not load ({error})"
        ) from error


def influences(
    found: Matches, objects: Objects, thresholds: Sequence[int] = range(THRESHOLDS)
) -> Array:
    """How much each image moves AP: float64 (images,), the derivative of AP by the image's weight,
    at weight 1.

    An image acts through its own hits, through the precision of every hit ranked above its hits and
    misses up to the envelope's maximum, and through the number of objects. The sum over images is
    0, since AP does not change when all weights grow alike.
    """
    images = len(objects.count)
    total = objects.count.sum(0)
    labels = np.flatnonzero(total)
    moved = np.zeros(images)
    for label in labels:
        image, accepted, ignored = _ranked(found, found.label == label)
        for threshold in thresholds:
            hit, miss = _flags(accepted, ignored, _BITS[threshold])
            gained, area = _class_influences(image, hit, miss, images)
            moved += gained / total[label] - area / total[label] ** 2 * objects.count[:, label]
    return moved / max(1, len(labels) * len(thresholds))


def _class_influences(image: Array, hit: Array, miss: Array, images: int) -> tuple[Array, float]:
    """Derivative of the area (in hits) of one class by each image's weight, and the area;
    detections by falling score.
    """
    if not len(hit):
        return np.zeros(images), 0.0
    seen = np.maximum(np.cumsum(hit | miss, dtype=float), 1e-9)
    precision = np.cumsum(hit, dtype=float) / seen
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ranks = np.arange(len(hit))
    # where the envelope is attained
    peak = np.minimum.accumulate(np.where(precision >= envelope, ranks, len(hit))[::-1])[::-1]
    share = np.bincount(peak, weights=hit, minlength=len(hit)) / seen
    # a further hit at a rank raises the precision at every peak below
    by_hit = np.cumsum(share[::-1])[::-1]
    by_any = np.cumsum((share * precision)[::-1])[::-1]
    gained = hit * (envelope + by_hit) - (hit | miss) * by_any
    return np.bincount(image, weights=gained, minlength=images), float((hit * envelope).sum())


@lru_cache(maxsize=4)
def draws(images: int, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[Array, str]:
    """How often each of ``images`` is drawn in each resample, uint16 (resamples, images), and 16
    digits of the SHA-256 of these numbers.

    The draws are equal for every model on the same number of images, so that resampled APs are
    paired.
    """
    counts = (
        np.random.default_rng(seed)
        .multinomial(images, np.full(images, 1 / images), resamples)
        .astype("<u2")
    )
    return counts, hashlib.sha256(counts.tobytes()).hexdigest()[:16]


def with_interval(
    accuracy: Accuracy,
    found: Matches,
    objects: Objects,
    resamples: int = RESAMPLES,
    thresholds: Sequence[int] = range(THRESHOLDS),
) -> Accuracy:
    """``accuracy`` with the 95 % interval of its AP, and with its resampled APs, which comparisons
    need.

    ``thresholds``: indices of the IoU thresholds that the AP averages. ``resamples`` 0 computes the
    interval from the influences of the images alone, about as fast as one AP, and without resampled
    APs. Without an AP, or on fewer than 10 images, the interval stays unknown.
    """
    images = len(objects.count)
    if accuracy.ap is None or images < ap_intervals.FEWEST:
        return accuracy
    moved = influences(found, objects, thresholds)
    freedom = round(ap_intervals.degrees_of_freedom(moved), 1)
    if not resamples:
        low, high = ap_intervals.influence_interval(accuracy.ap, moved)
        return replace(
            accuracy,
            ap_low=low,
            ap_high=high,
            resampled=Resampled("influence", images, freedom=freedom),
        )
    weights, digest = draws(images, resamples)
    resampled = resampled_ap(found, objects, weights, thresholds)
    low, high = ap_intervals.bootstrap_interval(accuracy.ap, resampled, moved)
    kept = Resampled(
        "bootstrap", images, resamples, SEED, freedom, digest, ap_intervals.encode(resampled)
    )
    return replace(accuracy, ap_low=low, ap_high=high, resampled=kept)


def measured(
    evaluator: CocoEvaluator,
    detections: Sequence[ImageDetections],
    kind: str = "bbox",
    artifact_sha256: str | None = None,
) -> Accuracy:
    """COCO metrics of ``detections`` with the interval of AP by 1000 resamples of the images, and
    the number of detections; ``kind``: "bbox" or "segm".
    """
    accuracy, found = accuracy_and_matches(
        evaluator, detections, kind, artifact_sha256=artifact_sha256
    )
    accuracy = replace(accuracy, detections=sum(len(image.scores) for image in detections))
    return with_interval(accuracy, found, Objects.of(evaluator))


def _ranked(found: Matches, chosen: Array) -> tuple[Array, Array, Array]:
    """Image, accepted and ignored of the chosen detections by falling score; of equal scores the
    earlier image first, as in COCO.
    """
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    return found.image[rows], found.accepted[rows], found.ignored[rows]


def _flags(accepted: Array, ignored: Array, bits: Array | np.uint16) -> tuple[Array, Array]:
    """Hits and misses of detections at the thresholds of ``bits``."""
    counted = (ignored & bits) == 0
    hit = (accepted & bits) != 0
    return hit & counted, ~hit & counted
