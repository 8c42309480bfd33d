"""When a warm-up ends, on a virtual clock."""

from __future__ import annotations

import numpy as np
import pytest
from samples_bench import VirtualClock

from rfdetr_repro.bench.gpu.watch import Window
from rfdetr_repro.bench.interleaved import measure
from rfdetr_repro.bench.timers import WallTimer
from rfdetr_repro.bench.warm_up import MOST_WINDOWS, Slice, drifts, line_change, settle
from rfdetr_repro.spec.protocol import Protocol


def test_a_line_is_found_in_noise() -> None:
    values = 10 + np.linspace(0, 3, 50) + np.random.default_rng(0).normal(0, 0.1, 50)
    change, error = line_change(values)
    assert change == pytest.approx(3, abs=3 * error) and 0.01 < error < 0.2
    assert line_change([4.0] * 8) == (0.0, 0.0)


def slices(
    run_ms: list[float], sm_mhz: list[float] | None = None, temperature_c: list[float] | None = None
) -> list[Slice]:
    count = len(run_ms)
    return [
        Slice(*row)
        for row in zip(
            run_ms, sm_mhz or [None] * count, temperature_c or [None] * count, strict=True
        )
    ]


STEADY = [5.0, 5.01, 4.99, 5.0, 5.01, 5.0, 4.99, 5.0]


def test_each_quantity_is_judged_by_its_own_limit() -> None:
    assert drifts(slices(STEADY)) == []
    assert drifts(slices([5 + 0.1 * i for i in range(8)])) == ["run_ms +0.7 ms"]
    assert drifts(slices([5 + 0.01 * i for i in range(8)])) == []  # 1.4 % is within 2 %
    clocks = [1900.0 - 10 * i for i in range(8)]
    heat = [60.0 + i for i in range(8)]
    assert drifts(slices(STEADY, clocks, heat)) == ["sm_mhz -70 MHz", "temperature_c +7 C"]
    assert drifts(slices(STEADY, [1900.0] * 8, [60.0 + 0.1 * i for i in range(8)])) == []


def test_noise_without_a_trend_is_flat() -> None:
    noise = np.random.default_rng(3).normal(5, 1.0, 8)
    assert drifts(slices(noise.tolist())) == []


def test_warms_while_it_speeds_up_then_stops() -> None:
    """A start twice as slow that falls off over 40 s is not yet flat after one window of 30 s."""
    clock = VirtualClock()

    def run() -> None:
        clock.ns += round(100e6 * (1 + np.exp(-clock.ns / 1e9 / 15)))

    told = settle(run, 30.0, clock, WallTimer(clock))
    assert told.startswith("flat after") and 60 < clock.ns / 1e9 < 150


def test_what_never_settles_is_said() -> None:
    clock = VirtualClock()

    def run() -> None:
        clock.ns += round(1e6 * (100 + clock.ns / 1e9))

    told = settle(run, 8.0, clock, WallTimer(clock))
    assert (
        told.startswith("not flat after 8")
        and "run_ms +" in told
        and clock.ns / 1e9 >= 8 * MOST_WINDOWS
    )


class Heating:
    """A watch on a GPU that warms up for 100 s of the clock's time."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock

    def mark(self) -> int:
        return 0

    def since(self, mark: int) -> Window:
        degrees = 40 + min(100, self.clock.ns / 1e9) / 3
        return Window(
            "no", 9, None, 300.0, 10.0, round(degrees), 0.0, (), seconds=1.0, clocks={1900: 9}
        )


def test_heat_keeps_the_warm_up_going_though_times_are_flat() -> None:
    clock = VirtualClock()
    told = settle(clock.taking(50.0), 24.0, clock, WallTimer(clock), Heating(clock))
    assert told.startswith("flat after") and clock.ns / 1e9 > 100 and "not known" not in told


class Blind(Heating):
    """A watch whose driver tells neither clock nor temperature."""

    def since(self, mark: int) -> Window:
        return super().since(mark)._replace(temperature_c=None, clocks=None)


def test_a_flat_run_says_what_of_the_gpu_was_not_seen() -> None:
    clock = VirtualClock()
    told = settle(clock.taking(50.0), 24.0, clock, WallTimer(clock), Blind(clock))
    assert told.startswith("flat after") and told.endswith("sm_mhz and temperature_c not known")


def test_the_protocol_warms_apart_and_measures_for_a_time() -> None:
    clock = VirtualClock()
    protocol = Protocol("sustained", buffer_ms=0.0, min_time_s=20.0, settle_s=8.0, timeout_s=40.0)
    found = measure(clock.taking(*[200.0] * 50, 100.0), protocol, clock=clock)
    assert found.latency.warm_up.startswith("flat after") and set(found.samples_ms) == {100.0}
    assert found.latency.num_samples == 200 and found.latency.stop_reason == "20 s measured"
    assert found.latency.images_per_s == pytest.approx(10.0) and found.latency.p99_ms is None
