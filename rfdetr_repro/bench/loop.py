"""The measurement loop of one build of one model: warm-up, blocks of samples, and the decision
whether each block counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rfdetr_repro.bench.gpu.watch import Window
from rfdetr_repro.records.samples import BLOCK, SET_ASIDE, THROTTLED, Series, as_stored
from rfdetr_repro.records.statistics import all_equal, median_of
from rfdetr_repro.spec.protocol import Protocol

from .paced import Trace, run_paced
from .timers import Clock, Timer
from .warm_up import Watch, settle

Run = Callable[[], object]
# block length of a series that ends by time, so that a closed loop is seldom interrupted
LONG_BLOCK_S = 2.0
IDLE_S = 1.0  # time for which an idle GPU is observed, to measure its idle power
RESTS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # rests after blocks that throttled, longer each time
# rests of all builds and models that are measured together; after that, throttled blocks are kept
REST_BUDGET_S = 30.0
# drop below the highest clock of the unthrottled blocks, beyond which a throttled block leads to a
# rest
CLOCK_DROP = 0.05


class Call(NamedTuple):
    """The call that is timed.

    ``gpu_ms`` gives, outside the timed region, the GPU's own duration of the last call in ms.
    """

    run: Run
    sha256: str | None = None  # SHA-256 of the model file
    gpu_ms: Callable[[], float | None] | None = None
    # whether a captured CUDA graph is replayed; None: the backend has no CUDA graphs
    cuda_graph: bool | None = None
    before: Run | None = None  # untimed work at the end of the wait before each sample


class StopRule(NamedTuple):
    """Decides when a series of samples ends; the reason is stored with the result."""

    min_samples: int
    max_samples: int
    relative_ci: float
    timeout_s: float
    min_time_s: float = 0.0

    @classmethod
    def of(cls, protocol: Protocol) -> StopRule:
        """The stop rule of ``protocol``."""
        return cls(
            protocol.min_samples,
            protocol.max_samples,
            protocol.relative_ci,
            protocol.timeout_s,
            protocol.min_time_s,
        )

    def exhausted(self, count: int, elapsed_s: float) -> str | None:
        """The reason to stop a build that has ``count`` samples, or None to go on.

        The time limit outranks the least number of samples; the stored count shows how many were
        taken.
        """
        if count and 0 < self.min_time_s <= elapsed_s:
            return f"{self.min_time_s:g} s measured"
        if count and elapsed_s >= self.timeout_s:
            return f"timeout of {self.timeout_s:g} s"
        if self.min_time_s > 0:
            return None
        return f"maximum of {count} samples" if count >= self.max_samples else None

    def settled(self, builds: Sequence[Series]) -> str | None:
        """The reason why a model needs no more samples (its interval over all builds is narrow
        enough), or None.
        """
        if self.min_time_s > 0 or min(len(build.ms) for build in builds) < self.min_samples:
            return None
        pooled = Series.pooled(builds)
        if all_equal(pooled):
            return f"all {len(pooled.ms)} samples are equal"
        width = median_of(pooled).relative_width
        return (
            f"interval of the median {width:.2%} wide, below {self.relative_ci:.2%}"
            if width < self.relative_ci
            else None
        )


class Rests:
    """What all models of one measurement share: the remaining rest time, in seconds, and the power
    of the idle GPU.
    """

    def __init__(self, budget_s: float = REST_BUDGET_S) -> None:
        """Starts with ``budget_s`` seconds of rest."""
        self.left_s = budget_s
        self.taken_s = 0.0
        self._idle: tuple[float | None] | None = None

    def idle_power_w(self, watch: Watch, clock: Clock) -> float | None:
        """Mean power of the idle GPU in W, observed for IDLE_S by the first call; None if the power
        is not known.
        """
        if self._idle is None:
            mark = watch.mark()
            clock.sleep(IDLE_S)
            self._idle = (watch.since(mark).power_w,)
        return self._idle[0]

    def take(self, wanted_s: float, clock: Clock) -> bool:
        """Sleeps for ``wanted_s`` seconds and returns True, or returns False if the budget is
        spent.
        """
        if wanted_s > self.left_s:
            return False
        clock.sleep(wanted_s)
        self.left_s -= wanted_s
        self.taken_s += wanted_s
        return True


class BuildLoop:
    """The measurement loop of one build, with all samples taken.

    ``windows``: the observations of the GPU watch during each block.
    """

    def __init__(
        self,
        call: Call,
        protocol: Protocol,
        clock: Clock,
        timer: Timer,
        watch: Watch | None,
        rests: Rests | None = None,
    ) -> None:
        """Starts without samples; ``watch`` observes the GPU, and ``rests`` is what all models
        share.
        """
        self.call = call
        self.protocol = protocol
        self.clock = clock
        self.timer = timer
        self.watch = watch
        self.rests = rests or Rests()
        self.rests_taken = 0
        self.rested_s = 0.0
        self.rule = StopRule.of(protocol)
        self.samples_ms: list[float] = []
        self.gpu_ms: list[float] = []
        self.blocks: list[int] = []
        self.marks: list[int] = []
        self.throttled = "unknown" if watch is None else "no"
        self.expected_mhz: float | None = None  # highest clock under load of the unthrottled blocks
        self.trace: Trace | None = None
        # whether the block counts, and the seconds spent in its calls
        self.windows: list[tuple[Window, bool, float]] = []
        self.idle_power_w: float | None = None
        self.elapsed_s = 0.0
        self.reason: str | None = None
        if watch is not None and protocol.mode == "sustained" and protocol.min_time_s > 0:
            self.idle_power_w = self.rests.idle_power_w(watch, clock)
        self.warmup_ms = [timer.time_ms(call.run) for _ in range(protocol.warmup)]
        self.warm_up = (
            settle(call.run, protocol.settle_s, clock, timer, watch)
            if protocol.settle_s > 0
            else None
        )

    @property
    def series(self) -> Series:
        """All samples, including those that were set aside."""
        blocks, marks = (
            np.asarray(numbers, dtype=np.int64) for numbers in (self.blocks, self.marks)
        )
        return Series(
            as_stored(np.asarray(self.samples_ms)), np.zeros(len(blocks), np.int64), blocks, marks
        )

    @property
    def count(self) -> int:
        """Number of samples that were not set aside."""
        return len(self.marks) - self.marks.count(SET_ASIDE)

    def take_block(self, number: int, *, settle: bool) -> None:
        """Takes one block of samples; ``settle`` first runs the call once, untimed, because another
        model has used the caches.

        A block in which the GPU throttled is kept and marked. If the GPU's clock dropped, a rest
        follows, longer each time and within the budget; the block is then set aside and taken
        again.
        """
        start = self.clock.now_ns()
        before = len(self.samples_ms)
        mark = self.watch.mark() if self.watch else 0
        if settle:
            self.call.run()
        if self.protocol.mode == "paced":
            self._take_frames()
        else:
            self._take_samples(start)
        self.elapsed_s += (self.clock.now_ns() - start) / 1e9
        taken = len(self.samples_ms) - before
        self.blocks += [number] * taken
        found = self._judge(self.watch.since(mark), before) if self.watch else 0
        self.marks += [found] * taken
        if self.protocol.mode == "paced" and self.samples_ms:
            self.reason = self.reason or f"{len(self.samples_ms)} frames"
        self.reason = self.reason or self.rule.exhausted(self.count, self.elapsed_s)

    def _take_samples(self, start_ns: int) -> None:
        by_time = self.protocol.min_time_s > 0
        taken = 0
        most = BLOCK if not by_time else 1 << 30
        if not by_time:
            most = min(most, self.protocol.max_samples - self.count)
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
            if self.elapsed_s + spent_s >= (self.protocol.min_time_s or self.rule.timeout_s) or (
                by_time and spent_s >= LONG_BLOCK_S
            ):
                break

    def _take_frames(self) -> None:
        self.trace = run_paced(
            self.call.run,
            self.protocol.fps,
            self.protocol.min_samples,
            self.clock,
            self.rule.timeout_s,
        )
        self.samples_ms += self.trace.response_ms.tolist()

    def _judge(self, window: Window, before: int) -> int:
        """Marks the block's samples, and rests where a rest may help."""
        mark = 0
        if window.invalid:
            mark = SET_ASIDE if self._slowed(window) and self._rested() else THROTTLED
        elif window.busy_mhz is not None:
            self.expected_mhz = max(self.expected_mhz or 0.0, window.busy_mhz)
        self.windows.append((window, mark != SET_ASIDE, sum(self.samples_ms[before:]) / 1e3))
        if (mark == THROTTLED and not self.throttled.startswith("yes")) or (
            self.throttled == "no" and mark != SET_ASIDE
        ):
            self.throttled = window.throttled
        return mark

    def _rested(self) -> bool:
        if self.rests_taken == len(RESTS_S) or not self.rests.take(
            RESTS_S[self.rests_taken], self.clock
        ):
            return False
        self.rested_s += RESTS_S[self.rests_taken]
        self.rests_taken += 1
        return True

    def _slowed(self, window: Window) -> bool:
        """Whether the clock dropped below the highest clock of the series.

        The answer is False where no clock is known, or no earlier block.
        """
        if window.busy_mhz is None or self.expected_mhz is None:
            return False
        return window.busy_mhz < (1 - CLOCK_DROP) * self.expected_mhz
