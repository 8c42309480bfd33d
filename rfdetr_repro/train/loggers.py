"""Loggers of other programs: TensorBoard, Weights & Biases and MLflow, each through its own
package, which is needed only where the logger was asked for.

All loggers get the same curves: ``train/loss`` with its weighted parts, ``train/lr``,
``train/grad_norm``, ``train/images_per_second`` and ``train/memory_gib`` every ten steps, and
``SPLIT/WEIGHTS/METRIC`` (such as ``val/ema/ap``, a fraction) after every evaluation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.optional import optional_module
from rfdetr_repro.spec.ranges import choose

from .callbacks import (
    TrainingCallback,
    TrainingEnd,
    TrainingEvaluation,
    TrainingStart,
    TrainingStep,
)

log = logging.getLogger(__name__)

EVERY = 10  # steps between two points of a curve
PROJECT = "rfdetr-repro"
# ids of the run in other programs, so that a resumed run continues the same curves
IDS = "loggers.json"
_GIB = 2**30


class CurveLogger(TrainingCallback):
    """Sends curves to another program. A failure of that program after the start is reported once,
    and the training goes on without the logger.
    """

    name = ""
    module = ""  # that must be importable

    def __init__(self, project: str = PROJECT, run_name: str | None = None) -> None:
        """``project``: name of the experiment in the other program; ``run_name``: name of the run
        (default: that of the run's folder).
        """
        self.project = project
        self.run_name = run_name
        self._works = True
        self._images = 0
        self._seconds = 0.0

    @classmethod
    def check(cls) -> Any:
        """The logger's package. Raises :class:`InputError` where it is not installed."""
        return optional_module(
            cls.module,
            f"{cls.name} is not installed",
            f"pip install {cls.name}, or leave {cls.name} out",
        )

    # -- what a logger does ------------------------------------------------------------------------

    def open(self, start: TrainingStart) -> None:
        """Begins or continues a run in the other program."""
        raise NotImplementedError

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each curve."""
        raise NotImplementedError

    def close(self, complete: bool) -> None:
        """Ends the run in the other program."""
        raise NotImplementedError

    # -- events ------------------------------------------------------------------------------------

    def on_start(self, start: TrainingStart) -> None:
        """Opens the run; a failure here ends the training before any step."""
        try:
            self.open(start)
        except InputError:
            raise
        except Exception as error:
            raise StatedFailure(
                f"{self.name} could not start: {type(error).__name__}: {error}"
            ) from error

    def on_step(self, step: TrainingStep) -> None:
        """Sends the curves of training every ten steps and after the last step."""
        self._images += step.images
        self._seconds += step.seconds
        if step.step % EVERY and step.step != step.steps:
            return
        values = {f"train/{name}": value for name, value in step.losses.items()}
        values |= {"train/lr": step.lr, "train/memory_gib": step.memory_bytes / _GIB}
        values["train/images_per_second"] = self._images / max(self._seconds, 1e-9)
        if (norm := step.details.get("grad_norm")) is not None:
            values["train/grad_norm"] = norm
        self._images, self._seconds = 0, 0.0
        self._guarded(lambda: self.send(step.step, values))

    def on_evaluation(self, evaluation: TrainingEvaluation) -> None:
        """Sends the metrics of all splits."""
        values = dict(_metrics(evaluation.rows))
        self._guarded(lambda: self.send(evaluation.step, values))

    def on_end(self, end: TrainingEnd) -> None:
        """Closes the run."""
        self._guarded(lambda: self.close(end.model is not None))

    def _guarded(self, work: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            work()
        except Exception as error:
            self._works = False
            log.warning(
                f"{self.name} failed ({type(error).__name__}: {error}): the training goes on "
                f"without it; all curves are also in train_log.jsonl"
            )


class TensorBoard(CurveLogger):
    """Event files in ``FOLDER/tensorboard``."""

    name = "tensorboard"
    module = "torch.utils.tensorboard"
    _writer: Any = None

    def open(self, start: TrainingStart) -> None:
        """Continues after the last saved step; later points of an interrupted session are
        dropped.
        """
        writer = self.check().SummaryWriter
        self._writer = writer(str(start.folder / "tensorboard"), purge_step=start.step + 1)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, complete: bool) -> None:
        """Writes what is buffered."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases(CurveLogger):
    """A run of Weights & Biases; a resumed training continues the same run."""

    name = "wandb"
    module = "wandb"
    _run: Any = None

    def open(self, start: TrainingStart) -> None:
        """Signs in as the package does (``wandb login``, WANDB_API_KEY, WANDB_MODE)."""
        wandb = self.check()
        self._run = wandb.init(
            project=self.project,
            name=self.run_name or start.folder.resolve().name,
            id=_known_id(start, self.name),
            resume="allow",
            dir=str(start.folder),
            config=dict(_flat_settings(start)),
        )
        _keep_id(start, self.name, str(self._run.id))

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values. The package ignores steps before the last one it has got."""
        self._run.log(dict(values), step=step)

    def close(self, complete: bool) -> None:
        """Finishes the run; exit code 1 marks a run that is not complete."""
        if self._run is not None:
            self._run.finish(exit_code=0 if complete else 1)


class MLflow(CurveLogger):
    """A run of MLflow, at MLFLOW_TRACKING_URI or the package's own default; a resumed training
    continues the same run.
    """

    name = "mlflow"
    module = "mlflow"
    _client: Any = None
    _id = ""

    def open(self, start: TrainingStart) -> None:
        """Finds or makes the experiment, and begins or continues the run."""
        mlflow = self.check()
        # a client of its own: the active run of the program that trains is not touched
        self._client = mlflow.MlflowClient()
        known = _known_id(start, self.name)
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(self.project)
        number = (
            self._client.create_experiment(self.project)
            if experiment is None
            else experiment.experiment_id
        )
        name = self.run_name or start.folder.resolve().name
        self._id = self._client.create_run(number, run_name=name).info.run_id
        _keep_id(start, self.name, self._id)
        for key, value in _flat_settings(start):
            self._client.log_param(self._id, key, value)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Adds metrics."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self, complete: bool) -> None:
        """Marks the run as finished, or as killed."""
        if self._client is not None:
            self._client.set_terminated(self._id, "FINISHED" if complete else "KILLED")


LOGGERS: dict[str, type[CurveLogger]] = {
    one.name: one for one in (TensorBoard, WeightsAndBiases, MLflow)
}


def loggers(
    names: Sequence[str], project: str | None = None, run_name: str | None = None
) -> list[CurveLogger]:
    """The loggers called ``names``, of :data:`LOGGERS`.

    Raises :class:`InputError` for an unknown name, and for a package that is not installed.
    """
    found = []
    for name in dict.fromkeys(names):
        kind = LOGGERS[choose(name, LOGGERS, "logger")]
        kind.check()
        found.append(kind(project or PROJECT, run_name))
    return found


def _metrics(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, float]]:
    """(curve, value) of every metric that is defined."""
    for weights, found in rows.items():
        for row in found:
            for name, value in row.items():
                if isinstance(value, float):
                    yield f"{row['split']}/{weights}/{name}", value


def _flat_settings(start: TrainingStart) -> Iterator[tuple[str, Any]]:
    for name, value in start.settings.items():
        yield name, ",".join(value) if isinstance(value, (tuple, list)) else value
    yield "data", start.name
    yield "images", start.images
    yield "device", start.device


def _ids(start: TrainingStart) -> dict[str, str]:
    path = start.folder / IDS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        log.warning(f"{path} cannot be read ({error}): the curves go on in a new run")
        return {}
    return found


def _known_id(start: TrainingStart, name: str) -> str | None:
    """The id of the run that this training continues; None for a new run."""
    return _ids(start).get(name) if start.step else None


def _keep_id(start: TrainingStart, name: str, value: str) -> None:
    path: Path = start.folder / IDS
    write_atomic(path, json.dumps({**_ids(start), name: value}, indent=1))
