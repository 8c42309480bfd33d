"""How certain an AP is: its 95 % interval over other images of the same kind, and whether two APs
are distinguishable.

An AP on 150 images is a sample. Images are drawn again with replacement (bootstrap). APs of two
models on the same draws are paired, and their difference is far more certain than either AP.
Everything here is arithmetic on numbers that a Record keeps, so a table can mark distinguishable
rows without the images; :mod:`rfdetr_repro.evaluation.matches` computes the numbers.

Single APs: bias-corrected and accelerated quantiles (BCa; Efron 1987,
https://doi.org/10.2307/2289144), since an AP of few images is a little too high: its precision
envelope takes a maximum at every recall. Quantiles are Student's for as many images as carry the
AP, since normal quantiles cover too rarely where few images hold a class. Means over data sets
combine their parts' intervals (MOVER; Zou and Donner 2008, https://doi.org/10.1002/sim.3095).
Coverage by simulation: docs/ap_intervals.md.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its subpackages are loaded when they are used

from rfdetr_repro.spec.metrics import percent

from .record import Accuracy, Record

Array = np.ndarray[Any, Any]
CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 0
FEWEST = 10  # images; fewer images have no interval
_LEAST_FREEDOM = 4.0
_STEPS = 65535  # of the stored APs, 0.0015 points apart


@dataclass(frozen=True)
class Difference:
    """``mean`` is the second AP minus the first, as a fraction; ``low`` and ``high`` are its 95 %
    interval.
    """

    mean: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def student_levels(freedom: float) -> Array:
    """Positions of the interval's two ends on a standard normal axis, float64 (2,): quantiles of
    Student's distribution.
    """
    tail = (1 - CONFIDENCE) / 2
    return np.array(
        [scipy.special.stdtrit(freedom, tail), scipy.special.stdtrit(freedom, 1 - tail)]
    )


def degrees_of_freedom(influences: Array) -> float:
    """How many images carry the estimate with these influences, float64 (images,): (sum of
    squares)^2 / sum of fourth powers.

    The result is the number of images where all images matter alike, a third of it for normally
    distributed influences, and few where a class is on few images; at least 4.
    """
    squares = influences**2
    total = float((squares**2).sum())
    return max(_LEAST_FREEDOM, float(squares.sum()) ** 2 / total) if total > 0 else _LEAST_FREEDOM


def acceleration(influences: Array) -> float:
    """The acceleration of BCa, from influences, float64 (images,): how fast the standard error
    changes with the AP.
    """
    spread = float((influences**2).sum())
    return float((influences**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0


def bootstrap_interval(ap: float, resampled: Array, influences: Array) -> tuple[float, float]:
    """95 % interval of ``ap`` from the APs of its resamples, float64 (B,), and the influence of
    every image, float64 (images,).

    Where every resample has the same AP (nothing found anywhere, or all without an error), see
    :func:`of_equal_images`.
    """
    if np.ptp(resampled) == 0:
        return of_equal_images(ap, len(influences))
    below = float((resampled < ap).mean() + 0.5 * (resampled == ap).mean())
    margin = 0.5 / len(resampled)
    bias = float(scipy.special.ndtri(min(max(below, margin), 1 - margin)))
    shifted = bias + student_levels(degrees_of_freedom(influences))
    levels = scipy.special.ndtr(
        bias + shifted / np.maximum(1 - acceleration(influences) * shifted, 0.1)
    )
    low, high = np.quantile(resampled, levels)
    return around(ap, float(low), float(high))


def influence_interval(ap: float, influences: Array) -> tuple[float, float]:
    """The 95 % interval without draws: the standard error from every image's influence, float64
    (images,), symmetric in the log-odds of the AP.
    """
    images = len(influences)
    if not 0 < ap < 1:
        return of_equal_images(ap, images)
    error = math.sqrt(float((influences**2).sum()) * images / (images - 1)) / (ap * (1 - ap))
    odds = math.log(ap / (1 - ap))
    low, high = 1 / (1 + np.exp(-(odds + error * student_levels(degrees_of_freedom(influences)))))
    return around(ap, float(low), float(high))


def of_equal_images(ap: float, images: int) -> tuple[float, float]:
    """Interval of an AP that every image agrees on, since other images may still differ (Clopper
    and Pearson).

    At 0 none of ``images`` held a true positive, at 1 none held an error. The share of images that
    do is bounded, and the AP with that share.
    """
    share = 1 - ((1 - CONFIDENCE) / 2) ** (1 / images)
    return around(ap, ap - share, ap + share)


def around(ap: float, low: float, high: float) -> tuple[float, float]:
    """The interval within 0..1, with the AP itself inside."""
    return max(0.0, min(low, ap)), min(1.0, max(high, ap))


def difference(one: Accuracy | None, other: Accuracy | None) -> Difference | None:
    """What ``other`` gains over ``one``. ``None`` where an AP is absent, or where the two were not
    resampled alike on the same images.
    """
    return mean_difference([(one, other)])


def mean_difference(
    pairs: Sequence[tuple[Accuracy | None, Accuracy | None]],
) -> Difference | None:
    """The mean over pairs of what the second AP gains over the first, with its interval over
    images. ``None`` without pairs, where an AP is absent, or where not all APs were resampled alike
    on the same images.
    """
    means = []
    gains = []
    freedoms = []
    drawn = set()
    for one, other in pairs:
        if one is None or other is None or one.ap is None or other.ap is None:
            return None
        first = one.resampled
        second = other.resampled
        if first is None or second is None or first.aps is None or second.aps is None:
            return None
        drawn |= {first.draws_sha256, second.draws_sha256}
        means.append(other.ap - one.ap)
        gains.append(decode(second.aps) - decode(first.aps))
        freedoms += [first.freedom or _LEAST_FREEDOM, second.freedom or _LEAST_FREEDOM]
    if len(drawn) != 1 or None in drawn:
        return None
    gained = np.mean(gains, axis=0)
    low, high = np.quantile(gained, scipy.special.ndtr(student_levels(min(freedoms))))
    mean = sum(means) / len(means)
    return Difference(mean, min(float(low), mean), max(float(high), mean))


def paired(one: Record, other: Record, masks: bool = False) -> Difference | None:
    """:func:`difference` of two Records on the same images, of boxes or of masks."""
    if (
        one.data is None
        or other.data is None
        or one.data.sha256 is None
        or one.data.sha256 != other.data.sha256
    ):
        return None
    if (one.data.name, one.data.split) != (other.data.name, other.data.split):
        return None
    return (
        difference(one.mask_accuracy, other.mask_accuracy)
        if masks
        else difference(one.accuracy, other.accuracy)
    )


def mean_interval(parts: Sequence[Accuracy]) -> tuple[float, float] | None:
    """Interval of the mean AP over independent data sets from the intervals of the parts (MOVER);
    ``None`` if any interval is unknown.
    """
    aps = []
    lows = []
    highs = []
    for part in parts:
        if part.ap is None or part.ap_low is None or part.ap_high is None:
            return None
        aps.append(part.ap)
        lows.append(part.ap - part.ap_low)
        highs.append(part.ap_high - part.ap)
    if not aps:
        return None
    mean = sum(aps) / len(aps)
    return around(mean, mean - math.hypot(*lows) / len(aps), mean + math.hypot(*highs) / len(aps))


def with_range(accuracy: Accuracy) -> str:
    """AP in percent with its 95 % interval, like ``50.9 [48.1, 53.5]``. An unknown interval is left
    out, and "-" is an absent AP. ``0.0 (no detections)`` marks a model that found nothing at all.
    """
    if accuracy.ap is None:
        return "-"
    if accuracy.detections == 0:
        return f"{percent(accuracy.ap)} (no detections)"
    if accuracy.ap_low is None or accuracy.ap_high is None:
        return percent(accuracy.ap)
    return f"{percent(accuracy.ap)} [{percent(accuracy.ap_low)}, {percent(accuracy.ap_high)}]"


def encode(aps: Array) -> str:
    """APs of resamples, float64 (B,) in 0..1, as a Record keeps them."""
    return base64.b64encode(np.rint(np.clip(aps, 0, 1) * _STEPS).astype("<u2").tobytes()).decode(
        "ascii"
    )


def decode(text: str) -> Array:
    """Inverse of :func:`encode`, float64 (B,)."""
    return np.frombuffer(base64.b64decode(text), dtype="<u2").astype(np.float64) / _STEPS
