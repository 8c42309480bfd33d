"""Intervals over trainings with several seeds: of a mean, and of the difference of two means.

The unit of observation is a training. Such an interval tells what other seeds would give on the
same images; what other images would give is told by the interval of each AP (:mod:`.ap_intervals`).
Differences are Welch's, because two methods need not vary alike. No interval is stated for fewer
than two trainings, nor where all trainings give the same number. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its subpackages are loaded when they are used

CONFIDENCE = 0.95


class Seeded(NamedTuple):
    """A mean, or a difference of means, with the ends of its 95 % interval; None where there is no
    interval, and ``told`` says why.
    """

    value: float
    low: float | None = None
    high: float | None = None
    told: str = ""

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0: no difference is shown."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def within(self, least: float, most: float) -> Seeded:
        """The same with the interval cut to the values from ``least`` to ``most``, outside of which
        the mean cannot lie: Student's interval of a few values knows no such limits.
        """
        if self.low is None or self.high is None:
            return self
        return self._replace(low=max(self.low, least), high=min(self.high, most))


def seeded_mean(values: Sequence[float]) -> Seeded:
    """Mean over trainings with Student's interval."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if reason := _why_none(numbers):
        return Seeded(mean, told=reason)
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    half = float(scipy.special.stdtrit(len(numbers) - 1, (1 + CONFIDENCE) / 2)) * error
    return Seeded(mean, mean - half, mean + half)


def seeded_difference(first: Sequence[float], second: Sequence[float]) -> Seeded:
    """Difference of the means, first - second, with Welch's interval."""
    one = np.asarray(first, dtype=np.float64)
    other = np.asarray(second, dtype=np.float64)
    difference = float(one.mean() - other.mean())
    if reason := _why_none(one) or _why_none(other):
        return Seeded(difference, told=reason)
    found = scipy.stats.ttest_ind(one, other, equal_var=False).confidence_interval(CONFIDENCE)
    return Seeded(difference, float(found.low), float(found.high))


def _why_none(numbers: np.ndarray) -> str:
    if len(numbers) < 2:
        return "one seed"
    if float(np.ptp(numbers)) == 0:
        return "all seeds give the same number"
    return ""
