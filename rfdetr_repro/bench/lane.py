"""One build of one model on its way through the protocol: warm-up, blocks of samples, the verdict on each block."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..latency_protocol import Protocol
from .gpu_watch import Window
from .paced import Trace, run_paced
from .samples import BLOCK, Series
from .statistics import median_interval
from .timers import Clock, Timer
from .warm_up import Watch, settle

Run = Callable[[], object]
LONG_BLOCK_S = 2.0  # of a series that is ended by time: a closed loop is not to be interrupted often
IDLE_S = 1.0  # an idle GPU is looked at for so long, to know what it draws
RESTS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # after a block that throttled, longer each time; then the series ends


class Call(NamedTuple):
    """What is timed. ``gpu_ms`` reads, untimed, how long the GPU says the last call took."""

    run: Run
    sha256: str | None = None  # of the file that runs
    gpu_ms: Callable[[], float | None] | None = None
    cuda_graph: bool | None = None  # whether a captured graph is replayed; None: not on such a GPU
    before: Run | None = None  # untimed, at the end of the wait before each sample


class StopRule(NamedTuple):
    """When a series ends. ``reason`` is stored with the result."""

    min_samples: int
    max_samples: int
    relative_ci: float
    timeout_s: float
    min_time_s: float = 0.0

    @classmethod
    def of(cls, protocol: Protocol) -> StopRule:
        return cls(protocol.min_samples, protocol.max_samples, protocol.relative_ci, protocol.timeout_s, protocol.min_time_s)

    def reason(self, samples_ms: list[float], elapsed_s: float) -> str | None:
        """Why to stop now, or None. The time limit outranks the least number of samples: the count tells what was reached."""
        n = len(samples_ms)
        if n and 0 < self.min_time_s <= elapsed_s:
            return f"{self.min_time_s:g} s measured"
        if n and elapsed_s >= self.timeout_s:
            return f"timeout of {self.timeout_s:g} s"
        if n < self.min_samples or self.min_time_s > 0:
            return None
        interval = median_interval(np.asarray(samples_ms), resamples=500)
        width = (interval.high - interval.low) / float(np.median(samples_ms))
        if width < self.relative_ci:
            return f"interval of the median {width:.2%} wide, below {self.relative_ci:.2%}"
        return f"maximum of {n} samples" if n >= self.max_samples else None


class Lane:
    """The samples of one build. ``windows``: what the watch saw during each block, and whether the block was kept."""

    def __init__(self, call: Call, protocol: Protocol, clock: Clock, timer: Timer, watch: Watch | None) -> None:
        self.call, self.protocol, self.clock, self.timer, self.watch = call, protocol, clock, timer, watch
        self.dropped, self.rests, self.throttled = 0, 0, "unknown" if watch is None else "no"
        self.rule = StopRule.of(protocol)
        self.samples_ms: list[float] = []
        self.gpu_ms: list[float] = []
        self.blocks: list[int] = []
        self.trace: Trace | None = None
        self.windows: list[tuple[Window, bool, float]] = []  # with the seconds spent in the calls of the block
        self.idle_power_w: float | None = None
        self.elapsed_s = 0.0
        self.reason: str | None = None
        if watch is not None and protocol.mode == "sustained" and protocol.min_time_s > 0:
            mark = watch.mark()
            clock.sleep(IDLE_S)
            self.idle_power_w = watch.since(mark).power_w
        self.warmup_ms = [timer.time_ms(call.run) for _ in range(protocol.warmup)]
        self.warm_up = settle(call.run, protocol.settle_s, clock, timer, watch) if protocol.settle_s > 0 else None

    @property
    def series(self) -> Series:
        return Series(np.asarray(self.samples_ms), np.zeros(len(self.blocks), np.int64), np.asarray(self.blocks, dtype=np.int64))

    def take_block(self, number: int, *, settle: bool) -> None:
        """One block of samples; ``settle`` runs once untimed first, because another model has used the caches.

        A block in which the GPU throttled is dropped and counted, and a rest follows that grows from time to time.
        """
        start, before, mark = self.clock.now_ns(), len(self.samples_ms), self.watch.mark() if self.watch else 0
        if settle:
            self.call.run()
        if self.protocol.mode == "paced":
            self._take_frames()
        else:
            self._take_samples(start)
        self.elapsed_s += (self.clock.now_ns() - start) / 1e9
        self.blocks += [number] * (len(self.samples_ms) - before)
        if self.watch:
            self._judge(self.watch.since(mark), before)
        if self.protocol.mode == "paced" and self.samples_ms:
            self.reason = self.reason or f"{len(self.samples_ms)} frames"
        self.reason = self.reason or self.rule.reason(self.samples_ms, self.elapsed_s)

    def _take_samples(self, start_ns: int) -> None:
        by_time, taken = self.protocol.min_time_s > 0, 0
        most = BLOCK if not by_time else 1 << 30
        if not by_time:
            most = min(most, self.protocol.max_samples - len(self.samples_ms))
        while taken < most:
            if self.protocol.mode == "buffered":
                self.clock.sleep((self.protocol.buffer_ms - self.protocol.spin_ms) / 1e3)
            if self.call.before is not None:
                self.call.before()
            self.samples_ms.append(self.timer.time_ms(self.call.run))
            if self.call.gpu_ms is not None and (event_ms := self.call.gpu_ms()) is not None:
                self.gpu_ms.append(event_ms)
            taken += 1
            spent_s = (self.clock.now_ns() - start_ns) / 1e9
            if (
                self.elapsed_s + spent_s >= (self.protocol.min_time_s or self.rule.timeout_s)
                or by_time
                and spent_s >= LONG_BLOCK_S
            ):
                break

    def _take_frames(self) -> None:
        self.trace = run_paced(self.call.run, self.protocol.fps, self.protocol.min_samples, self.clock, self.rule.timeout_s)
        self.samples_ms += self.trace.response_ms.tolist()

    def _judge(self, window: Window, before: int) -> None:
        drop = window.invalid and self.rests < len(RESTS_S)
        self.windows.append((window, not drop, sum(self.samples_ms[before:]) / 1e3))
        if drop:
            self.dropped += len(self.samples_ms) - before
            del self.samples_ms[before:], self.blocks[before:], self.gpu_ms[before:]
            self.clock.sleep(RESTS_S[self.rests])
            self.rests += 1
        elif window.invalid:  # it throttles whenever it works: then that is what it does, and the result says so
            self.throttled, self.reason = window.throttled, f"throttled after {len(RESTS_S)} rests"
        elif self.throttled == "no":
            self.throttled = window.throttled
