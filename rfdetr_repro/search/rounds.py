"""Latencies of many engines on a machine that need not be quiet: measured in rounds, fitted as two
factors.

In a round every engine is visited once, in a new random order, and sampled as in the protocol:
buffered after the whole wait, sustained in a closed loop. A sample is the engine's latency times
the state of the machine in that round times noise. Both factors are fitted by medians (Tukey's
median polish of the logarithms), so that every engine is a reference for every other: drift and
bursts of load that cover a round cancel in the ratios, and single disturbed samples do not matter.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from rfdetr_repro.bench.loop import Call
from rfdetr_repro.bench.timers import Clock, Timer, WallClock, WallTimer
from rfdetr_repro.bench.warm_up import Watch
from rfdetr_repro.records.record import Latency
from rfdetr_repro.records.statistics import verdict_of
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol

Array = np.ndarray[Any, Any]
LOOP = 8  # sustained samples per visit; their median is the visit's sample
FEW = 4  # number of engines below which the state of a round cannot be separated from an engine
POLISHES = 20
_NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
_OF_MEDIAN = 1.2533  # standard error of a median over that of a mean


class Levels(NamedTuple):
    """The fitted latencies.

    ``ms``: latency of each engine in the round of median load, float64 (engines,). ``reach``:
    relative half-width of its 95 % interval, infinite after a single round.
    """

    ms: Array
    reach: Array

    @property
    def width(self) -> float:
        """Median width of the intervals, relative to the latency."""
        return float(2 * np.median(self.reach))


def levels(samples_ms: Array) -> Levels:
    """The latencies fitted to positive samples, float64 (engines, rounds)."""
    logs = np.log(np.asarray(samples_ms, dtype=float))
    engine = np.median(logs, axis=1)
    rounds = np.zeros(logs.shape[1])
    if len(logs) >= FEW:
        for _ in range(POLISHES):
            rounds = np.median(logs - engine[:, None], axis=0)
            rounds -= np.median(rounds)
            engine = np.median(logs - rounds, axis=1)
    if (count := logs.shape[1]) < 2:
        return Levels(np.exp(engine), np.full(len(logs), np.inf))
    spread = _NORMAL * np.median(np.abs(logs - engine[:, None] - rounds), axis=1)
    # correction for the scatter that the fit absorbs
    free = (1 - 1 / count) * (1 - 1 / len(logs) if len(logs) >= FEW else 1)
    error = _OF_MEDIAN * spread / np.sqrt(count * free)
    return Levels(np.exp(engine), error * student.ppf(0.975, count - 1))


def short_form(decision: Protocol) -> Protocol:
    """The protocol for engines, in rounds, with the mode, the wait and the threads of ``decision``.

    ``min_samples`` and ``max_samples`` count rounds, ``relative_ci`` is the width at which they end
    (:attr:`Levels.width`), and ``timeout_s`` is the time of all rounds over the number of engines.
    The wait is not shortened, because a shorter wait would be another mode.
    """
    if not decision.usual:
        raise InputError(
            f"a search by {decision.rhythm} latencies is not possible",
            hint="choose buffered or sustained",
        )
    rounds = {
        "warmup": 2,
        "min_samples": 6,
        "max_samples": 24,
        "relative_ci": 0.08,
        "timeout_s": 10.0,
    }
    return Protocol(decision.mode, buffer_ms=decision.buffer_ms, threads=decision.threads, **rounds)  # type: ignore[arg-type]


def measure_rounds(
    calls: Mapping[str, Call],
    protocol: Protocol,
    *,
    seed: int = 0,
    clock: Clock | None = None,
    timer: Timer | None = None,
    watch: Watch | None = None,
) -> dict[str, Latency]:
    """Measures the latency of each call by :func:`levels`; ``protocol`` is a result of
    :func:`short_form`.
    """
    clock = clock or WallClock()
    timer = timer or WallTimer(clock)
    rng = random.Random(seed)
    names = list(calls)
    verdicts = {name: ["no"] for name in calls}
    for call in calls.values():
        for _ in range(protocol.warmup):
            call.run()
    start = clock.now_ns()
    rounds = []
    reason = ""
    while not reason:
        column = {}
        for name in rng.sample(names, len(names)):
            mark = watch.mark() if watch else 0
            column[name] = _visit(calls[name], protocol, clock, timer)
            if watch:
                verdicts[name].append(watch.since(mark).throttled)
        rounds.append([column[name] for name in names])
        found = levels(np.array(rounds).T)
        reason = _reason(found, len(rounds), (clock.now_ns() - start) / 1e9, protocol)
    return {
        name: Latency(
            float(ms),
            ci_low_ms=float(ms * np.exp(-reach)) if len(rounds) > 1 else None,
            ci_high_ms=float(ms * np.exp(reach)) if len(rounds) > 1 else None,
            num_samples=len(rounds),
            stop_reason=reason,
            cuda_graph=calls[name].cuda_graph,
            throttled=verdict_of(verdicts[name]) if watch else "unknown",
            artifact_sha256=calls[name].sha256,
        )
        for name, ms, reach in zip(names, *found, strict=True)
    }


def _visit(call: Call, protocol: Protocol, clock: Clock, timer: Timer) -> float:
    """One sample in ms, after an untimed run, because another engine has used the caches."""
    call.run()
    if protocol.mode == "sustained":
        return float(np.median([timer.time_ms(call.run) for _ in range(LOOP)]))
    clock.sleep(protocol.buffer_ms / 1e3)
    if call.before is not None:
        call.before()
    return timer.time_ms(call.run)


def _reason(found: Levels, rounds: int, elapsed_s: float, protocol: Protocol) -> str:
    """The reason to stop, or ""."""
    if rounds >= protocol.min_samples and found.width < protocol.relative_ci:
        return (
            f"interval {found.width:.1%} wide after {rounds} rounds, below "
            f"{protocol.relative_ci:.1%}"
        )
    if rounds >= protocol.max_samples:
        return f"maximum of {rounds} rounds, interval {found.width:.1%} wide"
    if elapsed_s >= protocol.timeout_s * len(found.ms):
        return f"timeout after {rounds} rounds, interval {found.width:.1%} wide"
    return ""
