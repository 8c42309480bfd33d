"""Timers and clocks."""

from __future__ import annotations

from rfdetr_repro.bench.timers import WallClock, WallTimer


class FakeClock:
    def __init__(self) -> None:
        self.ns = 5

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def test_wall_timer_times_the_call_alone() -> None:
    clock = FakeClock()
    calls = []

    def run() -> None:
        calls.append(clock.ns)
        clock.ns += 2_500_000

    assert WallTimer(clock).time_ms(run) == 2.5
    assert calls == [5]


def test_wall_clock_runs_forward() -> None:
    clock = WallClock()
    first = clock.now_ns()
    clock.sleep(0.0)
    assert clock.now_ns() >= first
