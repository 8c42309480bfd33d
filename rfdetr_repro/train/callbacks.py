"""What a training run tells its observers: progress lines, loggers, pictures, and your own code.

Subclass :class:`TrainingCallback`, override what you need, and give an instance to
``RFDETR.train(callbacks=[...])`` or :class:`.run.TrainRequest`. A callback observes: it gets facts,
never the weights, so that a run with callbacks equals the run without them bit for bit, and a
resumed run may have other callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingStart:
    """A session of a run begins or continues."""

    folder: Path  # of the run
    name: str  # of the train split
    images: int  # in the train split
    images_per_step: int  # micro-batches of one optimizer step, over all processes
    step: int  # optimizer steps that are complete; 0 for a new run
    steps: int  # optimizer steps of the whole run
    device: str
    settings: Mapping[str, Any]  # the recipe: field of TrainConfig -> value
    # rows of the log so far (see train_log.jsonl); empty for a new run
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


@dataclass(frozen=True)
class TrainingStep:
    """An optimizer step is complete."""

    step: int  # complete steps, this one included; 1 after the first
    steps: int
    epoch: float  # passes over the train split so far
    # "loss" and its weighted parts by kind, summed over the decoder layers and the encoder's
    # output, so that the parts add up to the loss: "class", "l1", "giou", with masks "mask_bce" and
    # "mask_dice", and "dense" where the auxiliary loss is on. Of the last micro-batch. Empty if no
    # pass fitted into memory.
    losses: Mapping[str, float]
    # the unweighted parts of each decoder layer, such as "layer1/giou", and "grad_norm"
    details: Mapping[str, float]
    lr: float  # the rate at which the heads were trained in this step, after warm-up and cool-down
    seconds: float  # wall time of the step, waiting for its images included
    images: int  # of the step
    memory_bytes: int  # most so far: of PyTorch on a GPU, else of this process
    archs: Sequence[str]  # keys of the architectures that the step trained


@dataclass(frozen=True)
class TrainingEvaluation:
    """An evaluation on the held-out splits is complete."""

    step: int
    steps: int
    # "ema" (the averaged weights), with patience also "raw" -> one row per split: "split", "ap",
    # "ap50", ... as fractions; None where a split has no objects
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    seconds: float  # that the evaluation took


@dataclass(frozen=True)
class TrainingEnd:
    """A session of a run ends, for whatever reason."""

    step: int
    steps: int
    # "complete"; "stopped early" (patience); "interrupted" (a signal; the run can be resumed);
    # "failed"
    outcome: str
    model: Path | None  # file of the run's model; None unless complete or stopped early
    message: str = ""  # why a run was interrupted or failed


class TrainingCallback:
    """Gets every event of a run, in order, in the process that saves the run. All methods do
    nothing here.

    An exception of a callback ends the run, whose state is saved before.
    """

    def on_start(self, start: TrainingStart) -> None:
        """Called before the first step of a session."""

    def on_step(self, step: TrainingStep) -> None:
        """Called after every optimizer step, before the evaluation that may follow."""

    def on_evaluation(self, evaluation: TrainingEvaluation) -> None:
        """Called after every evaluation."""

    def on_end(self, end: TrainingEnd) -> None:
        """Called once at the end of a session in which :meth:`on_start` was called."""
