"""The paced mode: frames arrive at a fixed rate, whether or not the previous frame is finished.
Does the model sustain 30 or 60 fps?

The loop is open: arrivals follow the schedule, one frame is processed at a time, and the others
wait in an unbounded queue. The response time of a frame starts at its arrival, so it includes the
wait in the queue and the operating system's wake-up delay. The deadline of a frame is the arrival
of the next frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.records.record import Paced
from rfdetr_repro.records.statistics import tail

from .timers import Clock

Array = np.ndarray[Any, Any]


class Trace(NamedTuple):
    """Response times and queue lengths, with one value per frame in order of arrival."""

    response_ms: Array  # float64 (n,), ms from arrival to result
    queued: Array  # int64 (n,), number of waiting frames when the frame is started


def run_paced(
    run: Callable[[], object], fps: float, frames: int, clock: Clock, timeout_s: float
) -> Trace:
    """Processes ``frames`` arrivals, 1 / fps seconds apart; fewer if ``timeout_s`` seconds pass
    before the last.
    """
    responses: list[float] = []
    queued: list[int] = []
    period_ns = 1e9 / fps
    first = clock.now_ns()
    for index in range(frames):
        arrival = first + round(index * period_ns)
        now = clock.now_ns()
        if now < arrival:
            clock.sleep((arrival - now) / 1e9)
            now = clock.now_ns()
        elif responses and (now - first) / 1e9 >= timeout_s:
            break
        arrived = min(frames, int(max(0, now - first) / period_ns) + 1)
        queued.append(max(0, arrived - index - 1))
        run()
        responses.append((clock.now_ns() - arrival) / 1e6)
    return Trace(np.asarray(responses), np.asarray(queued, dtype=np.int64))


def summary(traces: list[Trace], fps: float) -> Paced:
    """Summary of missed deadlines and queue lengths over the frames of all builds."""
    response = np.concatenate([trace.response_ms for trace in traces])
    queued = np.concatenate([trace.queued for trace in traces])
    late = np.maximum(0.0, response - 1e3 / fps)
    return Paced(
        fps=fps,
        missed_share=float(np.mean(late > 0)),
        lateness_p50_ms=float(np.median(late)),
        lateness_p99_ms=tail(late, 0.99),
        lateness_max_ms=float(late.max()),
        queue_mean=float(queued.mean()),
        queue_max=int(queued.max()),
    )
