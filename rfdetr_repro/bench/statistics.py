"""From latency samples to statements (benchmark protocol section 3): median, bootstrap interval, tails, and who is faster.

All resampling is seeded: equal samples give equal numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..record import Latency

Samples = np.ndarray[Any, Any]  # float64 (n,) milliseconds

CONFIDENCE = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    low: float
    high: float


class Verdict(NamedTuple):
    """``word`` about the first of two sample sets; ``difference_ms`` of medians (first - second) with its interval."""

    word: str  # "FASTER", "SLOWER", "SAME", "UNDECIDED"
    difference_ms: float
    interval_ms: Interval


def _bootstrap_medians(samples: Samples, rng: np.random.Generator, resamples: int) -> Samples:
    return np.median(samples[rng.integers(0, len(samples), (resamples, len(samples)))], axis=1)


def _interval(values: Samples) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return Interval(float(low), float(high))


def median_interval(samples: Samples, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """95 % percentile-bootstrap interval of the median."""
    return _interval(_bootstrap_medians(np.asarray(samples, dtype=float), np.random.default_rng(seed), resamples))


@lru_cache
def samples_needed(quantile: float) -> int:
    """Least number of samples for which a tail quantile may be stated: 64 for 0.9, 662 for 0.99 (MLPerf LoadGen early stopping).

    The smallest n at which seeing at most one sample beyond the quantile has a probability of at most 1 %.
    """
    beyond = 1 - max(quantile, 1 - quantile)
    n = 1
    while (1 - beyond) ** n + n * beyond * (1 - beyond) ** (n - 1) > 0.01:
        n += 1
    return n


def tail(samples: Samples, quantile: float) -> float | None:
    """The quantile in milliseconds, or None with too few samples to state it."""
    if len(samples) < samples_needed(quantile):
        return None
    return float(np.quantile(samples, quantile))


def summarise(samples: Samples, *, stop_reason: str, sustained: bool, artifact_sha256: str | None = None) -> Latency:
    """Samples in ms -> ``Latency``. Images per second only for a closed loop, where it means something."""
    interval = median_interval(samples)
    return Latency(
        median_ms=float(np.median(samples)),
        ci_low_ms=interval.low,
        ci_high_ms=interval.high,
        p05_ms=tail(samples, 0.05),
        p90_ms=tail(samples, 0.90),
        p95_ms=tail(samples, 0.95),
        p99_ms=tail(samples, 0.99),
        num_samples=len(samples),
        num_dropped=0,
        stop_reason=stop_reason,
        images_per_s=1e3 / float(np.mean(samples)) if sustained else None,
        throttled="unknown",  # CPU clocks are not watched
        artifact_sha256=artifact_sha256,
    )


def compare(first: Samples, second: Samples, *, margin: float = 0.01, seed: int = 0) -> Verdict:
    """Is ``first`` faster than ``second``? By the bootstrap interval of the difference of medians.

    SAME if the whole interval lies within ``margin`` of the second median, FASTER or SLOWER if it lies on one side of zero,
    else UNDECIDED.
    """
    rng = np.random.default_rng(seed)
    resampled = [_bootstrap_medians(np.asarray(samples, dtype=float), rng, RESAMPLES) for samples in (first, second)]
    interval = _interval(resampled[0] - resampled[1])
    difference = float(np.median(first) - np.median(second))
    limit = margin * float(np.median(second))
    if -limit <= interval.low and interval.high <= limit:
        return Verdict("SAME", difference, interval)
    if interval.high < 0:
        return Verdict("FASTER", difference, interval)
    return Verdict("SLOWER" if interval.low > 0 else "UNDECIDED", difference, interval)
