"""A progress bar over optimizer steps with a running loss and an estimate of the time left."""

from __future__ import annotations

from types import TracebackType

from tqdm import tqdm


class StepBar:
    """Context manager; pass :meth:`update` to ``Trainer.run``."""

    def __init__(self, done: int, total: int, label: str = "training", quiet: bool = False) -> None:
        self._bar = tqdm(total=total, initial=done, desc=label, unit="step", dynamic_ncols=True, mininterval=2.0, disable=quiet)
        self._loss: float | None = None

    def __enter__(self) -> StepBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def update(self, step: int, parts: dict[str, float]) -> None:
        if (loss := parts.get("loss")) is not None:
            self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
            self._bar.set_postfix_str(f"loss {self._loss:.2f}", refresh=False)
        self._bar.update(step - self._bar.n)
