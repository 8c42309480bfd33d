"""Turns what the trainer knows into the facts of :mod:`.callbacks`, and calls the observers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rfdetr_repro.ops.device import peak_bytes
from rfdetr_repro.spec.errors import FULL, InputError, StatedFailure
from rfdetr_repro.spec.train_config import TrainConfig

from .callbacks import (
    TrainingCallback,
    TrainingEnd,
    TrainingEvaluation,
    TrainingStart,
    TrainingStep,
)
from .optim import schedule
from .parts import LossParts

if TYPE_CHECKING:
    import torch

    from rfdetr_repro.data.coco import CocoSplit

    from .recipe import LoopRecipe
    from .state import TrainingState

log = logging.getLogger(__name__)

# kind of loss -> field of the recipe with its weight, in the order of display
WEIGHTS = {
    "class": "class_weight",
    "l1": "l1_weight",
    "giou": "giou_weight",
    "mask_bce": "mask_bce_weight",
    "mask_dice": "mask_dice_weight",
    "dense": "dense_weight",
    "sides": "",  # distributions of the sides of a box, weighted by the library that has them
}


class Later(Mapping[str, float]):
    """Numbers that are computed from those of a step when the first of them is read: on a GPU, that
    is when the program waits for the step.
    """

    def __init__(self, compute: Callable[[], Mapping[str, float]]) -> None:
        """``compute`` is called once, or never."""
        self._compute = compute
        self._found: Mapping[str, float] | None = None

    def _all(self) -> Mapping[str, float]:
        if self._found is None:
            self._found = self._compute()
        return self._found

    def __getitem__(self, name: str) -> float:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(dict(self))


def _when_read(
    parts: Mapping[str, float], compute: Callable[[], dict[str, float]]
) -> Mapping[str, float]:
    """What ``compute`` makes of ``parts``: now where that costs nothing, else later."""
    waits = isinstance(parts, LossParts) and not parts.is_read
    return Later(compute) if waits else compute()


def by_kind(parts: Mapping[str, float], config: TrainConfig) -> dict[str, float]:
    """The loss and its weighted parts by kind, from a step's "loss" and its parts such as
    "layer1/giou"; the parts add up to the loss.
    """
    if "loss" not in parts:
        return {}
    found = {"loss": parts["loss"]}
    for kind, weight in WEIGHTS.items():
        values = [value for name, value in parts.items() if name.rpartition("/")[2] == kind]
        if values:
            found[kind] = (getattr(config, weight) if weight else 1.0) * sum(values)
    return found


class Watched(Protocol):
    """What is read of a trainer."""

    recipe: LoopRecipe
    split: CocoSplit
    folder: Path
    device: torch.device
    state: TrainingState[Any]


class Listeners:
    """The observers of one session; without observers every call is free."""

    def __init__(self, trainer: Watched, callbacks: Sequence[TrainingCallback]) -> None:
        """Calls nobody yet; see :meth:`start`."""
        self._trainer = trainer
        self._callbacks = tuple(callbacks)
        self._started = False
        self.failed = False  # an observer ended the session, after its beginning

    def start(self) -> None:
        """The session begins."""
        trainer = self._trainer
        config = trainer.recipe.train
        self._started = True
        if self._callbacks:
            facts = TrainingStart(
                folder=trainer.folder,
                name=trainer.split.name,
                images=len(trainer.split),
                images_per_step=config.batch_size * config.accumulate,
                step=trainer.state.step,
                steps=config.steps,
                device=str(trainer.device),
                settings=config.settings(),
                history=tuple(trainer.state.log.rows()),
            )
            self._call("on_start", facts)

    def step(self, parts: Mapping[str, float], seconds: float) -> None:
        """A step is complete; ``parts`` is what the trainer's ``train_step`` returned."""
        if not self._callbacks:
            return
        trainer = self._trainer
        config = trainer.recipe.train
        step = trainer.state.step
        per_step = config.batch_size * config.accumulate
        archs = trainer.recipe.archs_of_step(step - 1)
        facts = TrainingStep(
            step=step,
            steps=config.steps,
            epoch=step * per_step / max(1, len(trainer.split)),
            losses=_when_read(parts, lambda: by_kind(parts, config)),
            details=_when_read(
                parts, lambda: {name: value for name, value in parts.items() if name != "loss"}
            ),
            lr=config.lr * schedule(step - 1, config),
            seconds=seconds,
            images=per_step,
            memory_bytes=peak_bytes(trainer.device),
            archs=tuple(arch.key for arch in archs if arch.key not in trainer.state.left_out),
        )
        self._call("on_step", facts)

    def evaluation(self, rows: Mapping[str, Sequence[Mapping[str, Any]]], seconds: float) -> None:
        """An evaluation is complete."""
        state = self._trainer.state
        steps = self._trainer.recipe.train.steps
        self._call("on_evaluation", TrainingEvaluation(state.step, steps, rows, seconds))

    def end(self, outcome: str, model: Path | None = None, message: str = "") -> None:
        """The session ends; a failure of an observer is only reported, because the run's own
        outcome counts.
        """
        if not self._started:
            return
        steps = self._trainer.recipe.train.steps
        facts = TrainingEnd(self._trainer.state.step, steps, outcome, model, message)
        for callback in self._callbacks:
            try:
                callback.on_end(facts)
            except Exception as error:
                log.warning(f"{_named(callback)} failed at the end: {_described(error)}")

    def _call(self, name: str, facts: object) -> None:
        for callback in self._callbacks:
            try:
                getattr(callback, name)(facts)
            except (StatedFailure, InputError, BrokenPipeError):
                self.failed = name != "on_start"
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                raise CallbackFailed(
                    f"{name} of {_named(callback)} raised {_described(error)} after step "
                    f"{self._trainer.state.step}; the state of that step is saved, and the same "
                    f"command continues from there"
                ) from error


class CallbackFailed(StatedFailure):
    """An observer raised an exception; the trainer saves the state before the run ends."""


def _named(callback: TrainingCallback) -> str:
    return f"the callback {type(callback).__qualname__}"


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
