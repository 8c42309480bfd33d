"""Precision, recall and F1 of each class against the score, and the score with the highest F1; see
:mod:`.diagnosis` for the definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .hits import Hits, as_score

Array = np.ndarray[Any, Any]
_DECIMALS = 6  # of numbers in JSON


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
            name: rounded(getattr(self, name)[label, place])
            for name in ("precision", "recall", "f1")
        }

    def curves(self, label: int) -> dict[str, list[float | None]]:
        """Precision, recall and F1 of a class at all thresholds."""
        return {
            name: rounded_all(getattr(self, name)[label]) for name in ("precision", "recall", "f1")
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


def rounded(value: Any) -> float | None:
    """A number for JSON; None for NaN."""
    return None if np.isnan(value) else round(float(value), _DECIMALS)


def rounded_all(values: Array) -> list[float | None]:
    """:func:`rounded` of each value."""
    return [rounded(value) for value in values]
