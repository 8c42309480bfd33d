"""From latency samples to statements (benchmark protocol section 3): median, interval, tails, and
comparisons.

``uncertainty.py`` computes what an interval rests on: blocks, builds and rounds, never single
samples. An interval holds for the session in which its samples were taken; only several sessions
show what another session would give (:func:`compare_sessions`). Equal samples give equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.spec.errors import InputError

from .record import Latency
from .samples import Series
from .uncertainty import Spread, paired, runs_of, spread_of, together, too_few

Samples = np.ndarray[Any, Any]  # float64 (n,) milliseconds

WIDEST = math.log(2)  # an interval that reaches beyond half or twice the median is not stated
EQUAL = "all samples are equal: the clock does not resolve how they differ"


class Interval(NamedTuple):
    """Lower and upper end of an interval, in ms."""

    low: float
    high: float


class Verdict(NamedTuple):
    """``word`` about the first of two sample sets; ``difference_ms`` (first - second) with its
    interval.

    Without an interval the word is UNDECIDED. ``reason`` states what is missing, or what the word
    leaves out.
    """

    word: str  # "FASTER", "SLOWER", "SAME", "UNDECIDED"
    difference_ms: float
    interval_ms: Interval | None
    reason: str = ""


class Median(NamedTuple):
    """A median in ms with its 95 % interval within the session; where the interval is None,
    ``told`` states why.
    """

    ms: float
    interval: Interval | None
    spread: Spread | None
    told: str

    @property
    def relative_width(self) -> float:
        """Width of the interval as a fraction of the median; infinite without an interval."""
        return (
            math.inf
            if self.interval is None
            else (self.interval.high - self.interval.low) / self.ms
        )


def check_times(samples: Samples) -> None:
    """Raises :class:`InputError` unless there are samples and all of them are finite and positive.
    A clock that did not move between the start and the end of a call has measured nothing.
    """
    if not len(samples):
        raise InputError("there are no samples", hint="measure again")
    wrong = ~(np.isfinite(samples) & (samples > 0))
    if wrong.any():
        message = (
            f"{int(wrong.sum())} of {len(samples)} samples are not positive times, such as "
            f"{samples[wrong][0]:g} ms"
        )
        raise InputError(message, hint="measure again, with a clock of higher resolution")


def all_equal(*several: Series) -> bool:
    """Whether each series consists of equal samples, so that nothing is known about the error of
    its median.
    """
    return all(len(series.ms) > 1 and float(np.ptp(series.ms)) == 0 for series in several)


def median_of(series: Series) -> Median:
    """Median of all samples with its interval.

    Raises :class:`InputError` for an empty series, and for samples that are not positive times.
    """
    check_times(series.ms)
    ms = float(np.median(series.ms))
    runs = runs_of(series)
    if reason := too_few(runs):
        return Median(ms, None, None, f"no interval: {reason}")
    spread = spread_of(runs, of_median=True)
    if all_equal(series):
        return Median(ms, None, spread, f"no interval: {EQUAL}")
    builds = f"{spread.builds} builds" if spread.builds > 1 else "one build"
    seen = (
        f"one session, {builds}, {spread.blocks} blocks, worth {spread.effective_blocks:.1f} "
        f"independent blocks"
    )
    if not spread.half_width < WIDEST:
        return Median(
            ms, None, spread, f"no interval, it would reach beyond half or twice the median: {seen}"
        )
    factor = math.exp(spread.half_width)
    return Median(ms, Interval(ms / factor, ms * factor), spread, seen)


def pooled_interval(series: Series) -> Interval | None:
    """95 % interval of the median over builds and blocks; None where there are too few."""
    return median_of(series).interval


@lru_cache
def samples_needed(quantile: float) -> int:
    """Least number of samples for which a tail quantile may be stated: 64 for 0.9, 662 for 0.99
    (MLPerf LoadGen early stopping).

    This is the smallest n at which at most one sample beyond the quantile has a probability of at
    most 1 %.
    """
    beyond = 1 - max(quantile, 1 - quantile)
    n = 1
    while (1 - beyond) ** n + n * beyond * (1 - beyond) ** (n - 1) > 0.01:
        n += 1
    return n


def tail(samples: Samples, quantile: float) -> float | None:
    """The quantile in milliseconds, or None where there are too few samples to state the
    quantile.
    """
    if len(samples) < samples_needed(quantile):
        return None
    return float(np.quantile(samples, quantile))


class Throughput(NamedTuple):
    """Images per second with the 95 % interval within the session, None where there are too few
    samples.
    """

    images_per_s: float
    interval: Interval | None


def throughput_of(series: Series, batch: int = 1) -> Throughput:
    """Images per second of a closed loop of runs of ``batch`` images: the number of images over the
    time of all runs, slow runs included.
    """
    check_times(series.ms)
    rate = 1e3 * batch / float(np.mean(series.ms))
    runs = runs_of(series, of_mean=True)
    if too_few(runs) or all_equal(series):
        return Throughput(rate, None)
    half = spread_of(runs, of_median=False).half_width
    if not half < WIDEST:
        return Throughput(rate, None)
    factor = math.exp(half)
    return Throughput(rate, Interval(rate / factor, rate * factor))


def summarise(
    samples: Samples,
    *,
    stop_reason: str,
    sustained: bool,
    artifact_sha256: str | None = None,
    series: Series | None = None,
    batch: int = 1,
) -> Latency:
    """``Latency`` from samples in ms, each of ``batch`` images. Images per second are given for a
    closed loop only.

    ``series`` holds the same samples with their builds and blocks; without ``series`` the samples
    are of one build, in blocks of BLOCK.
    """
    series = Series.of(samples) if series is None else series
    found = median_of(series)
    rate = throughput_of(series, batch) if sustained else None
    return Latency(
        median_ms=found.ms,
        ci_low_ms=found.interval and found.interval.low,
        ci_high_ms=found.interval and found.interval.high,
        p05_ms=tail(samples, 0.05),
        p90_ms=tail(samples, 0.90),
        p95_ms=tail(samples, 0.95),
        p99_ms=tail(samples, 0.99),
        p999_ms=tail(samples, 0.999),
        num_samples=len(samples),
        num_dropped=0,
        stop_reason=stop_reason,
        images_per_s=rate and rate.images_per_s,
        images_per_s_low=rate and rate.interval and rate.interval.low,
        images_per_s_high=rate and rate.interval and rate.interval.high,
        throttled="unknown",  # CPU clocks are not watched
        artifact_sha256=artifact_sha256,
        interval=found.told,
        num_blocks=found.spread and found.spread.blocks,
        effective_blocks=found.spread and round(found.spread.effective_blocks, 2),
    )


def compare(first: Samples, second: Samples, *, margin: float = 0.01) -> Verdict:
    """:func:`compare_series` of two builds that were measured separately, each in order of time."""
    return compare_series(Series.of(first), Series.of(second), margin=margin, in_turns=False)


def compare_series(
    first: Series, second: Series, *, margin: float = 0.01, in_turns: bool = True
) -> Verdict:
    """Whether ``first`` is faster than ``second``, by the 95 % interval of the ratio of their
    medians within one session.

    SAME if the whole interval lies within ``margin`` of the second median, FASTER or SLOWER if it
    lies on one side of zero, else UNDECIDED. Series ``in_turns`` were measured interleaved: their
    blocks are compared round by round, so that effects of the machine on a whole round cancel.
    Series without common rounds, and series that were measured separately, are compared as wholes.
    """
    _check_margin(margin)
    for series in (first, second):
        check_times(series.ms)
    if all_equal(first, second):
        return Verdict("UNDECIDED", float(first.ms[0] - second.ms[0]), None, EQUAL)
    if in_turns and (runs := paired(first, second)):
        spread = spread_of(runs, of_median=False)
        return _verdict(_mean(runs), spread, float(np.median(second.ms)), margin)._replace(
            reason=_one_build(runs)
        )
    sides = [runs_of(series) for series in (first, second)]
    medians = [float(np.median(series.ms)) for series in (first, second)]
    if reason := too_few(sides[0]) or too_few(sides[1]):
        return Verdict("UNDECIDED", medians[0] - medians[1], None, reason)
    spread = together(*(spread_of(side, of_median=True) for side in sides))
    return _verdict(_log_ratio(*medians), spread, medians[1], margin)._replace(
        reason=_one_build(*sides)
    )


def compare_sessions(
    first: Sequence[Series],
    second: Sequence[Series],
    *,
    margin: float = 0.01,
    between: float | None = None,
) -> Verdict:
    """:func:`compare_series` for files that were measured in separate sessions, one series each.

    Sessions of one file differ by more than the samples inside a session show. The size of this
    difference comes from several sessions of a side, or from ``between``: the standard deviation of
    a session's median, as a fraction of the median. Without either, the word is UNDECIDED.
    """
    _check_margin(margin, between)
    for series in (*first, *second):
        check_times(series.ms)
    logs = [np.log([float(np.median(series.ms)) for series in side]) for side in (first, second)]
    medians = [float(np.exp(side.mean())) for side in logs]
    count = 1 / len(first) + 1 / len(second)
    parts = []
    for side in (first, second):
        runs = [runs_of(series) for series in side]
        if reason := next(filter(None, map(too_few, runs)), ""):
            return Verdict("UNDECIDED", medians[0] - medians[1], None, reason)
        parts += [(spread_of(run, of_median=True), len(side)) for run in runs]
    inside = math.hypot(*(part.error / size for part, size in parts))
    degrees = min(part.degrees for part, _ in parts)
    free = len(first) + len(second) - 2
    if between is not None:
        error = math.hypot(inside, between * math.sqrt(count))
    elif free:
        error = max(
            inside,
            math.sqrt(
                sum(float(((side - side.mean()) ** 2).sum()) for side in logs) / free * count
            ),
        )
        degrees = float(free)
    else:
        message = (
            "one session of each, and sessions differ by more than their samples show; give more "
            "stores, or --between-sessions"
        )
        return Verdict("UNDECIDED", medians[0] - medians[1], None, message)
    spread = Spread(error, degrees, len(parts), 1, float(len(parts)))
    return _verdict(_log_ratio(*medians), spread, medians[1], margin)


def _check_margin(margin: float, between: float | None = None) -> None:
    for name, part in (
        ("margin", margin),
        ("spread between sessions", 0.0 if between is None else between),
    ):
        if not 0 <= part < math.inf:
            raise InputError(
                f"the {name} {part} is not a fraction of a latency",
                hint="give a number from 0 on, such as 0.01",
            )


def _one_build(*sides: Sequence[Any]) -> str:
    return "" if min(map(len, sides)) > 1 else "of one build; another build may differ"


def _mean(runs: Sequence[Any]) -> float:
    """Mean of the blocks' differences; every build has the same weight."""
    return float(np.mean([run.medians.mean() for run in runs]))


def _log_ratio(first_ms: float, second_ms: float) -> float:
    return math.log(max(first_ms, 1e-6) / max(second_ms, 1e-6))


def _verdict(log_ratio: float, spread: Spread, second_ms: float, margin: float) -> Verdict:
    difference = second_ms * math.expm1(log_ratio)
    if not spread.half_width < 2 * WIDEST:
        return Verdict(
            "UNDECIDED",
            difference,
            None,
            f"too unsteady: {spread.blocks} blocks give no ratio",
        )
    low, high = (math.expm1(log_ratio + side * spread.half_width) for side in (-1, 1))
    interval = Interval(second_ms * low, second_ms * high)
    if -margin <= low and high <= margin:
        return Verdict("SAME", difference, interval)
    if high < 0:
        return Verdict("FASTER", difference, interval)
    return Verdict("SLOWER" if low > 0 else "UNDECIDED", difference, interval)


def verdict_of(verdicts: Sequence[str]) -> str:
    """One throttle verdict for several builds: any throttling counts, then anything unknown."""
    for start in ("yes", "unknown"):
        if found := [verdict for verdict in dict.fromkeys(verdicts) if verdict.startswith(start)]:
            return "; ".join(found)
    return "no"
