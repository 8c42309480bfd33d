"""The stage of a longer flow in which a program works, for its lines and progress bars.

A flow surrounds each stage with :func:`working_on`; what prints inside asks :func:`current`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stage of a flow, such as the training in a campaign.

    ``rest_s``: estimated seconds of all later stages together, without their training; None: not
    known. ``rest_steps``: steps of training in later stages.
    """

    number: int  # from 1
    of: int
    title: str
    rest_s: float | None = None
    rest_steps: int = 0

    @property
    def short(self) -> str:
        """For a progress bar, like "stage 3/9"."""
        return f"stage {self.number}/{self.of}"

    def all_left_s(self, left_s: float | None, step_s: float | None) -> float | None:
        """Seconds until the flow ends, for a stage with ``left_s`` seconds left, where a step of
        training takes ``step_s``; None where a part is not known.
        """
        if self.rest_s is None or left_s is None or (self.rest_steps and step_s is None):
            return None
        return left_s + self.rest_s + self.rest_steps * (step_s or 0.0)


_CURRENT: ContextVar[Stage | None] = ContextVar("stage of a flow", default=None)


def current() -> Stage | None:
    """The stage in which the program works; None outside of a flow."""
    return _CURRENT.get()


@contextmanager
def working_on(stage: Stage | None) -> Iterator[None]:
    """Makes ``stage`` the current stage while the block runs."""
    before = _CURRENT.set(stage)
    try:
        yield
    finally:
        _CURRENT.reset(before)
