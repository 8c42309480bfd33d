"""The warm-up lasts until nothing drifts: run time, and, on a watched GPU, clock and temperature
(benchmark protocol section 3).

The window is divided into slices, and a straight line is fitted through the last SLICES slices. A
quantity is flat if the line changes over the window by less than the quantity's limit, or by less
than twice the line's standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from rfdetr_repro.bench.gpu.watch import Window

from .timers import Clock, Timer

SLICES = 8
MOST_WINDOWS = 10  # after that the warm-up ends, flat or not, and the Record says which
# largest change over the window; the first two are fractions
RUN_LIMIT = 0.02
CLOCK_LIMIT = 0.01
TEMPERATURE_LIMIT_C = 1.0


class Watch(Protocol):
    """The interface of :class:`rfdetr_repro.bench.gpu.watch.GpuWatch`."""

    def mark(self) -> int:
        """A mark of the present moment, for :meth:`since`."""

    def since(self, mark: int) -> Window:
        """What the GPU did since ``mark``."""


class Slice(NamedTuple):
    """Mean run time, clock and temperature of one slice of the warm-up window."""

    run_ms: float
    sm_mhz: float | None
    temperature_c: float | None


def settle(
    run: Callable[[], object],
    seconds: float,
    clock: Clock,
    timer: Timer,
    watch: Watch | None = None,
) -> str:
    """Runs the model until nothing drifts.

    Returns "flat after T s" or "not flat after T s: WHAT drifts"; for a watched GPU, the text also
    names the quantities that were not seen.
    """
    slices: list[Slice] = []
    start = clock.now_ns()
    while True:
        slices.append(_slice(run, seconds / SLICES, clock, timer, watch))
        elapsed_s = (clock.now_ns() - start) / 1e9
        if len(slices) < SLICES:
            continue
        drifting = drifts(slices[-SLICES:])
        if not drifting:
            return f"flat after {elapsed_s:.0f} s{_unseen(slices[-SLICES:]) if watch else ''}"
        if elapsed_s >= MOST_WINDOWS * seconds:
            return f"not flat after {elapsed_s:.0f} s: {', '.join(drifting)}"


def _unseen(slices: Sequence[Slice]) -> str:
    """Quantities of a watched GPU that were not judged, because a slice lacks them."""
    names = [
        name
        for name in ("sm_mhz", "temperature_c")
        if any(getattr(part, name) is None for part in slices)
    ]
    return f", {' and '.join(names)} not known" if names else ""


def drifts(slices: Sequence[Slice]) -> list[str]:
    """Names of the quantities that are not flat; a quantity that could not be read is not
    judged.
    """
    found = []
    for name, unit, limit, relative in (
        ("run_ms", "ms", RUN_LIMIT, True),
        ("sm_mhz", "MHz", CLOCK_LIMIT, True),
        ("temperature_c", "C", TEMPERATURE_LIMIT_C, False),
    ):
        values = [value for value in (getattr(part, name) for part in slices) if value is not None]
        if len(values) == len(slices):
            change, error = line_change(values)
            if (
                abs(change) > limit * (float(np.mean(values)) if relative else 1.0)
                and abs(change) > 2 * error
            ):
                found.append(f"{name} {change:+.3g} {unit}")
    return found


def line_change(values: Sequence[float]) -> tuple[float, float]:
    """Change of the least-squares line from the first to the last value, and the standard error of
    that change.
    """
    x = np.linspace(-0.5, 0.5, len(values))
    y = np.asarray(values, dtype=float)
    slope = float(x @ (y - y.mean()) / (x @ x))
    residual = y - y.mean() - slope * x
    return slope, float(np.sqrt(residual @ residual / (len(y) - 2) / (x @ x)))


def _slice(
    run: Callable[[], object], seconds: float, clock: Clock, timer: Timer, watch: Watch | None
) -> Slice:
    samples: list[float] = []
    start = clock.now_ns()
    mark = watch.mark() if watch else 0
    while not samples or (clock.now_ns() - start) / 1e9 < seconds:
        samples.append(timer.time_ms(run))
    window = watch.since(mark) if watch else None
    return Slice(
        float(np.median(samples)),
        window.mean_sm_mhz if window else None,
        window.temperature_c if window else None,
    )
