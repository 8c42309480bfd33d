"""The latency protocol on a clock that only the protocol moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from samples_bench import Bench

from rfdetr_repro.bench.interleaved import BLOCK, Call, StopRule, measure, measure_interleaved
from rfdetr_repro.records.samples import Series
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol

STEADY = Protocol(mode="sustained", warmup=3, min_samples=64, max_samples=256, timeout_s=1e6)


def drifting(seed: int, spread: float) -> Callable[[int], float]:
    noise = np.random.default_rng(seed).normal(0, spread, 100_000)
    return lambda index: float(5.0 * np.exp(noise[index]))


def test_buffered_waits_before_every_sample_and_does_not_time_it() -> None:
    bench = Bench()
    protocol = Protocol(
        mode="buffered", buffer_ms=200.0, warmup=2, min_samples=64, max_samples=64, timeout_s=1e6
    )
    found = measure(bench.model("m", lambda _: 5.0), protocol, clock=bench)
    latency = found.latency
    samples = found.samples_ms
    warmup = found.warmup_ms
    assert bench.slept == [0.2] * 64
    assert bench.log == ["m", "m"] + ["sleep", "m"] * 64
    assert latency.median_ms == 5.0 and set(samples) == {5.0} and len(warmup) == 2
    assert latency.images_per_s is None


def test_sustained_never_waits() -> None:
    bench = Bench()
    latency = measure(bench.model("m", lambda _: 4.0), STEADY, clock=bench).latency
    assert bench.slept == [] and latency.images_per_s == 250.0


def test_warm_up_is_kept_apart() -> None:
    bench = Bench()
    slow_start = bench.model("m", lambda index: 500.0 if index < 3 else 5.0)
    found = measure(slow_start, STEADY, clock=bench)
    latency = found.latency
    samples = found.samples_ms
    warmup = found.warmup_ms
    assert list(warmup) == [500.0] * 3 and max(samples) == 5.0
    assert latency.num_samples == len(samples) == 64


def test_stops_when_the_interval_is_narrow() -> None:
    bench = Bench()
    found = measure(bench.model("m", drifting(0, 0.01)), STEADY, clock=bench)
    latency = found.latency
    samples = found.samples_ms
    assert 64 <= len(samples) < 256 and "interval of the median" in latency.stop_reason


def test_noise_runs_to_the_maximum() -> None:
    bench = Bench()
    found = measure(bench.model("m", drifting(0, 0.5)), STEADY, clock=bench)
    latency = found.latency
    samples = found.samples_ms
    assert len(samples) == 256 and latency.stop_reason == "maximum of 256 samples"
    assert (latency.ci_high_ms - latency.ci_low_ms) / latency.median_ms > STEADY.relative_ci


def test_time_limit_ends_a_series_within_its_block() -> None:
    bench = Bench()
    protocol = Protocol(mode="sustained", warmup=0, min_samples=64, max_samples=256, timeout_s=1.0)
    found = measure(bench.model("m", lambda _: 100.0), protocol, clock=bench)
    latency = found.latency
    samples = found.samples_ms
    assert (
        len(samples) == 10 and latency.stop_reason == "timeout of 1 s" and latency.num_samples == 10
    )
    assert latency.p90_ms is None


def test_stop_rule_states_its_reason() -> None:
    rule = StopRule(32, 64, 0.01, 10.0)
    assert rule.exhausted(0, 99.0) is None and rule.exhausted(63, 9.9) is None
    assert rule.exhausted(64, 0.0) == "maximum of 64 samples"
    assert rule.exhausted(1, 10.0) == "timeout of 10 s"
    steady = Series.of(np.full(32, 1.0))
    few = Series.of(np.full(31, 1.0))
    assert rule.settled([few]) is None and rule.settled([steady, few]) is None
    assert rule.settled([steady]) == "all 32 samples are equal"
    # builds differ: their samples cannot settle that
    assert rule.settled([steady, Series.of(np.full(32, 1.1))]) is None
    assert rule._replace(min_time_s=1.0).settled([steady]) is None


def test_stop_rule_is_not_fooled_by_neighbours() -> None:
    """Sixteen levels of the machine, eight steady samples on each: one by one they look like 128
    witnesses.
    """
    levels = 10 * np.exp(np.random.default_rng(0).normal(0, 0.003, 16))
    samples = np.repeat(levels, BLOCK) * np.exp(
        np.random.default_rng(1).normal(0, 1e-4, 16 * BLOCK)
    )
    rule = StopRule(64, 256, 0.0025, 10.0)
    assert rule.settled([Series.of(samples)]) is None
    assert rule.settled([Series.of(np.random.default_rng(2).permutation(samples))]) is not None


def test_all_builds_of_a_model_end_together() -> None:
    bench = Bench()
    calls = {"m": [Call(bench.model(f"{build}", drifting(build, 0.01))) for build in range(4)]}
    found = measure_interleaved(calls, STEADY, clock=bench)["m"]
    assert len({build.num_samples for build in found.latency.builds}) == 1
    width = (found.latency.ci_high_ms - found.latency.ci_low_ms) / found.latency.median_ms
    assert width < STEADY.relative_ci and "interval of the median" in found.latency.stop_reason


def test_models_take_turns_in_changing_order() -> None:
    bench = Bench()
    models = {name: bench.model(name, drifting(ord(name), 0.3)) for name in "abc"}
    protocol = Protocol(
        mode="sustained", warmup=1, min_samples=64, max_samples=128, relative_ci=1e-9, timeout_s=1e6
    )
    models["a"] = [Call(models["a"], "hash of a")]
    results = measure_interleaved(models, protocol, clock=bench)
    assert bench.log[:3] == ["a", "b", "c"]  # warm-up
    turns = [bench.log[3 + block * (BLOCK + 1)] for block in range(3 * 128 // BLOCK)]
    rounds = [turns[index : index + 3] for index in range(0, len(turns), 3)]
    assert (
        all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
        and len({tuple(turn) for turn in rounds}) > 1
    )
    assert {name: result.latency.num_samples for name, result in results.items()} == {
        "a": 128,
        "b": 128,
        "c": 128,
    }
    assert (
        results["a"].latency.artifact_sha256 == "hash of a"
        and results["b"].latency.artifact_sha256 is None
    )


def test_drift_of_the_machine_falls_on_all_models() -> None:
    """Two equal models on a machine that slows down by half: interleaved they stay within 3 %, one
    after the other not.
    """
    bench = Bench()
    protocol = Protocol(mode="sustained", warmup=0, min_samples=256, max_samples=256, timeout_s=1e6)
    slower = {
        name: (lambda: bench.model(name, lambda _: 5.0 * (1 + bench.ns / 6e9)))() for name in "ab"
    }
    together = measure_interleaved(slower, protocol, clock=bench)
    assert together["a"].latency.median_ms == pytest.approx(
        together["b"].latency.median_ms, rel=0.03
    )
    alone = [measure(slower[name], protocol, clock=bench).latency.median_ms for name in "ab"]
    assert alone[1] / alone[0] > 1.05


def test_a_finished_model_drops_out() -> None:
    bench = Bench()
    models = {
        "steady": bench.model("steady", lambda _: 5.0),
        "noisy": bench.model("noisy", drifting(1, 0.5)),
    }
    results = measure_interleaved(models, STEADY, clock=bench)
    assert (
        results["steady"].latency.num_samples == 64 and results["noisy"].latency.num_samples == 256
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "quick"},
        {"min_samples": 9, "max_samples": 8},
        {"scope": "all"},
        {"spin_ms": 201.0},
        {"mode": "sustained", "spin_ms": 1.0},
        {"mode": "paced", "fps": 30.0, "flush_l2": True},
    ],
)
def test_impossible_protocols(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Protocol(**fields)  # type: ignore[arg-type]
