"""The state of a training run: everything that a resumed run needs, apart from the trainer that
changes it.

One atomic file holds weights, moving average, optimizer, loss scale, step and best evaluation. The
random numbers of a step are a function of (seed, step), so the step stands for the state of every
generator. The history is a log file in the same folder; the state stores how many bytes of the log
belong to the run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.hooks import Hooks
from rfdetr_repro.model.checkpoints.native import read_tensors, write_tensors
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError

from .best import Best
from .dense import DenseHead
from .optim import Ema, build_optimizer, freeze
from .recipe import Recipe, changed
from .run_log import LOG, RunLog

STATE = "training_state.safetensors"
UNKNOWN = "unknown"  # precision of the steps of a state that does not state it

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Session:
    """How the steps of a state were computed. A session of the run that differs gives results that
    are equal up to rounding only.
    """

    processes: int
    # dtype of backbone and projector, such as "torch.bfloat16", "None" for float32; None: the state
    # is from a version that did not store the precision
    precision: str | None


@dataclass(eq=False)
class TrainingState(Generic[Model]):
    """Everything that a training step changes, all of which is saved.

    ``detector``, RF-DETR's or any other module, holds the raw weights, ``ema`` their moving
    average. Two states are equal if training would continue from both in the same way, bit for bit:
    everything saved is equal except the time that the steps took.
    """

    identity: str  # of recipe, data and initial weights (:meth:`.recipe.Recipe.identity`)
    detector: Model
    dense: DenseHead | None  # the auxiliary per-token head; None where its weight is 0
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # enabled for float16 only
    log: RunLog  # the history: losses and evaluations by step
    step: int = 0  # optimizer steps that are complete
    seconds: float = 0.0  # training time so far, over all sessions
    best: Best = field(default_factory=Best)
    # keys of architectures that did not fit into memory
    left_out: set[str] = field(default_factory=set)
    evaluation_due: bool = False  # the evaluation after ``step`` was interrupted
    # what the steps so far computed in, in order, each session's once (see
    # :attr:`.optim.Precision.words`)
    precisions: list[str] = field(default_factory=list)

    @staticmethod
    def new(
        recipe: Recipe,
        split: CocoSplit,
        folder: Path,
        initial: Mapping[str, Tensor] | None,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> TrainingState[Detector]:
        """The state before the first step of a run in ``folder``; nothing is read or written there.

        ``initial``: the detector's parameters by name, float32 with heads for the classes of
        ``split``; None: random, from the seed of the recipe. Weights that do not fit are an
        :class:`InputError`. ``dtype``: what backbone and projector compute in; None: float32.
        """
        config = recipe.train
        torch.manual_seed(config.seed)
        model = replace(recipe.preset.model, num_classes=len(split.classes.names))
        detector = Detector(model, recipe.preset.arch)
        if initial is not None:
            try:
                detector.load_state_dict(initial)
            except RuntimeError as error:  # names or shapes
                raise InputError(
                    f"the initial weights do not fit the model: {_first_misfit(error)}",
                    hint="use weights of this architecture, with heads for the data's classes",
                ) from error
        detector.to(device).backbone.checkpoint_activations = config.checkpoint_activations
        freeze(detector, config.freeze)
        dense = DenseHead(model).to(device) if config.dense_weight else None
        modules: dict[str, torch.nn.Module] = {"": detector}
        if dense is not None:
            modules["dense."] = dense
        return TrainingState(
            identity=recipe.identity(split.sha256, initial),
            detector=detector,
            dense=dense,
            ema=Ema(detector, config),
            optimizer=build_optimizer(modules, config, max(model.feature_stages)),
            scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            log=RunLog(folder / LOG),
        )

    def with_hooks(self, hooks: Hooks) -> TrainingState[Model]:
        """The same state, whose identity names the hooks too."""
        if hooks:
            named = {**json.loads(self.identity), "hooks": hooks.identity()}
            self.identity = json.dumps(named, sort_keys=True)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moving average and moments of the optimizer by name, as they are saved."""
        tensors = {f"model.{name}": value for name, value in self.detector.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state.items()}
        if self.dense is not None:
            tensors |= {f"dense.{name}": value for name, value in self.dense.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{index}.{name}": value for name, value in moments.items()}
        return tensors

    def facts(self) -> dict[str, str]:
        """Everything that is saved in addition to the tensors, the log and the time, as text by
        name.
        """
        return {
            "step": str(self.step),
            "evaluation_due": str(int(self.evaluation_due)),
            "recipe": self.identity,
            "best": self.best.to_json(),
            "left_out": json.dumps(sorted(self.left_out)),
            "scaler": json.dumps(self.scaler.state_dict()),
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TrainingState):
            return NotImplemented
        own = self.tensors()
        theirs = other.tensors()
        return (
            self.facts() == other.facts()
            and own.keys() == theirs.keys()
            and all(_same_bits(value, theirs[name]) for name, value in own.items())
            and _history(self.log) == _history(other.log)
        )

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: Path, session: Session) -> None:
        """Writes the log up to the step, then the state. If a run is killed between the two, the
        next session finds the log too long and cuts it.
        """
        metadata = {
            **self.facts(),
            "seconds": repr(self.seconds),
            "log_bytes": str(self.log.flush()),
            "precision": str(session.precision),
            "precisions": json.dumps(self.precisions),
            "processes": str(session.processes),
        }
        write_tensors(path, self.tensors(), metadata)

    def load(self, path: Path) -> Session:
        """Loads a saved state into this new state and restores the log; returns how the steps were
        computed.

        Raises :class:`InputError` for the state of another run, by its :attr:`identity`.
        """
        tensors, metadata = read_tensors(path)
        if (stored := metadata.get("recipe")) != self.identity:
            raise InputError(
                f"this run was started with other data or settings{changed(stored, self.identity)}",
                path,
                "use another --out, or the same settings",
            )
        self.detector.load_state_dict(_under("model.", tensors))
        self.ema.load(_under("ema.", tensors))
        if self.dense is not None:
            self.dense.load_state_dict(_under("dense.", tensors))
        optimizer = self.optimizer.state_dict()
        for name, value in _under("optim.", tensors).items():
            index, key = name.split(".")
            optimizer["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(optimizer)
        self.step = int(metadata["step"])
        self.seconds = float(metadata["seconds"])
        if "log_bytes" in metadata:
            self.log.resume(int(metadata["log_bytes"]))
        else:  # states of earlier versions hold the rows themselves
            self.log.resume(0, json.loads(metadata["log"]))
        self.evaluation_due = metadata.get("evaluation_due") == "1"
        self.best = Best.from_json(metadata["best"]) if "best" in metadata else Best()
        self.left_out = set(json.loads(metadata.get("left_out", "[]")))
        self.precisions = json.loads(metadata.get("precisions", "[]"))
        if self.step and not self.precisions:
            self.precisions = [UNKNOWN]
        if scale := json.loads(metadata.get("scaler", "{}")):
            self.scaler.load_state_dict(scale)
        return Session(int(metadata.get("processes", "1")), metadata.get("precision"))

    def averaged_detector(self) -> Model:
        """A copy of the detector with the weights of the moving average, in evaluation mode."""
        return self._copy(self.ema.state)

    def raw_detector(self) -> Model:
        """A copy of the detector with its weights as they are, in evaluation mode."""
        return self._copy(self.detector.state_dict())

    def _copy(self, weights: dict[str, Tensor]) -> Model:
        copied = copy.deepcopy(self.detector)
        copied.load_state_dict(weights)
        return copied.eval()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN and the sign of zero included."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = (
        value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for value in (one, other)
    )
    return torch.equal(*bits)


def _history(log: RunLog) -> list[dict[str, Any]]:
    """Rows of a log without the time that the steps took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in log.rows()]


def _first_misfit(error: RuntimeError) -> str:
    """The first tensor that PyTorch names when it refuses a state."""
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1] if len(lines) > 1 else lines[0]
