"""TensorBoard curves of a run, in addition to its JSON Lines log.

A resumed run overwrites the curves after its saved step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rfdetr_repro.spec.errors import InputError


def summary_writer() -> Any:
    """The class that writes event files. Raises :class:`InputError` where tensorboard is not
    installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tensorboard is not installed",
            hint="pip install tensorboard, or leave --tensorboard out",
        ) from error
    return SummaryWriter


class Scalars:
    """Event files in ``folder/tensorboard``; needs the tensorboard package."""

    def __init__(self, folder: Path, step: int) -> None:
        """Writes below ``folder``, from ``step`` on."""
        self._writer = summary_writer()(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, values: Mapping[str, float], prefix: str = "train/") -> None:
        """Adds the value of each curve at ``step``."""
        for name, value in values.items():
            self._writer.add_scalar(prefix + name, value, step)

    def add_evaluation(self, step: int, weights: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """``rows`` of an evaluation: "split" and metrics, None where undefined."""
        for row in rows:
            numbers = {name: value for name, value in row.items() if isinstance(value, float)}
            self.add(step, numbers, f"{row['split']}/{weights}/")

    def close(self) -> None:
        """Closes the event files."""
        self._writer.close()
