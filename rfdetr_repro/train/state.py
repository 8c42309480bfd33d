"""Everything a resumed run needs, in one atomic file: weights, EMA, optimizer, loss scale, best
metrics.

What is random in a step is a function of (seed, step), so no generator's state is kept. The log is
a file beside it, of which the state knows how many bytes are its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rfdetr_repro.model.checkpoints.native import read_tensors, write_tensors
from rfdetr_repro.spec.errors import InputError

from .best import Best
from .dense import DenseHead
from .optim import Ema, Precision
from .parallel import Ranks
from .run_log import RunLog

STATE = "training_state.safetensors"


class Resumable(Protocol):
    """What of a training run is saved, and is set again when the run is resumed."""

    folder: Path
    identity: str  # of recipe, data and initial weights
    detector: torch.nn.Module
    dense: DenseHead | None
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    ranks: Ranks
    log: RunLog
    best: Best
    step: int
    seconds: float
    left_out: set[str]
    evaluation_due: bool
    saved_processes: int | None
    saved_precision: str | None


def save(trainer: Resumable) -> None:
    """Writes the log up to the step, then the state: killed between the two, a run finds its log
    too long, and cuts it.
    """
    tensors = {f"model.{name}": value for name, value in trainer.detector.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in trainer.ema.state.items()}
    if trainer.dense is not None:
        tensors |= {f"dense.{name}": value for name, value in trainer.dense.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optim.{index}.{name}": value for name, value in state.items()}
    metadata = {
        "step": str(trainer.step),
        "seconds": repr(trainer.seconds),
        "log_bytes": str(trainer.log.flush()),
        "evaluation_due": str(int(trainer.evaluation_due)),
        "precision": str(trainer.precision.dtype),
        "processes": str(trainer.ranks.size),
        "recipe": trainer.identity,
        "best": trainer.best.to_json(),
        "left_out": json.dumps(sorted(trainer.left_out)),
        "scaler": json.dumps(trainer.scaler.state_dict()),
    }
    write_tensors(trainer.folder / STATE, tensors, metadata)


def load(trainer: Resumable) -> None:
    """Puts the saved state into a new trainer of the same recipe, data and start; another one is an
    :class:`InputError`.
    """
    path = trainer.folder / STATE
    tensors, metadata = read_tensors(path)
    if metadata.get("recipe") != trainer.identity:
        raise InputError(
            "this run was started with other data or settings",
            path,
            "use another --out, or the same settings",
        )
    trainer.detector.load_state_dict(_under("model.", tensors))
    trainer.ema.load(_under("ema.", tensors))
    if trainer.dense is not None:
        trainer.dense.load_state_dict(_under("dense.", tensors))
    state = trainer.optimizer.state_dict()
    for name, value in _under("optim.", tensors).items():
        index, key = name.split(".")
        state["state"].setdefault(int(index), {})[key] = value
    trainer.optimizer.load_state_dict(state)
    trainer.saved_processes = int(metadata.get("processes", "1"))
    trainer.step, trainer.seconds = int(metadata["step"]), float(metadata["seconds"])
    if "log_bytes" in metadata:
        trainer.log.resume(int(metadata["log_bytes"]))
    else:  # states of earlier versions hold the rows themselves
        trainer.log.resume(0, json.loads(metadata["log"]))
    trainer.evaluation_due = metadata.get("evaluation_due") == "1"
    trainer.saved_precision = metadata.get("precision")
    trainer.best = Best.from_json(metadata["best"]) if "best" in metadata else Best()
    trainer.left_out = set(json.loads(metadata.get("left_out", "[]")))
    if scale := json.loads(metadata.get("scaler", "{}")):
        trainer.scaler.load_state_dict(scale)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }
