"""What a model does well and badly on a split: AP of each class and size, precision, recall and F1
against the score, the best threshold, a confusion matrix and the worst images.

Definitions:

- AP is COCO's, to the last bit. A class or size without an object has no AP.
- A detection is right if COCO's matching at IoU 0.5 gives it an object of its class. Precision is
  the share of the detections at or above a threshold that are right, recall the share of the
  objects that they find, and F1 = 2 x right / (detections + objects). Detections on crowd regions
  count neither as right nor as wrong.
- A class without an object has no precision, recall or F1, and is not part of a mean. The mean of
  the precision leaves out classes without a detection at the threshold.
- The best threshold has the highest mean F1 over the classes.
- Confusion matrix: detections that are right are on the diagonal. Then the objects that are left
  and the detections that are left are paired, best IoU first, where the IoU is at least 0.5. What
  remains is background. So a row adds up to the objects of its class, and a column to the
  detections of its class.
- The worst images have the most missed objects plus wrong detections, the latter weighted by their
  score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import hotcoco.mask
import numpy as np

from rfdetr_repro.data.segmentation import rle_of

from .coco import AREAS_PX2, IOU_THRESHOLDS, RECALL_THRESHOLDS, CocoEvaluator, ImageDetections
from .hits import IOU, Hits, as_score, hits

Array = np.ndarray[Any, Any]
GRID = np.linspace(0.0, 1.0, 201)  # scores of the curves against the score
MOST_WORST = 12  # images that are listed as the worst
_DECIMALS = 6  # of numbers in JSON
_50 = IOU_THRESHOLDS.index(IOU)
RULES = {
    "right": "COCO's matching at IoU 0.5 gives the detection an object of its class; detections on "
    "crowd regions are not counted",
    "mean": "over the classes that have an object",
    "threshold": "highest mean F1 over the classes",
    "confusion": "rows: class of the object; columns: class of the detection; the last of each is "
    "background; right detections first, then the objects and detections that are left, best IoU "
    "first, at IoU 0.5 or more",
    "worst": "missed objects, plus wrong detections weighted by their score",
}


@dataclass(frozen=True)
class Threshold:
    """A score threshold, and where it comes from.

    ``score``: in 0..1; None: unknown, because no detection of the split finds an object.
    ``chosen_on``: split that it was chosen on; None: given by the user.
    """

    score: float | None
    chosen_on: str | None = None

    def origin(self, evaluated: str) -> str:
        """A sentence for a threshold that is used on the split ``evaluated``."""
        if self.score is None:
            where = self.chosen_on or evaluated
            return f"No threshold is known: no detection on {where} finds an object at IoU {IOU}."
        if self.chosen_on is None:
            return f"Threshold {self.score:g}, as given."
        text = f"Threshold {self.score:g}, with the highest mean F1 on {self.chosen_on}"
        if self.chosen_on == evaluated:
            return (
                f"{text}, the split that is evaluated: precision, recall and F1 are optimistic. "
                f"Choose it on another split with --threshold-split."
            )
        return f"{text}, and used on {evaluated}."


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of boxes or masks on one split.

    ``precision``: COCO's precision, see :meth:`.coco.CocoEvaluator.curves`. ``confusion``: int64
    (classes + 1, classes + 1), or None without a threshold. ``badness``: float64 (images,), or None
    without a threshold.
    """

    evaluator: CocoEvaluator
    kind: str
    detections: Sequence[ImageDetections]
    found: Hits
    precision: Array
    threshold: Threshold
    confusion: Array | None
    badness: Array | None

    def worst(self, most: int = MOST_WORST) -> list[int]:
        """Indices of the images with errors, the worst first, at most ``most``."""
        if self.badness is None:
            return []
        order = np.argsort(-self.badness, kind="stable")[:most]
        return [int(index) for index in order if self.badness[index] > 0]

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON: fractions in 0..1, None for what is unknown."""
        split = self.evaluator.split
        return {
            "iou": IOU,
            "rules": RULES,
            "threshold": asdict(self.threshold)
            | {
                "evaluated_on": split.split,
                "says": self.threshold.origin(split.split),
            },
            "mean": self._means(),
            "classes": self._classes(),
            "sizes": self._sizes(),
            "pr_curves": self._pr_curves(),
            "score_curves": self._score_curves(),
            "confusion": None
            if self.confusion is None
            else {
                "labels": [*split.classes.names, "background"],
                "matrix": self.confusion.tolist(),
            },
            "worst": self._worst_rows(),
        }

    def _classes(self) -> list[dict[str, Any]]:
        split = self.evaluator.split
        found = self.found
        pairs = np.unique(np.stack([found.object_label, found.object_image]), axis=1)
        images = np.bincount(pairs[0], minlength=found.classes)
        at = self.threshold.score
        shares = None if at is None else Shares.at(found, np.array([at]))
        best = best_thresholds(found)
        rows = []
        for label, (number, name) in enumerate(
            zip(split.classes.category_ids, split.classes.names, strict=True)
        ):
            row = {
                "category_id": number,
                "name": name,
                "images": int(images[label]),
                "objects": int(found.objects[label]),
                **self._aps(label),
                "precision": None,
                "recall": None,
                "f1": None,
                "best_threshold": best[label],
            }
            if shares is not None:
                row |= shares.row(label, 0)
                row["detections"] = int(shares.detections[label, 0])
                row["right"] = int(shares.right[label, 0])
            rows.append(row)
        return rows

    def _aps(self, label: int) -> dict[str, float | None]:
        whole = self.precision[:, :, label]
        sizes = {f"ap_{name[0]}": _mean(whole[:, :, area]) for area, name in _sizes()}
        return {"ap": _mean(whole[..., 0]), "ap50": _mean(whole[_50, :, 0]), **sizes}

    def _means(self) -> dict[str, float | None]:
        found = {"ap": _mean(self.precision[..., 0]), "ap50": _mean(self.precision[_50, ..., 0])}
        if self.threshold.score is None:
            return found | {"precision": None, "recall": None, "f1": None}
        shares = Shares.at(self.found, np.array([self.threshold.score]))
        means = shares.means()
        return found | {name: _number(values[0]) for name, values in means.items()}

    def _sizes(self) -> list[dict[str, Any]]:
        """COCO's sizes; an object whose area is on a limit belongs to both sizes, as in COCO."""
        areas = self.evaluator.split.table.area[self.found.row]
        at = self.threshold.score
        rows = []
        for place, name in _sizes():
            low, high = AREAS_PX2[name]
            here = (areas >= low) & (areas <= high)
            found = None if at is None or not here.any() else ~self.found.missed(at)[here]
            rows.append(
                {
                    "size": name,
                    "from_px2": low,
                    "to_px2": high if high < AREAS_PX2["all"][1] else None,
                    "objects": int(here.sum()),
                    "ap": _mean(self.precision[:, :, :, place]),
                    "ap50": _mean(self.precision[_50, :, :, place]),
                    "recall": None if found is None else _number(found.mean()),
                }
            )
        return rows

    def _pr_curves(self) -> dict[str, Any]:
        curves = self.precision[_50, :, :, 0]  # (101, classes)
        known = curves[:, self.found.present]
        return {
            "recall": _numbers(np.array(RECALL_THRESHOLDS)),
            "mean": _numbers(known.mean(1)) if known.shape[1] else None,
            "classes": [
                _numbers(curves[:, label]) if label in set(self.found.present.tolist()) else None
                for label in range(self.found.classes)
            ],
        }

    def _score_curves(self) -> dict[str, Any]:
        shares = Shares.at(self.found, GRID)
        mean = {name: _numbers(values) for name, values in shares.means().items()}
        classes = [
            shares.curves(label) if self.found.objects[label] else None
            for label in range(self.found.classes)
        ]
        return {"score": _numbers(GRID), "mean": mean, "classes": classes}

    def _worst_rows(self) -> list[dict[str, Any]]:
        at = self.threshold.score
        if at is None:
            return []
        found = self.found
        missed = found.missed(at)
        wrong = found.shown(at) & ~found.hit
        rows = []
        for index in self.worst():
            info = self.evaluator.split.images[index]
            objects = found.object_image == index
            here = wrong & (found.image == index)
            rows.append(
                {
                    "image_id": info.id,
                    "file": info.path.name,
                    "objects": int(objects.sum()),
                    "missed": int((missed & objects).sum()),
                    "wrong": int(here.sum()),
                    "wrong_scores": _number(found.score[here].sum()),
                }
            )
        return rows


def diagnose(
    evaluator: CocoEvaluator,
    detections: Sequence[ImageDetections],
    kind: str = "bbox",
    threshold: Threshold | None = None,
) -> Diagnosis:
    """The diagnosis of ``detections``; ``kind``: "bbox" or "segm"; ``threshold`` None: the best on
    this split.

    Raises :class:`~rfdetr_repro.spec.errors.InputError` for detections that do not fit the split.
    """
    precision, entries = evaluator.curves(detections, kind)
    found = hits(evaluator, detections, kind, entries)
    if threshold is None:
        threshold = Threshold(best_threshold(found), evaluator.split.split)
    at = threshold.score
    confused = None if at is None else confusion(evaluator, detections, kind, found, at)
    bad = None if at is None else badness(found, at)
    return Diagnosis(evaluator, kind, detections, found, precision, threshold, confused, bad)


@dataclass(frozen=True)
class Shares:
    """Counts of each class at each threshold: ``right`` and ``detections`` int64 (classes,
    thresholds), ``objects`` int64 (classes,).
    """

    right: Array
    detections: Array
    objects: Array

    @classmethod
    def at(cls, found: Hits, thresholds: Array) -> Shares:
        """The counts of detections with a score of at least each threshold (ascending)."""
        shape = (found.classes, len(thresholds))
        thresholds = np.array([as_score(one) for one in thresholds])
        kept = found.counts
        counts = {}
        for name, rows in (("right", kept & found.hit), ("detections", kept)):
            # number of thresholds that a detection reaches
            reached = np.searchsorted(thresholds, found.score[rows], side="right")
            table = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
            np.add.at(table, (found.label[rows], reached), 1)
            counts[name] = table[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
        return cls(counts["right"], counts["detections"], found.objects)

    @property
    def precision(self) -> Array:
        """float64 (classes, thresholds); NaN without a detection or an object."""
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = self.right / self.detections
        return np.where(self.objects[:, None] > 0, shares, np.nan)

    @property
    def recall(self) -> Array:
        """float64 (classes, thresholds); NaN without an object."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.right / self.objects[:, None]

    @property
    def f1(self) -> Array:
        """float64 (classes, thresholds); NaN without an object."""
        whole = self.detections + self.objects[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = 2 * self.right / whole
        return np.where(self.objects[:, None] > 0, shares, np.nan)

    def means(self) -> dict[str, Array]:
        """Means over the classes with an object, float64 (thresholds,) each; NaN where no class has
        the number.
        """
        found = {}
        for name in ("precision", "recall", "f1"):
            values = getattr(self, name)
            known = ~np.isnan(values)
            with np.errstate(invalid="ignore", divide="ignore"):
                found[name] = np.where(known, values, 0.0).sum(0) / known.sum(0)
        return found

    def row(self, label: int, place: int) -> dict[str, float | None]:
        """Precision, recall and F1 of a class at one threshold."""
        return {
            name: _number(getattr(self, name)[label, place])
            for name in ("precision", "recall", "f1")
        }

    def curves(self, label: int) -> dict[str, list[float | None]]:
        """Precision, recall and F1 of a class at all thresholds."""
        return {
            name: _numbers(getattr(self, name)[label]) for name in ("precision", "recall", "f1")
        }


def best_threshold(found: Hits) -> float | None:
    """The threshold with the highest mean F1 over the classes that have an object; of equal
    thresholds the highest. None if no detection finds an object.

    Between two scores every threshold does the same; the one with the fewest digits is returned.
    """
    steps = _F1Steps.of(found)
    order = np.argsort(-steps.score, kind="stable")
    score = steps.score[order]
    # each detection moves the mean by what it adds to the F1 of its class
    total = steps.gained[order].cumsum()
    last = np.r_[score[1:] != score[:-1], True]  # equal scores pass a threshold together
    if not len(score) or not total.max() > 0:
        return None
    best = int(np.argmax(np.where(last, np.round(total, 12), -1.0)))
    below = found.score[found.score < score[best]]
    return _shortest(float(below.max(initial=0.0)), float(score[best]))


def best_thresholds(found: Hits) -> list[float | None]:
    """The threshold with the highest F1 of each class; None for a class of which no detection finds
    an object.
    """
    steps = _F1Steps.of(found)
    ends = np.searchsorted(steps.label, np.arange(found.classes + 1))
    bests: list[float | None] = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        score = steps.score[start:end]
        f1 = np.where(np.r_[score[1:] != score[:-1], True][: len(score)], steps.f1[start:end], -1)
        if not f1.max(initial=-1.0) > 0:
            bests.append(None)
            continue
        best = int(np.argmax(f1))
        below = float(score[best + 1]) if best + 1 < len(score) else 0.0
        bests.append(_shortest(below, float(score[best])))
    return bests


@dataclass(frozen=True)
class _F1Steps:
    """Detections of the classes with an object, by class and falling score: F1 of the class with
    this detection as the last, and what the detection adds to it.
    """

    label: Array
    score: Array
    f1: Array
    gained: Array

    @classmethod
    def of(cls, found: Hits) -> _F1Steps:
        objects = found.objects
        rows = np.flatnonzero(found.counts & (objects[found.label] > 0))
        rows = rows[np.lexsort((-found.score[rows], found.label[rows]))]
        label = found.label[rows]
        first = np.r_[True, label[1:] != label[:-1]][: len(rows)]
        # of each row the first row of its class
        starts = np.flatnonzero(first)[np.cumsum(first) - 1]
        right = found.hit[rows].cumsum()
        right = right - (right - found.hit[rows])[starts]
        f1 = 2 * right / (np.arange(len(rows)) - starts + 1 + objects[label])
        before = np.r_[0.0, f1][: len(rows)]
        return cls(label, found.score[rows], f1, f1 - np.where(first, 0.0, before))


def _shortest(low: float, high: float) -> float:
    """The number with the fewest decimals in (low, high]."""
    for digits in range(1, 12):
        value = np.floor(high * 10**digits) / 10**digits
        if low < as_score(value) <= high:
            return float(value)
    return high


def badness(found: Hits, threshold: float) -> Array:
    """Missed objects plus the scores of wrong detections, float64 (images,)."""
    missed = np.bincount(found.object_image[found.missed(threshold)], minlength=found.images)
    wrong = found.shown(threshold) & ~found.hit
    scores = np.bincount(found.image[wrong], found.score[wrong], minlength=found.images)
    return missed + scores


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


def _sizes() -> list[tuple[int, str]]:
    """The sizes below "all" with their places in ``AREAS_PX2``."""
    return [(place, name) for place, name in enumerate(AREAS_PX2) if name != "all"]


def _mean(values: Array) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else round(float(value), _DECIMALS)


def _numbers(values: Array) -> list[float | None]:
    return [_number(value) for value in values]
