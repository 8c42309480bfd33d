"""The latency protocol (benchmark protocol section 3): warm-up apart, a wait before each sample or none, a stop rule, a summary.

*Buffered* waits before every sample, outside the timed region, as the paper does (200 ms); *sustained* is a closed loop. Several
models are measured interleaved, block by block in random order, so that drift of the machine falls on all of them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from typing import Protocol as Interface

import numpy as np

from ..config import Protocol
from ..record import Latency
from .gpu_watch import Window
from .statistics import median_interval, summarise
from .timers import Clock, Timer, WallClock, WallTimer

Samples = np.ndarray[Any, Any]
Run = Callable[[], object]
BLOCK = 16  # samples between two looks at the stop rule, and between two models
RESTS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # after a block that throttled, longer each time; then the series ends


class Watch(Interface):
    """What :class:`rfdetr_repro.bench.gpu_watch.GpuWatch` does."""

    def mark(self) -> int: ...

    def since(self, mark: int) -> Window: ...


class Measurement(NamedTuple):
    """Summary and raw data; ``warmup_ms`` is not part of the summary."""

    latency: Latency
    samples_ms: Samples  # float64 (n,)
    warmup_ms: Samples


class StopRule(NamedTuple):
    """When a series ends. ``reason`` is stored with the result."""

    min_samples: int
    max_samples: int
    relative_ci: float
    timeout_s: float

    @classmethod
    def of(cls, protocol: Protocol) -> StopRule:
        return cls(protocol.min_samples, protocol.max_samples, protocol.relative_ci, protocol.timeout_s)

    def reason(self, samples_ms: list[float], elapsed_s: float) -> str | None:
        """Why to stop now, or None. The time limit outranks the least number of samples: the count tells what was reached."""
        n = len(samples_ms)
        if n and elapsed_s >= self.timeout_s:
            return f"timeout of {self.timeout_s:g} s"
        if n < self.min_samples:
            return None
        interval = median_interval(np.asarray(samples_ms), resamples=500)
        width = (interval.high - interval.low) / float(np.median(samples_ms))
        if width < self.relative_ci:
            return f"interval of the median {width:.2%} wide, below {self.relative_ci:.2%}"
        return f"maximum of {n} samples" if n >= self.max_samples else None


class _Series:
    """The samples of one model."""

    def __init__(self, run: Run, protocol: Protocol, clock: Clock, timer: Timer, watch: Watch | None) -> None:
        self.run, self.protocol, self.clock, self.timer, self.watch = run, protocol, clock, timer, watch
        self.dropped, self.rests, self.throttled = 0, 0, "unknown" if watch is None else "no"
        self.rule = StopRule.of(protocol)
        self.samples_ms: list[float] = []
        self.elapsed_s = 0.0
        self.reason: str | None = None
        self.warmup_ms = [timer.time_ms(run) for _ in range(protocol.warmup)]

    def take_block(self, *, settle: bool) -> None:
        """Up to BLOCK samples; ``settle`` runs once untimed first, because another model has used the caches.

        A block in which the GPU throttled is dropped and counted, and a rest follows that grows from time to time.
        """
        start, before, mark = self.clock.now_ns(), len(self.samples_ms), self.watch.mark() if self.watch else 0
        if settle:
            self.run()
        ahead = self.protocol.max_samples - len(self.samples_ms)
        for _ in range(min(BLOCK, ahead)):
            if self.protocol.mode == "buffered":
                self.clock.sleep(self.protocol.buffer_ms / 1e3)
            self.samples_ms.append(self.timer.time_ms(self.run))
            if self.elapsed_s + (self.clock.now_ns() - start) / 1e9 >= self.rule.timeout_s:
                break
        self.elapsed_s += (self.clock.now_ns() - start) / 1e9
        if self.watch:
            self._judge(self.watch.since(mark), before)
        self.reason = self.reason or self.rule.reason(self.samples_ms, self.elapsed_s)

    def _judge(self, window: Window, before: int) -> None:
        if window.invalid and self.rests < len(RESTS_S):
            self.dropped += len(self.samples_ms) - before
            del self.samples_ms[before:]
            self.clock.sleep(RESTS_S[self.rests])
            self.rests += 1
        elif window.invalid:  # it throttles whenever it works: then that is what it does, and the result says so
            self.throttled, self.reason = window.throttled, f"throttled after {len(RESTS_S)} rests"
        elif self.throttled == "no":
            self.throttled = window.throttled

    def result(self, artifact_sha256: str | None) -> Measurement:
        samples, sustained = np.asarray(self.samples_ms), self.protocol.mode == "sustained"
        latency = summarise(samples, stop_reason=self.reason or "", sustained=sustained, artifact_sha256=artifact_sha256)
        latency = dataclasses.replace(latency, throttled=self.throttled, num_dropped=self.dropped)
        return Measurement(latency, samples, np.asarray(self.warmup_ms))


def measure(
    run: Run,
    protocol: Protocol,
    *,
    artifact_sha256: str | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    watch: Watch | None = None,
) -> Measurement:
    """Latency of ``run()`` in ms. Only the call itself is timed; input and session are bound by the caller."""
    hashes = {} if artifact_sha256 is None else {"": artifact_sha256}
    return measure_interleaved({"": run}, protocol, hashes=hashes, clock=clock, timer=timer, watch=watch)[""]


def measure_interleaved(
    runs: Mapping[str, Run],
    protocol: Protocol,
    *,
    seed: int = 0,
    hashes: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    timer: Timer | None = None,
    watch: Watch | None = None,
) -> dict[str, Measurement]:
    """Latency of several models; rounds of one block each, in a new random order per round.

    ``hashes``: name -> SHA-256 of the artifact. A model whose stop rule is met drops out; the others go on. ``watch``: of the GPU
    that works; without one the throttle state is "unknown".
    """
    clock = clock or WallClock()
    timer = timer or WallTimer(clock)
    series = {name: _Series(run, protocol, clock, timer, watch) for name, run in runs.items()}
    order, rng = list(series), random.Random(seed)
    while order:
        rng.shuffle(order)
        for name in order:
            series[name].take_block(settle=len(runs) > 1)
        order = [name for name in order if series[name].reason is None]
    return {name: series[name].result((hashes or {}).get(name)) for name in runs}
