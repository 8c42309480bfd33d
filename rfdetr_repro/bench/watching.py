"""What a running measurement tells: for every unfinished model its median, the width of its
interval against the width that ends it, and the time that is left.

States are computed and shown between two rounds of blocks, never while a model is timed, and every
block begins with an untimed run where several builds take turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from rfdetr_repro.records.record import Latency
from rfdetr_repro.records.samples import BLOCK, Series
from rfdetr_repro.records.statistics import median_of
from rfdetr_repro.spec.protocol import Protocol as Rules

from .loop import BuildLoop


class State(NamedTuple):
    """One model that is being measured."""

    name: str
    rules: Rules
    median_ms: float | None  # None before the first sample
    width: float | None  # of the 95 % interval, as a fraction of the median; None: too few samples
    left_s: float | None  # seconds until this model is finished; None: not known yet


class Report(Protocol):
    """Receives what happens during a measurement; the default, :class:`Silent`, shows nothing."""

    def images(self, name: str, split: str, indices: Iterable[int]) -> Iterable[int]:
        """``indices`` of the images of a split, while model ``name`` is evaluated on them."""
        ...

    def rounds(self, name: str, rounds: Iterable[int]) -> Iterable[int]:
        """``rounds`` of the parts of the latency, while they are measured of model ``name``."""
        ...

    def opening(self, name: str) -> None:
        """The sessions of model ``name`` are opened and warmed up."""
        ...

    def due(self) -> bool:
        """Whether states should be computed and shown now."""
        ...

    def show(self, states: Sequence[State]) -> None:
        """Shows the unfinished models, between two rounds."""
        ...

    def finished(self, name: str, rules: Rules, latency: Latency) -> None:
        """Model ``name`` is measured by ``rules`` and stored."""
        ...

    def failed(self, name: str, reason: str) -> None:
        """Model ``name`` failed, and its row stays unfinished."""
        ...


class Silent:
    """Shows nothing."""

    def images(self, name: str, split: str, indices: Iterable[int]) -> Iterable[int]:
        """``indices`` themselves."""
        return indices

    def rounds(self, name: str, rounds: Iterable[int]) -> Iterable[int]:
        """``rounds`` themselves."""
        return rounds

    def opening(self, name: str) -> None:
        """Nothing."""

    def due(self) -> bool:
        """Never."""
        return False

    def show(self, states: Sequence[State]) -> None:
        """Nothing."""

    def finished(self, name: str, rules: Rules, latency: Latency) -> None:
        """Nothing."""

    def failed(self, name: str, reason: str) -> None:
        """Nothing."""


def states_of(loops: Mapping[str, Sequence[BuildLoop]], rounds: int) -> list[State]:
    """States of the models that have not ended, after ``rounds`` rounds."""
    running = {
        name: builds
        for name, builds in loops.items()
        if builds and not all(loop.reason for loop in builds)
    }
    widths = {name: _width(builds) for name, builds in running.items()}
    remaining = {
        name: _rounds_left(builds, widths[name][1], rounds) for name, builds in running.items()
    }
    per_round = {
        name: sum(loop.elapsed_s for loop in builds) / max(rounds, 1)
        for name, builds in running.items()
    }
    states = []
    for name, builds in running.items():
        median_ms, width = widths[name]
        left_s = sum(
            min(rest, remaining[name]) * per_round[other] for other, rest in remaining.items()
        )
        states.append(State(name, builds[0].protocol, median_ms, width, left_s if rounds else None))
    return states


def _width(builds: Sequence[BuildLoop]) -> tuple[float | None, float | None]:
    """(median in ms, width of its interval as a fraction of the median) over all builds."""
    parts = [loop.series.counted for loop in builds]
    if not all(len(part.ms) and (part.ms > 0).all() for part in parts):
        return None, None
    found = median_of(Series.pooled(parts))
    width = found.relative_width
    return found.ms, width if math.isfinite(width) else None


def _rounds_left(builds: Sequence[BuildLoop], width: float | None, rounds: int) -> float:
    """Expected rounds until the model ends; the width of an interval falls with the square root of
    the number of samples.
    """
    rules = builds[0].protocol
    count = max(1, min(loop.count for loop in builds))
    slowest_s = max(loop.elapsed_s for loop in builds) / max(rounds, 1)
    if rules.min_time_s > 0:
        spent_s = max(loop.elapsed_s for loop in builds)
        return max(0.0, rules.min_time_s - spent_s) / slowest_s if slowest_s else 0.0
    wanted = float(rules.max_samples)
    if width is not None and rules.relative_ci > 0:
        wanted = min(wanted, max(rules.min_samples, count * (width / rules.relative_ci) ** 2))
    left = max(0.0, wanted - count) / BLOCK
    if slowest_s:
        spent_s = max(loop.elapsed_s for loop in builds)
        left = min(left, max(0.0, rules.timeout_s - spent_s) / slowest_s)
    return left
