"""Arrivals at a fixed rate on a clock that only the runs move."""

from __future__ import annotations

import pytest
from samples_bench import VirtualClock

from rfdetr_repro.bench.interleaved import measure
from rfdetr_repro.bench.paced import run_paced, summary
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol


def test_a_model_that_keeps_up_waits_for_every_frame() -> None:
    clock = VirtualClock()
    trace = run_paced(clock.taking(10.0), 50.0, 6, clock, 60.0)
    assert trace.response_ms.tolist() == [10.0] * 6 and trace.queued.tolist() == [0] * 6
    assert clock.slept == pytest.approx([0.01] * 5)
    found = summary([trace], 50.0)
    assert (found.missed_share, found.lateness_max_ms, found.queue_max) == (0.0, 0.0, 0)


def test_a_model_that_is_too_slow_falls_behind() -> None:
    """30 ms per frame at 50 fps: frame k ends at 30 (k + 1) and arrived at 20 k."""
    clock = VirtualClock()
    trace = run_paced(clock.taking(30.0), 50.0, 5, clock, 60.0)
    assert trace.response_ms.tolist() == [30.0, 40.0, 50.0, 60.0, 70.0] and clock.slept == []
    # at 0, 30, 60, 90 and 120 ms; no frame follows the fifth
    assert trace.queued.tolist() == [0, 0, 1, 1, 0]
    found = summary([trace], 50.0)
    assert (found.missed_share, found.lateness_p50_ms, found.lateness_max_ms, found.queue_max) == (
        1.0,
        30.0,
        50.0,
        1,
    )
    assert found.lateness_p99_ms is None and found.queue_mean == pytest.approx(0.4)


def test_one_hiccup_is_caught_up() -> None:
    clock = VirtualClock()
    trace = run_paced(clock.taking(50.0, 5.0), 50.0, 6, clock, 60.0)
    assert trace.response_ms.tolist() == [50.0, 35.0, 20.0, 5.0, 5.0, 5.0]
    # a frame done at its deadline is in time
    assert summary([trace], 50.0).missed_share == pytest.approx(2 / 6)


def test_a_closed_loop_would_hide_it() -> None:
    """Timed from the start of its own run, every frame of the slow model takes 30 ms and none seems
    to wait.
    """
    clock = VirtualClock()
    closed = measure(
        clock.taking(30.0), Protocol("sustained", min_samples=16, max_samples=16), clock=clock
    )
    paced = Protocol("paced", fps=50.0, min_samples=16, max_samples=16, buffer_ms=0.0, warmup=0)
    opened = measure(clock.taking(30.0), paced, clock=clock).latency
    assert (
        max(closed.samples_ms) == 30.0
        and opened.median_ms > 100
        and opened.paced.lateness_max_ms == 160.0
    )
    assert opened.stop_reason == "16 frames" and opened.images_per_s is None


def test_the_time_limit_ends_it() -> None:
    clock = VirtualClock()
    assert len(run_paced(clock.taking(500.0), 60.0, 1000, clock, 2.0).response_ms) == 4


@pytest.mark.parametrize(
    "fields", [{"mode": "paced"}, {"mode": "buffered", "fps": 30.0}, {"mode": "paced", "fps": -1.0}]
)
def test_a_rate_belongs_to_the_paced_mode(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="frames per second|fps = -1.0"):
        Protocol(**fields)  # type: ignore[arg-type]
