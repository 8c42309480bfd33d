"""From latency samples to statements (benchmark protocol section 3): median, bootstrap interval, tails, and who is faster.

Samples of one build are resampled one by one; those of several builds, and of two models that are compared, by build and then by
block, because neighbours in time share the state of the machine. All resampling is seeded: equal samples give equal numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..record import Latency
from .samples import Series

Samples = np.ndarray[Any, Any]  # float64 (n,) milliseconds

CONFIDENCE = 0.95
RESAMPLES = 2000
FEW_BLOCKS = 8  # of fewer, a resample of blocks says little: then every sample is its own block
_CELLS = 1 << 22  # resamples x samples at a time


class Interval(NamedTuple):
    low: float
    high: float


class Verdict(NamedTuple):
    """``word`` about the first of two sample sets; ``difference_ms`` of medians (first - second) with its interval."""

    word: str  # "FASTER", "SLOWER", "SAME", "UNDECIDED"
    difference_ms: float
    interval_ms: Interval


def _bootstrap_medians(samples: Samples, rng: np.random.Generator, resamples: int) -> Samples:
    """Medians of resamples, without resampling: the k-th of n numbers drawn from a set is its sorted element at n times the k-th
    of n uniform numbers, which is beta-distributed. Exact, and costs one sort.
    """
    ordered, n = np.sort(samples), len(samples)
    low_rank, high_rank = (n + 1) // 2, n // 2 + 1
    low = rng.beta(low_rank, n - low_rank + 1, resamples)
    high = low if low_rank == high_rank else low + (1 - low) * rng.beta(1, n - low_rank, resamples)
    low_index, high_index = (np.minimum((part * n).astype(np.int64), n - 1) for part in (low, high))
    return (ordered[low_index] + ordered[high_index]) / 2


def _block_weights(series: Series, rng: np.random.Generator, resamples: int) -> tuple[Samples, Samples]:
    """How often each block is drawn: int64 (resamples, blocks); and the block of each sample, int64 (n,).

    A resample draws as many builds as there are, then of each as many blocks as it has.
    """
    builds, build_of = np.unique(series.build, return_inverse=True)
    keys, block_of = np.unique(np.stack([build_of, series.block]), axis=1, return_inverse=True)
    block_of = block_of.reshape(-1)
    if keys.shape[1] < FEW_BLOCKS:
        keys, block_of = np.stack([build_of, np.arange(len(build_of))]), np.arange(len(build_of))
    weights = np.zeros((resamples, keys.shape[1]), dtype=np.int64)
    rows = np.arange(resamples)[:, None]
    for _ in builds:
        drawn = rng.integers(0, len(builds), resamples)
        for build in range(len(builds)):
            members = np.flatnonzero(keys[0] == build)
            chosen = members[rng.integers(0, len(members), (resamples, len(members)))]
            np.add.at(weights, (rows, chosen), (drawn == build)[:, None].astype(np.int64))
    return weights, block_of


def _weighted_medians(values: Samples, weights: Samples, block_of: Samples) -> Samples:
    """Median of ``values`` repeated ``weights[r, block_of]`` times, for every resample r."""
    order = np.argsort(values, kind="stable")
    ordered, blocks, step = values[order], block_of[order], max(1, _CELLS // len(values))
    medians = []
    for start in range(0, len(weights), step):
        counted = np.cumsum(weights[start : start + step][:, blocks], axis=1)
        total = counted[:, -1:]
        low, high = (np.argmax(counted >= rank, axis=1) for rank in ((total + 1) // 2, total // 2 + 1))
        medians.append((ordered[low] + ordered[high]) / 2)
    return np.concatenate(medians)


def _resamples_for(n: int) -> int:
    return int(min(RESAMPLES, max(200, 2e8 // n)))  # a series of ten minutes has 10^5 samples and more


def _interval(values: Samples) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return Interval(float(low), float(high))


def median_interval(samples: Samples, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """95 % percentile-bootstrap interval of the median."""
    return _interval(_bootstrap_medians(np.asarray(samples, dtype=float), np.random.default_rng(seed), resamples))


def pooled_interval(series: Series, *, seed: int = 0) -> Interval:
    """95 % interval of the median over builds: by the bootstrap over (build, block)."""
    weights, block_of = _block_weights(series, np.random.default_rng(seed), _resamples_for(len(series.ms)))
    return _interval(_weighted_medians(series.ms, weights, block_of))


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


def summarise(
    samples: Samples, *, stop_reason: str, sustained: bool, artifact_sha256: str | None = None, series: Series | None = None
) -> Latency:
    """Samples in ms -> ``Latency``. Images per second only for a closed loop, where it means something.

    ``series``: the same samples with their builds and blocks, where there are several builds.
    """
    interval = median_interval(samples) if series is None else pooled_interval(series)
    return Latency(
        median_ms=float(np.median(samples)),
        ci_low_ms=interval.low,
        ci_high_ms=interval.high,
        p05_ms=tail(samples, 0.05),
        p90_ms=tail(samples, 0.90),
        p95_ms=tail(samples, 0.95),
        p99_ms=tail(samples, 0.99),
        p999_ms=tail(samples, 0.999),
        num_samples=len(samples),
        num_dropped=0,
        stop_reason=stop_reason,
        images_per_s=1e3 / float(np.mean(samples)) if sustained else None,
        throttled="unknown",  # CPU clocks are not watched
        artifact_sha256=artifact_sha256,
    )


def compare(first: Samples, second: Samples, *, margin: float = 0.01, seed: int = 0) -> Verdict:
    """Is ``first`` faster than ``second``? By the bootstrap interval of the difference of medians; samples are independent.

    SAME if the whole interval lies within ``margin`` of the second median, FASTER or SLOWER if it lies on one side of zero,
    else UNDECIDED.
    """
    rng = np.random.default_rng(seed)
    resampled = [_bootstrap_medians(np.asarray(samples, dtype=float), rng, RESAMPLES) for samples in (first, second)]
    return _verdict(resampled[0] - resampled[1], float(np.median(first)), float(np.median(second)), margin)


def compare_series(first: Series, second: Series, *, margin: float = 0.01, seed: int = 0) -> Verdict:
    """:func:`compare` by the bootstrap over (build, block) pairs.

    Series with the same builds and blocks were measured in turns: a pair is drawn for both at once, so that what the machine did
    in that round cancels. Other series are resampled apart.
    """
    count = min(_resamples_for(len(first.ms)), _resamples_for(len(second.ms)))
    # equal seeds draw equal pairs as long as the layouts are equal
    rngs = [np.random.default_rng(seed if first.layout == second.layout else (seed, side)) for side in (0, 1)]
    medians = [
        _weighted_medians(series.ms, *_block_weights(series, rng, count))
        for series, rng in zip((first, second), rngs, strict=True)
    ]
    return _verdict(medians[0] - medians[1], float(np.median(first.ms)), float(np.median(second.ms)), margin)


def _verdict(differences: Samples, first_ms: float, second_ms: float, margin: float) -> Verdict:
    interval, difference = _interval(differences), first_ms - second_ms
    limit = margin * second_ms
    if -limit <= interval.low and interval.high <= limit:
        return Verdict("SAME", difference, interval)
    if interval.high < 0:
        return Verdict("FASTER", difference, interval)
    return Verdict("SLOWER" if interval.low > 0 else "UNDECIDED", difference, interval)
