"""Progress over optimizer steps with a running loss: a bar with an estimate on a terminal,
otherwise a line every tenth of the run.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from tqdm import tqdm

from rfdetr_repro.spec import logs

log = logging.getLogger(__name__)


class StepBar:
    """Context manager; pass :meth:`update` to ``Trainer.run``."""

    def __init__(self, done: int, total: int, label: str = "training", quiet: bool = False) -> None:
        """A bar from step ``done`` to ``total``; ``quiet`` shows nothing."""
        on_terminal = sys.stderr.isatty()
        quiet = quiet or logs.is_quiet()
        hidden = quiet or not on_terminal
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit="step",
            dynamic_ncols=True,
            mininterval=2.0,
            disable=hidden,
        )
        self._prints = not quiet and not on_terminal
        self._label = label
        self._total = total
        self._step = done
        self._loss: float | None = None

    def __enter__(self) -> StepBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, step: int, parts: dict[str, float]) -> None:
        """Moves the bar to ``step``; ``parts`` may hold the step's "loss"."""
        if (loss := parts.get("loss")) is not None:
            self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
            self._bar.set_postfix_str(f"loss {self._loss:.2f}", refresh=False)
        self._bar.update(step - self._step)
        if self._prints and 10 * step // self._total > 10 * self._step // self._total:
            shown = "" if self._loss is None else f", loss {self._loss:.2f}"
            log.info(f"{self._label}: step {step} of {self._total}{shown}")
        self._step = step
