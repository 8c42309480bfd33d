"""Medians, intervals, tails and verdicts, on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from rfdetr_repro.records.samples import BLOCK, Series
from rfdetr_repro.records.statistics import (
    Interval,
    compare,
    compare_series,
    compare_sessions,
    median_of,
    pooled_interval,
    samples_needed,
    summarise,
    tail,
)
from rfdetr_repro.records.uncertainty import LEAST_BLOCKS
from rfdetr_repro.spec.errors import InputError


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
    assert (
        latency.num_blocks == 200 // BLOCK and 2 <= latency.effective_blocks <= latency.num_blocks
    )
    assert latency.interval.startswith(
        f"one session, one build, {latency.num_blocks} blocks, worth "
    )


def interval_of(samples: np.ndarray) -> Interval | None:
    return pooled_interval(Series.of(samples))


def test_one_slow_sample_moves_the_mean_not_the_median() -> None:
    samples = np.full(65, 4.0)
    samples[0] = 400.0
    assert summarise(samples, stop_reason="x", sustained=False).median_ms == 4.0


def test_interval_is_reproducible_and_narrows() -> None:
    few = noisy(10.0, 64, 1)
    many = noisy(10.0, 2048, 1)
    assert interval_of(few) == interval_of(few)
    widths = [interval.high - interval.low for interval in map(interval_of, (few, many))]
    assert widths[1] < widths[0] / 3


@pytest.mark.parametrize("count", [1, BLOCK, (LEAST_BLOCKS - 1) * BLOCK])
def test_too_few_samples_have_no_interval_and_no_verdict(count: int) -> None:
    samples = noisy(10.0, count, 1)
    assert interval_of(samples) is None
    latency = summarise(samples, stop_reason="x", sustained=False)
    assert latency.ci_low_ms is latency.ci_high_ms is latency.num_blocks is None
    assert (
        latency.interval.startswith("no interval: ") and "at least 4 are needed" in latency.interval
    )
    verdict = compare(noisy(5.0, count, 2), samples)
    assert (
        verdict.word == "UNDECIDED"
        and verdict.interval_ms is None
        and "at least 4" in verdict.reason
    )
    assert interval_of(noisy(10.0, LEAST_BLOCKS * BLOCK, 1)) is not None


def test_what_says_nothing_gives_no_interval_instead_of_an_endless_one() -> None:
    wild = np.exp(np.random.default_rng(0).normal(0, 5, 64))
    found = median_of(Series.of(wild))
    assert (
        found.interval is None and found.relative_width == np.inf and "half or twice" in found.told
    )
    assert compare_series(Series.of(wild), Series.of(wild[::-1])).word == "UNDECIDED"


@pytest.mark.parametrize("ms", [4.0, 0.1, 20.375981999999997])
def test_equal_samples_are_a_coarse_clock_and_no_certainty(ms: float) -> None:
    """A clock of 1 ms that reads 4 ms 64 times says 3 to 5 ms: the interval [4, 4] would be
    false.
    """
    found = median_of(Series.of(np.full(64, ms)))
    assert found.ms == ms and found.interval is None and "all samples are equal" in found.told
    for other in (ms, 1.25 * ms):
        sides = np.full(64, ms), np.full(64, other)
        for verdict in (compare(*sides), compare_series(*map(Series.of, sides))):
            assert (
                verdict.word == "UNDECIDED"
                and verdict.interval_ms is None
                and "equal" in verdict.reason
            )
            assert verdict.difference_ms == pytest.approx(ms - other)
    # builds differ: that is seen
    two = Series.pooled([Series.of(np.full(64, ms)), Series.of(np.full(64, 1.25 * ms))])
    assert median_of(two).interval is None or median_of(two).relative_width > 0.2


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_what_is_no_time_is_refused(wrong: float) -> None:
    samples = noisy(10.0, 64, 1)
    for spoiled in (np.where(np.arange(64) == 7, wrong, samples), np.full(64, wrong), np.zeros(0)):
        told = "not positive times" if len(spoiled) else "no samples"
        with pytest.raises(InputError, match=told):
            median_of(Series.of(spoiled))
        with pytest.raises(InputError, match=told):
            summarise(spoiled, stop_reason="x", sustained=True)
        for pair in ((samples, spoiled), (spoiled, samples)):
            with pytest.raises(InputError, match=told):
                compare(*pair)
            with pytest.raises(InputError, match=told):
                compare_sessions(*([Series.of(side)] for side in pair), between=0.1)


def test_one_sample_has_a_median_and_nothing_else() -> None:
    latency = summarise(np.array([3.0]), stop_reason="x", sustained=False)
    assert latency.median_ms == 3.0 and latency.ci_low_ms is None and latency.p90_ms is None
    assert latency.interval.startswith("no interval: 1 blocks") and latency.num_samples == 1


@pytest.mark.parametrize(
    ("first", "second", "spread", "count", "word"),
    [
        (9.0, 10.0, 0.02, 100, "FASTER"),
        (10.0, 9.0, 0.02, 100, "SLOWER"),
        (10.0, 10.0, 0.005, 200, "SAME"),
        (10.0, 10.0, 0.3, 32, "UNDECIDED"),
        (10.03, 10.0, 0.0001, 200, "SAME"),  # slower beyond doubt, but by less than the margin
    ],
)
def test_verdicts(first: float, second: float, spread: float, count: int, word: str) -> None:
    verdict = compare(noisy(first, count, 2, spread), noisy(second, count, 3, spread))
    assert verdict.word == word
    assert verdict.interval_ms.low <= verdict.difference_ms <= verdict.interval_ms.high


def test_interval_of_independent_normal_blocks_is_students() -> None:
    """SciPy's t interval of block medians; ours is a little wider, by what dependence between
    blocks may hide.
    """
    stats = pytest.importorskip("scipy.stats")
    ratios = []
    for seed in range(40):
        samples = noisy(10.0, 64 * BLOCK, seed, 0.01)
        medians = np.median(np.log(samples).reshape(-1, BLOCK), axis=1)
        low, high = stats.t.interval(0.95, len(medians) - 1, scale=stats.sem(medians))
        found = pooled_interval(Series.of(samples))
        ratios.append(np.log(found.high / found.low) / (high - low))
    assert 1.0 <= np.median(ratios) < 1.2 and min(ratios) > 0.99


def blocks(levels: list[float], seed: int, spread: float = 0.001) -> np.ndarray:
    """One block around each level."""
    return np.concatenate(
        [noisy(level, BLOCK, seed + index, spread) for index, level in enumerate(levels)]
    )


def test_blocks_that_drift_widen_the_interval() -> None:
    """Eight neighbours are not eight witnesses: the same samples in another order say much more."""
    levels = list(10 + np.random.default_rng(1).normal(0, 0.5, 20))
    samples = blocks(levels, 0)
    shuffled = np.random.default_rng(2).permutation(samples)
    alone = pooled_interval(Series.of(shuffled))
    together = pooled_interval(Series.of(samples))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_builds_count_as_wholes() -> None:
    """Three builds far apart: the interval spans them, however many samples each has."""
    parts = [
        Series.of(noisy(level, 640, index, 0.001)) for index, level in enumerate((10.0, 10.5, 11.0))
    ]
    pooled = Series.pooled(parts)
    interval = pooled_interval(pooled)
    assert interval.low < 10.0 and interval.high > 11.0
    one = pooled_interval(parts[0])
    assert one.high - one.low < 0.01
    latency = summarise(pooled.ms, stop_reason="x", sustained=False, series=pooled)
    assert (latency.ci_low_ms, latency.ci_high_ms) == interval
    assert "3 builds, 240 blocks, worth 3." in latency.interval


def test_rounds_in_common_do_not_count_once_per_build() -> None:
    """Four builds that all follow the machine from round to round are no surer than one of them."""
    levels = list(10 * np.exp(np.random.default_rng(3).normal(0, 0.02, 32)))
    parts = [Series.of(blocks(levels, 100 * build, 0.002)) for build in range(4)]
    one = pooled_interval(parts[0])
    four = pooled_interval(Series.pooled(parts))
    assert four.high - four.low > 0.8 * (one.high - one.low)


def test_pairs_cancel_what_the_machine_did_in_a_round() -> None:
    drift = list(10 * (1 + 0.2 * np.random.default_rng(2).random(40)))
    first = Series.of(blocks(drift, 0))
    second = Series.of(blocks([level * 1.02 for level in drift], 100))
    assert compare_series(first, second).word == "FASTER"
    apart = Series(second.ms, second.build, second.block + 1)  # other rounds: nothing to cancel
    assert compare_series(first, apart).word == "UNDECIDED"
    assert compare_series(first, second, in_turns=False).word == "UNDECIDED"


def test_rounds_in_common_are_paired_though_one_model_went_on() -> None:
    drift = list(10 * (1 + 0.2 * np.random.default_rng(2).random(40)))
    first = Series.of(blocks(drift[:20], 0))
    second = Series.of(blocks([level * 1.02 for level in drift], 100))
    verdict = compare_series(first, second)
    assert verdict.word == "FASTER" and verdict.difference_ms / 10 == pytest.approx(
        -0.02, abs=0.004
    )


def test_one_session_of_each_is_never_decided() -> None:
    first, second = (
        Series.of(noisy(level, 512, seed, 0.002)) for seed, level in enumerate((8.0, 10.0))
    )
    verdict = compare_sessions([first], [second])
    assert (
        verdict.word == "UNDECIDED"
        and verdict.interval_ms is None
        and "one session of each" in verdict.reason
    )
    assert compare_sessions([first], [second], between=0.02).word == "FASTER"
    assert compare_sessions([first], [second], between=0.2).word == "UNDECIDED"


def test_sessions_are_judged_by_how_sessions_differ() -> None:
    """Sessions 3 % apart: their samples alone would be sure of 1 %.

    SciPy's t test is the oracle.
    """
    stats = pytest.importorskip("scipy.stats")
    levels = np.random.default_rng(4).normal(0, 0.03, 6)
    old, new = (
        [Series.of(noisy(10 * np.exp(x), 256, i, 0.002)) for i, x in enumerate(side)]
        for side in (levels[:3], levels[3:])
    )
    assert compare_sessions(new, old).word == "UNDECIDED"
    logs = [[np.log(np.median(series.ms)) for series in side] for side in (new, old)]
    test = stats.ttest_ind(*logs)
    low, high = np.exp(test.confidence_interval()) - 1
    median = np.exp(np.mean(logs[1]))
    assert compare_sessions(new, old).interval_ms == pytest.approx(
        (low * median, high * median), rel=1e-6
    )
    slower = [Series(series.ms * 1.4, series.build, series.block) for series in new]
    assert compare_sessions(slower, old).word == "SLOWER"


def test_a_long_series_is_summed_up() -> None:
    """Of blocks of hundreds of samples, as a closed loop gives them."""
    parts = [noisy(5.0, 100_000, seed) for seed in range(2)]
    long = Series.pooled(
        [Series(ms, np.zeros(len(ms), np.int64), np.arange(len(ms)) // 2_500) for ms in parts]
    )
    interval = pooled_interval(long)
    assert interval.low < 5.0 < interval.high and interval.high - interval.low < 0.02


def test_a_series_without_rounds_is_cut_into_blocks() -> None:
    """Frames at a fixed rate are one round: neighbours are kept together all the same."""
    ms = noisy(5.0, 300, 0, 0.005)
    paced = Series(ms, np.zeros(300, np.int64), np.zeros(300, np.int64))
    found = median_of(paced)
    assert found.interval is not None and found.spread.blocks == 32
    assert compare_series(paced, Series(ms * 1.05, paced.build, paced.block)).word == "FASTER"
