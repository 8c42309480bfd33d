"""The stages of a search: their numbers, their titles, and what is known of their durations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rfdetr_repro.spec.stage import Stage, working_on
from rfdetr_repro.train.progress import duration

from .plan import Plan

LATENCY = "latency"
SEARCH = "search"
CONFIRM = "confirm"
FRONT = "front"
_TITLES = {
    LATENCY: "measuring engines for the latency model",
    SEARCH: "accuracy of every configuration",
    CONFIRM: "full protocol of the candidates",
    FRONT: "fine-tuning of the candidates",
}


@dataclass
class Stages:
    """The stages of one search in their order.

    ``seconds``: stage -> estimated duration, empty if nothing was estimated; ``steps``: steps of
    training in the fine-tuning of the candidates, whose duration is not known before it begins.
    """

    names: Sequence[str]
    tell: Callable[[str], None]
    seconds: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Says that the stage begins and how long it took; lines and progress bars inside know
        their stage.
        """
        place = self.names.index(name)
        later = self.names[place + 1 :]
        rest_s = sum(self.seconds.get(one, 0.0) for one in later) if self.seconds else None
        steps = self.steps if FRONT in later else 0
        of = len(self.names)
        self.tell(f"stage {place + 1} of {of} [{name}] {_TITLES[name]}{self._about(name, rest_s)}")
        started = time.perf_counter()
        with working_on(Stage(place + 1, of, _TITLES[name], rest_s, steps)):
            yield
        self.tell(f"[{name}] {duration(time.perf_counter() - started)}")

    def _about(self, name: str, rest_s: float | None) -> str:
        """The estimate for the stage and for what follows it; empty without estimates."""
        if rest_s is None or name not in self.seconds:
            return ""
        own = self.seconds[name]
        tuning = " and the fine-tuning" if self.steps else ""
        return f": at most {duration(own)}, {duration(own + rest_s)} until the end{tuning}"


def stage_names(front: bool) -> tuple[str, ...]:
    """The stages of a search; ``front``: with the fine-tuning of the confirmed architectures."""
    return (LATENCY, SEARCH, CONFIRM, *((FRONT,) if front else ()))


def estimated(plan: Plan) -> dict[str, float]:
    """Stage -> seconds by a plan, at most: a race or a good latency model needs less."""
    return {
        LATENCY: plan.latency_s,
        SEARCH: plan.passes_s + plan.decisions_s,
        CONFIRM: plan.candidates_s,
    }
