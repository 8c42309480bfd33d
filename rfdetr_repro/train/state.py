"""Everything that a resumed run needs, in one atomic file: weights, EMA, optimizer, loss scale,
best metrics.

The random numbers of a step are a function of (seed, step), so no generator's state is stored. The
log is a separate file in the same folder; the state stores how many bytes of the log belong to the
run.
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
    """Everything that a training step changes, all of which is saved.

    ``detector`` holds the raw weights, ``ema`` their moving average.
    """

    detector: Detector
    dense: DenseHead | None  # the auxiliary per-token head; None where its weight is 0
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # enabled for float16 only
    step: int = 0  # optimizer steps that are complete
    seconds: float = 0.0  # training time so far, over all sessions
    best: Best = field(default_factory=Best)
    # keys of architectures that did not fit into memory
    left_out: set[str] = field(default_factory=set)
    evaluation_due: bool = False  # the evaluation after ``step`` was interrupted


@dataclass(frozen=True)
class Session:
    """How the steps of a state were computed. A session of the run that differs gives results that
    are equal up to rounding only.
    """

    processes: int
    # dtype of backbone and projector, such as "torch.bfloat16", "None" for float32; None: the state
    # is from a version that did not store the precision
    precision: str | None


def save(path: Path, state: TrainingState, log: RunLog, identity: str, session: Session) -> None:
    """Writes the log up to the step, then the state. If a run is killed between the two, the next
    session finds the log too long and cuts it.

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
    """Loads a saved state into a new ``state`` and restores the log; returns how the state was
    trained.

    Raises :class:`InputError` for a file of another ``identity``.
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
