"""The latency protocol (benchmark protocol section 3): a separate warm-up, samples by mode, a stop
rule, a summary.

The *buffered* mode waits before every sample, outside the timed region, as the paper does (200 ms);
the *sustained* mode is a closed loop; in the *paced* mode, frames arrive at a fixed rate. Models
and their builds are measured interleaved, block by block in random order, so that drift of the
machine affects all of them alike. All builds of a model end together, as soon as the interval over
all builds is narrow enough.
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

from .loop import RESTS_S, BuildLoop, Call, Rests, Run, StopRule
from .paced import summary
from .timers import Clock, Timer, WallClock, WallTimer
from .warm_up import Watch
from .watching import Report, states_of

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
    """Summary and raw data of one model.

    The summary leaves out ``warmup_ms`` and the samples that were set aside.
    """

    latency: Latency
    series: Series
    warmup_ms: Samples

    @property
    def samples_ms(self) -> Samples:
        """float64 (n,): duration of each counted sample in ms, build by build."""
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
    """Measures the latency of ``run()`` in ms.

    Only the call itself is timed; the caller binds the input first.
    """
    calls = {"": [Call(run, artifact_sha256)]}
    return measure_interleaved(calls, protocol, clock=clock, timer=timer, watch=watch)[""]


def measure_interleaved(
    runs: Mapping[str, Run | Sequence[Call]],
    protocol: Protocol,
    *,
    seed: int = 0,
    clock: Clock | None = None,
    timer: Timer | None = None,
    watch: Watch | None = None,
    done: Callable[[str, Measurement | Exception], None] | None = None,
    report: Report | None = None,
) -> dict[str, Measurement]:
    """Measures the latency of several models, each with one call or one call per build, in rounds
    of one block per build, in a new random order per round.

    A model whose stop rule is met drops out, and the others go on. ``watch``: a watch on the GPU in
    use; without a watch the throttle state is "unknown". ``done`` receives each finished model, or
    the error of its call, and the other models go on; without ``done``, an error ends the
    measurement. ``report`` is told between two rounds how far the models are. Raises
    :class:`InputError` if ``protocol`` is not a Protocol.
    """
    if not isinstance(protocol, Protocol):
        raise InputError(
            f"{protocol!r} is not a Protocol",
            hint="give rfdetr_repro.spec.protocol.Protocol(mode=...)",
        )
    clock = clock or WallClock()
    timer = timer or WallTimer(clock)
    loops: dict[str, list[BuildLoop]] = {}
    rests = Rests()
    for name, given in runs.items():
        calls = [Call(given)] if callable(given) else given
        loops[name] = []
        with _dropping(name, loops, done):
            loops[name] = [BuildLoop(call, protocol, clock, timer, watch, rests) for call in calls]
    order = [(name, loop) for name, builds in loops.items() for loop in builds]
    alone = len(order) == 1
    rng = random.Random(seed)
    number = 0
    results = {}
    while order:
        rng.shuffle(order)
        for name, loop in order:
            with _dropping(name, loops, done):
                loop.take_block(number, settle=not alone)
        number += 1
        for name, builds in list(loops.items()):
            with _dropping(name, loops, done):
                _end_together(builds)
        order = [(name, loop) for name, loop in order if loop.reason is None and name in loops]
        if order and report is not None and report.due():
            report.show(states_of(loops, number))
        for name in [
            name
            for name in loops
            if name not in results and all(loop.reason for loop in loops[name])
        ]:
            with _dropping(name, loops, done):
                results[name] = _measurement(loops[name])
            if done is not None and name in results:
                done(name, results[name])
    return {name: results[name] for name in loops}


@contextmanager
def _dropping(
    name: str,
    loops: dict[str, list[BuildLoop]],
    done: Callable[[str, Measurement | Exception], None] | None,
) -> Iterator[None]:
    """Removes a model whose call raises an error, and reports the error to ``done`` if there is
    one.
    """
    try:
        yield
    except Exception as error:  # a runtime raises what it likes
        if done is None:
            raise
        # reported once, even if several builds fail in a round
        if loops.pop(name, None) is not None:
            done(name, error)


def _end_together(loops: Sequence[BuildLoop]) -> None:
    """Ends all builds of a model whose interval is narrow enough; a build may have ended before, by
    the time limit.
    """
    if loops and all(loop.reason for loop in loops):
        return
    if reason := loops[0].rule.settled([loop.series.counted for loop in loops]):
        for loop in loops:
            loop.reason = loop.reason or reason


def _measurement(loops: Sequence[BuildLoop]) -> Measurement:
    protocol = loops[0].protocol
    series = Series.pooled([loop.series for loop in loops])
    counted = series.counted
    latency = summarise(
        counted.ms,
        stop_reason="; ".join(dict.fromkeys(loop.reason or "" for loop in loops)),
        sustained=protocol.mode == "sustained",
        artifact_sha256=loops[0].call.sha256,
        series=counted,
        batch=protocol.batch,
    )
    builds = tuple(_build(loop) for loop in loops) if len(loops) > 1 else None
    medians = [build.median_ms for build in builds or ()]
    events = [event for loop in loops for event in loop.gpu_ms]
    traces = [loop.trace for loop in loops if loop.trace is not None]
    state = gpu_state(
        [window for loop in loops for window in loop.windows],
        loops[0].idle_power_w,
        protocol.mode == "sustained" and not protocol.flush_l2,
        len(counted.ms) * protocol.batch,
        rested_s=sum(loop.rested_s for loop in loops),
    )
    latency = dataclasses.replace(
        latency,
        throttled=verdict_of([loop.throttled for loop in loops]),
        num_dropped=len(series.ms) - len(counted.ms),
        num_marked=series.num_marked if state is not None else None,
        cuda_graph=loops[0].call.cuda_graph,
        gpu_median_ms=float(np.median(events)) if events else None,
        builds=builds,
        between_builds_ms=max(medians) - min(medians) if medians else None,
        warm_up="; ".join(dict.fromkeys(loop.warm_up for loop in loops if loop.warm_up)) or None,
        paced=summary(traces, protocol.fps) if traces else None,
        gpu=state,
    )
    return Measurement(latency, series, np.concatenate([loop.warmup_ms for loop in loops]))


def _build(loop: BuildLoop) -> Build:
    samples_ms = loop.series.counted.ms
    return Build(loop.call.sha256 or "unknown", float(np.median(samples_ms)), len(samples_ms))
