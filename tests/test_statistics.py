"""Medians, intervals, tails and verdicts, on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from rfdetr_repro.bench.samples import BLOCK, Series
from rfdetr_repro.bench.statistics import (
    compare,
    compare_series,
    median_interval,
    pooled_interval,
    samples_needed,
    summarise,
    tail,
)


def noisy(median: float, count: int, seed: int, spread: float = 0.02) -> np.ndarray:
    return median * np.exp(np.random.default_rng(seed).normal(0, spread, count))


@pytest.mark.parametrize(("quantile", "count"), [(0.9, 64), (0.99, 662), (0.999, 6636)])
def test_tail_rule_is_that_of_loadgen(quantile: float, count: int) -> None:
    assert samples_needed(quantile) == count
    samples = np.arange(float(count))
    assert tail(samples[:-1], quantile) is None
    assert tail(samples, quantile) == pytest.approx(quantile * (count - 1))


def test_low_tail_needs_as_many_as_the_high_one() -> None:
    assert samples_needed(0.05) == samples_needed(0.95) > samples_needed(0.9)


def test_summary() -> None:
    samples = noisy(10.0, 200, 0)
    latency = summarise(samples, stop_reason="x", sustained=True, artifact_sha256="a")
    assert latency.median_ms == np.median(samples)
    assert latency.ci_low_ms < latency.median_ms < latency.ci_high_ms
    assert latency.p90_ms == pytest.approx(np.quantile(samples, 0.9)) and latency.p99_ms is None
    assert latency.images_per_s == pytest.approx(1000 / samples.mean())
    assert (latency.num_samples, latency.num_dropped, latency.throttled) == (200, 0, "unknown")
    assert summarise(samples, stop_reason="x", sustained=False).images_per_s is None


def test_one_slow_sample_moves_the_mean_not_the_median() -> None:
    samples = np.full(65, 4.0)
    samples[0] = 400.0
    assert summarise(samples, stop_reason="x", sustained=False).median_ms == 4.0


def test_interval_covers_the_median_about_as_often_as_it_says() -> None:
    intervals = [median_interval(noisy(10.0, 40, seed), resamples=300) for seed in range(200)]
    covered = np.mean([interval.low <= 10.0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.99


def test_interval_is_reproducible_and_narrows() -> None:
    few, many = noisy(10.0, 30, 1), noisy(10.0, 1000, 1)
    assert median_interval(few) == median_interval(few)
    widths = [interval.high - interval.low for interval in (median_interval(few), median_interval(many))]
    assert widths[1] < widths[0] / 3


@pytest.mark.parametrize(
    ("first", "second", "spread", "count", "word"),
    [
        (9.0, 10.0, 0.02, 100, "FASTER"),
        (10.0, 9.0, 0.02, 100, "SLOWER"),
        (10.0, 10.0, 0.005, 200, "SAME"),
        (10.0, 10.0, 0.3, 30, "UNDECIDED"),
        (10.03, 10.0, 0.0001, 200, "SAME"),  # slower beyond doubt, but by less than the margin
    ],
)
def test_verdicts(first: float, second: float, spread: float, count: int, word: str) -> None:
    verdict = compare(noisy(first, count, 2, spread), noisy(second, count, 3, spread))
    assert verdict.word == word
    assert verdict.interval_ms.low <= verdict.difference_ms <= verdict.interval_ms.high


def test_resampled_medians_are_those_of_real_resamples() -> None:
    """The shortcut by order statistics against drawing every resample, for odd and even counts."""
    for count in (1, 2, 31, 64):
        samples, rng = noisy(10.0, count, 4, 0.2), np.random.default_rng(0)
        drawn = np.median(samples[rng.integers(0, count, (20_000, count))], axis=1)
        interval = median_interval(samples, resamples=20_000)
        assert interval == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), rel=0.01)


def blocks(levels: list[float], seed: int, spread: float = 0.001) -> np.ndarray:
    """One block around each level."""
    return np.concatenate([noisy(level, BLOCK, seed + index, spread) for index, level in enumerate(levels)])


def test_blocks_that_drift_widen_the_interval() -> None:
    """Sixteen neighbours are not sixteen witnesses: resampled one by one the interval is far too sure."""
    levels = list(10 + np.random.default_rng(1).normal(0, 0.5, 20))
    samples = blocks(levels, 0)
    alone, pooled = median_interval(samples), pooled_interval(Series.of(samples))
    assert pooled.high - pooled.low > 1.5 * (alone.high - alone.low)


def test_builds_count_as_wholes() -> None:
    """Three builds far apart: the interval spans them, however many samples each has."""
    parts = [Series.of(noisy(level, 640, index, 0.001)) for index, level in enumerate((10.0, 10.5, 11.0))]
    interval = pooled_interval(Series.pooled(parts))
    assert interval.low < 10.1 and interval.high > 10.9
    flat = median_interval(Series.pooled(parts).ms)
    assert flat.high - flat.low < 0.1
    latency = summarise(Series.pooled(parts).ms, stop_reason="x", sustained=False, series=Series.pooled(parts))
    assert (latency.ci_low_ms, latency.ci_high_ms) == interval


def test_pairs_cancel_what_the_machine_did_in_a_round() -> None:
    drift = list(10 * (1 + 0.2 * np.random.default_rng(2).random(40)))
    first = Series.of(blocks(drift, 0))
    second = Series.of(blocks([level * 1.02 for level in drift], 100))
    assert compare_series(first, second).word == "FASTER"
    apart = Series(second.ms, second.block * 0, second.block + 1)  # other rounds: nothing to cancel
    assert compare_series(first, apart).word == "UNDECIDED"


def test_few_blocks_are_taken_apart() -> None:
    few = Series.of(noisy(10.0, 32, 0))
    interval = pooled_interval(few)
    assert interval == pytest.approx(median_interval(few.ms), rel=0.01)


def test_a_long_series_is_summed_up_in_bounded_memory() -> None:
    long = Series.pooled([Series.of(noisy(5.0, 100_000, seed)) for seed in range(2)])
    interval = pooled_interval(long)
    assert interval.low < 5.0 < interval.high and interval.high - interval.low < 0.01
