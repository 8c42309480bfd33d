"""Everything a resumed run needs, in one atomic file: weights, EMA, optimizer, loss scale, best
metrics.

What is random in a step is a function of (seed, step), so no generator's state is kept. The log is
a file beside it, of which the state knows how many bytes are its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rfdetr_repro.model.checkpoints.native import read_tensors, write_tensors
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError

from .best import Best
from .dense import DenseHead
from .optim import Ema
from .run_log import RunLog

STATE = "training_state.safetensors"


@dataclass
class TrainingState:
    """All that a training step changes, and all of it that is saved.

    ``detector`` holds the raw weights, ``ema`` their moving average.
    """

    detector: Detector
    dense: DenseHead | None  # the auxiliary per-token head; None where its weight is 0
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # switched off but for float16
    step: int = 0  # optimizer steps that are complete
    seconds: float = 0.0  # training time so far, over all sessions
    best: Best = field(default_factory=Best)
    # keys of architectures for which memory did not suffice
    left_out: set[str] = field(default_factory=set)
    evaluation_due: bool = False  # the evaluation after ``step`` was given up half-way


@dataclass(frozen=True)
class Session:
    """How the steps of a state were computed; another session of the run that differs is equal up
    to rounding only.
    """

    processes: int
    # dtype of backbone and projector, such as "torch.bfloat16", "None" for float32; None: the state
    # is of a version that did not keep it
    precision: str | None


def save(path: Path, state: TrainingState, log: RunLog, identity: str, session: Session) -> None:
    """Writes the log up to the step, then the state: killed between the two, a run finds its log
    too long, and cuts it.

    ``identity``: of recipe, data and initial weights (:meth:`.recipe.Recipe.identity`).
    """
    tensors = {f"model.{name}": value for name, value in state.detector.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.state.items()}
    if state.dense is not None:
        tensors |= {f"dense.{name}": value for name, value in state.dense.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optim.{index}.{name}": value for name, value in moments.items()}
    metadata = {
        "step": str(state.step),
        "seconds": repr(state.seconds),
        "log_bytes": str(log.flush()),
        "evaluation_due": str(int(state.evaluation_due)),
        "precision": str(session.precision),
        "processes": str(session.processes),
        "recipe": identity,
        "best": state.best.to_json(),
        "left_out": json.dumps(sorted(state.left_out)),
        "scaler": json.dumps(state.scaler.state_dict()),
    }
    write_tensors(path, tensors, metadata)


def load(path: Path, state: TrainingState, log: RunLog, identity: str) -> Session:
    """Puts what is saved into a new state, and the log to where it was; returns how it was trained.

    A file of another ``identity`` is an :class:`InputError`.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("recipe") != identity:
        raise InputError(
            "this run was started with other data or settings",
            path,
            "use another --out, or the same settings",
        )
    state.detector.load_state_dict(_under("model.", tensors))
    state.ema.load(_under("ema.", tensors))
    if state.dense is not None:
        state.dense.load_state_dict(_under("dense.", tensors))
    optimizer = state.optimizer.state_dict()
    for name, value in _under("optim.", tensors).items():
        index, key = name.split(".")
        optimizer["state"].setdefault(int(index), {})[key] = value
    state.optimizer.load_state_dict(optimizer)
    state.step = int(metadata["step"])
    state.seconds = float(metadata["seconds"])
    if "log_bytes" in metadata:
        log.resume(int(metadata["log_bytes"]))
    else:  # states of earlier versions hold the rows themselves
        log.resume(0, json.loads(metadata["log"]))
    state.evaluation_due = metadata.get("evaluation_due") == "1"
    state.best = Best.from_json(metadata["best"]) if "best" in metadata else Best()
    state.left_out = set(json.loads(metadata.get("left_out", "[]")))
    if scale := json.loads(metadata.get("scaler", "{}")):
        state.scaler.load_state_dict(scale)
    return Session(int(metadata.get("processes", "1")), metadata.get("precision"))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }
