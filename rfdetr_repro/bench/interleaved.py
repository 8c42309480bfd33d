"""The latency protocol (benchmark protocol section 3): warm-up apart, samples by mode, a stop rule,
a summary.

*Buffered* waits before every sample, outside the timed region, as the paper does (200 ms);
*sustained* is a closed loop; *paced* has arrivals at a fixed rate. Models and their builds are
measured interleaved, block by block in random order, so that drift of the machine falls on all of
them. All builds of a model end together, when the interval over all of them is narrow enough.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfdetr_repro.bench.gpu.state import gpu_state
from rfdetr_repro.records.record import Build, Latency
from rfdetr_repro.records.samples import BLOCK, Series
from rfdetr_repro.records.statistics import summarise, verdict_of
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol

from .loop import RESTS_S, Call, Lane, Rests, Run, StopRule
from .paced import summary
from .timers import Clock, Timer, WallClock, WallTimer
from .warm_up import Watch

__all__ = [
    "BLOCK",
    "RESTS_S",
    "Call",
    "Measurement",
    "Run",
    "StopRule",
    "Watch",
    "measure",
    "measure_interleaved",
]

Samples = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Measurement:
    """Summary and raw data; ``warmup_ms``, and samples that were set aside, are not part of the
    summary.
    """

    latency: Latency
    series: Series
    warmup_ms: Samples

    @property
    def samples_ms(self) -> Samples:
        """float64 (n,), build by build."""
        return self.series.ms


def measure(
    run: Run,
    protocol: Protocol,
    *,
    artifact_sha256: str | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    watch: Watch | None = None,
) -> Measurement:
    """Latency of ``run()`` in ms.

    Only the call itself is timed; input and session are bound by the caller.
    """
    calls = {"": [Call(run, artifact_sha256)]}
    return measure_interleaved(calls, protocol, clock=clock, timer=timer, watch=watch)[""]


def measure_interleaved(
    runs: Mapping[str, Run | Sequence[Call]],
    protocol: Protocol,
    *,
    seed: int = 0,
    hashes: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    watch: Watch | None = None,
    done: Callable[[str, Measurement | Exception], None] | None = None,
) -> dict[str, Measurement]:
    """Latency of several models, each one call or a call per build; rounds of one block each, in a
    new random order per round.

    ``hashes``: name -> SHA-256 of the artifact of a single call. A model whose stop rule is met
    drops out; the others go on. ``watch``: of the GPU that works; without one the throttle state is
    "unknown". ``done`` gets each model as it is finished, or what its call raised, and the others
    go on; without it the error ends the measurement.
    """
    if not isinstance(protocol, Protocol):
        raise InputError(
            f"{protocol!r} is no protocol",
            hint="give rfdetr_repro.spec.protocol.Protocol(mode=...)",
        )
    clock = clock or WallClock()
    timer = timer or WallTimer(clock)
    lanes: dict[str, list[Lane]] = {}
    rests = Rests()
    for name, given in runs.items():
        calls = [Call(given, (hashes or {}).get(name))] if callable(given) else given
        lanes[name] = []
        with _dropping(name, lanes, done):
            lanes[name] = [Lane(call, protocol, clock, timer, watch, rests) for call in calls]
    order = [(name, lane) for name, builds in lanes.items() for lane in builds]
    alone = len(order) == 1
    rng = random.Random(seed)
    number = 0
    results = {}
    while order:
        rng.shuffle(order)
        for name, lane in order:
            with _dropping(name, lanes, done):
                lane.take_block(number, settle=not alone)
        number += 1
        for name, builds in list(lanes.items()):
            with _dropping(name, lanes, done):
                _end_together(builds)
        order = [(name, lane) for name, lane in order if lane.reason is None and name in lanes]
        for name in [
            name
            for name in lanes
            if name not in results and all(lane.reason for lane in lanes[name])
        ]:
            with _dropping(name, lanes, done):
                results[name] = _measurement(lanes[name])
            if done is not None and name in results:
                done(name, results[name])
    return {name: results[name] for name in lanes}


@contextmanager
def _dropping(
    name: str,
    lanes: dict[str, list[Lane]],
    done: Callable[[str, Measurement | Exception], None] | None,
) -> Iterator[None]:
    """What a model's call raises takes the model out, if somebody is to be told."""
    try:
        yield
    except Exception as error:  # a runtime raises what it likes
        if done is None:
            raise
        # told once, however many of its builds fail in a round
        if lanes.pop(name, None) is not None:
            done(name, error)


def _end_together(lanes: Sequence[Lane]) -> None:
    """Ends all builds of a model whose interval is narrow enough; a build may have ended before, by
    time.
    """
    if lanes and all(lane.reason for lane in lanes):
        return
    if reason := lanes[0].rule.settled([lane.series.counted for lane in lanes]):
        for lane in lanes:
            lane.reason = lane.reason or reason


def _measurement(lanes: Sequence[Lane]) -> Measurement:
    protocol = lanes[0].protocol
    series = Series.pooled([lane.series for lane in lanes])
    counted = series.counted
    latency = summarise(
        counted.ms,
        stop_reason="; ".join(dict.fromkeys(lane.reason or "" for lane in lanes)),
        sustained=protocol.mode == "sustained",
        artifact_sha256=lanes[0].call.sha256,
        series=counted,
    )
    builds = tuple(_build(lane) for lane in lanes) if len(lanes) > 1 else None
    medians = [build.median_ms for build in builds or ()]
    events = [event for lane in lanes for event in lane.gpu_ms]
    traces = [lane.trace for lane in lanes if lane.trace is not None]
    state = gpu_state(
        [window for lane in lanes for window in lane.windows],
        lanes[0].idle_power_w,
        protocol.mode == "sustained" and not protocol.flush_l2,
        len(counted.ms),
        rested_s=sum(lane.rested_s for lane in lanes),
    )
    latency = dataclasses.replace(
        latency,
        throttled=verdict_of([lane.throttled for lane in lanes]),
        num_dropped=len(series.ms) - len(counted.ms),
        num_marked=series.num_marked if state is not None else None,
        cuda_graph=lanes[0].call.cuda_graph,
        gpu_median_ms=float(np.median(events)) if events else None,
        builds=builds,
        between_builds_ms=max(medians) - min(medians) if medians else None,
        warm_up="; ".join(dict.fromkeys(lane.warm_up for lane in lanes if lane.warm_up)) or None,
        paced=summary(traces, protocol.fps) if traces else None,
        gpu=state,
    )
    return Measurement(latency, series, np.concatenate([lane.warmup_ms for lane in lanes]))


def _build(lane: Lane) -> Build:
    samples_ms = lane.series.counted.ms
    return Build(lane.call.sha256 or "unknown", float(np.median(samples_ms)), len(samples_ms))
