"""Loggers of other programs: what they are sent, that a missing package is one line before anything
is spent, and that a failure of theirs does not cost a training.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.train import command
from rfdetr_repro.train.loggers import LOGGERS, CurveLogger, loggers
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.trainer import Trainer

RECIPE = Recipe(TINY, replace(TRAIN, steps=12, evaluate_every=6, checkpoint_every=5), SPACE)


class Wandb:
    """The interface of the package wandb, as far as its documentation promises it."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.codes: list[int] = []

    def init(self, **settings: Any) -> Any:
        self.started.append(settings)
        return SimpleNamespace(
            id=settings["id"] or "abc123",
            log=lambda values, step: self.points.append((step, values)),
            finish=lambda exit_code: self.codes.append(exit_code),
        )


class Mlflow:
    """The interface of ``mlflow.MlflowClient``."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.params: dict[str, Any] = {}
        self.points: list[tuple[int, str, float]] = []
        self.status: list[tuple[str, str]] = []
        self.runs: list[str] = []

    def MlflowClient(self) -> Mlflow:
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        number = self.experiments.get(name)
        return None if number is None else SimpleNamespace(experiment_id=number)

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = "7"
        return "7"

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.runs)}"))

    def update_run(self, run_id: str, status: str) -> None:
        self.status.append((run_id, status))

    def log_param(self, run_id: str, key: str, value: Any) -> None:
        self.params[key] = value

    def log_metric(self, run_id: str, key: str, value: float, step: int) -> None:
        self.points.append((step, key, value))

    def set_terminated(self, run_id: str, status: str) -> None:
        self.status.append((run_id, status))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    monkeypatch.setitem(sys.modules, "wandb", made := Wandb())  # type: ignore[arg-type]
    return made


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    monkeypatch.setitem(sys.modules, "mlflow", made := Mlflow())  # type: ignore[arg-type]
    return made


def rows(detector: object) -> list[dict]:
    return [{"split": "val", "ap": 0.25, "ap50": 0.5, "mask_ap": None}]


def run(split: CocoSplit, folder: Path, *names: str, stop: int = 0) -> None:
    def stops(step: int, parts: dict[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    Trainer(RECIPE, split, folder).run(stops, rows, callbacks=loggers(names, "mine", "first"))


def expected(folder: Path) -> dict[int, dict[str, float]]:
    """What the log of the run holds of the points that are sent."""
    return {row["step"]: row for row in read_log(folder) if "loss" in row}


def test_weights_and_biases_gets_curves_and_settings(
    split: CocoSplit, tmp_path: Path, wandb: Wandb
) -> None:
    run(split, tmp_path, "wandb")
    (settings,) = wandb.started
    assert (settings["project"], settings["name"], settings["id"]) == ("mine", "first", None)
    assert settings["config"]["steps"] == 12 and settings["config"]["images"] == 8
    assert [step for step, _ in wandb.points] == [6, 10, 12, 12] and wandb.codes == [0]
    logged = expected(tmp_path)
    for step, values in wandb.points:
        if "train/loss" in values:
            assert values["train/loss"] == logged[step]["loss"]
            assert values["train/lr"] == logged[step]["lr"]
            assert values["train/grad_norm"] == logged[step]["grad_norm"]
            assert values["train/images_per_second"] > 0 and values["train/memory_gib"] > 0
        else:
            assert values == {"val/ema/ap": 0.25, "val/ema/ap50": 0.5}


def test_mlflow_gets_the_same(split: CocoSplit, tmp_path: Path, mlflow: Mlflow) -> None:
    run(split, tmp_path, "mlflow")
    assert mlflow.experiments == {"mine": "7"} and mlflow.runs == ["first"]
    assert mlflow.params["lr"] == TRAIN.lr and mlflow.params["device"] == "cpu"
    losses = {step: value for step, key, value in mlflow.points if key == "train/loss"}
    logged = expected(tmp_path)
    assert losses == {step: logged[step]["loss"] for step in (10, 12)}
    assert [step for step, key, _ in mlflow.points if key == "val/ema/ap"] == [6, 12]
    assert mlflow.status == [("run1", "FINISHED")]


def test_a_resumed_run_continues_the_run_of_the_logger(
    split: CocoSplit, tmp_path: Path, wandb: Wandb, mlflow: Mlflow
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(split, tmp_path, "wandb", "mlflow", stop=7)
    assert wandb.codes == [1] and mlflow.status == [("run1", "KILLED")]
    assert json.loads((tmp_path / "loggers.json").read_text()) == {
        "wandb": "abc123",
        "mlflow": "run1",
    }
    run(split, tmp_path, "wandb", "mlflow")
    assert [one["id"] for one in wandb.started] == [None, "abc123"]
    assert mlflow.runs == ["first"] and mlflow.status[1:] == [
        ("run1", "RUNNING"),
        ("run1", "FINISHED"),
    ]
    run_folder = tmp_path / "other"  # another run has a run of its own
    run(split, run_folder, "mlflow")
    assert mlflow.runs == ["first", "first"]


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_one_line_before_data_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, LOGGERS[name].module, None)
    given = ["--data", str(tmp_path / "absent"), "--out", str(tmp_path / "run"), f"--{name}"]
    assert run_main(command.main, given) == 2
    said = capsys.readouterr().err
    assert said == f"error: {name} is not installed; pip install {name}, or leave {name} out\n"
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown logger 'wandbb'; did you mean wandb\?"):
        loggers(["wandbb"])


def test_a_logger_that_cannot_start_ends_the_run_before_a_step(
    split: CocoSplit, tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**settings: Any) -> Any:
        raise RuntimeError("no API key")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(Trainer, "train_step", lambda *rest: pytest.fail("a step"))
    with pytest.raises(StatedFailure, match="wandb could not start: RuntimeError: no API key"):
        run(split, tmp_path, "wandb")


def test_a_logger_that_fails_later_does_not_cost_the_training(
    split: CocoSplit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Breaks(CurveLogger):
        name = "mine"
        calls = 0

        def open(self, start: object) -> None:
            pass

        def send(self, step: int, values: object) -> None:
            self.calls += 1
            raise OSError("network is unreachable")

        def close(self, complete: bool) -> None:
            pytest.fail("closed after it failed")

    logger = Breaks()
    assert Trainer(RECIPE, split, tmp_path).run(evaluate=rows, callbacks=[logger]).exists()
    said = capsys.readouterr().err
    assert logger.calls == 1 and said.count("mine failed (OSError: network is unreachable)") == 1


def test_the_command_sends_to_all_that_were_asked_for(
    folder: Path, tmp_path: Path, wandb: Wandb, mlflow: Mlflow
) -> None:
    given = ["--data", str(folder), "--out", str(tmp_path / "run"), "--fixed", "--steps", "1"]
    more = ["--batch-size", "2", "--device", "cpu", "--processes", "1", "--project", "p"]
    assert run_main(command.main, [*given, *more, "--wandb", "--mlflow"]) == 0
    assert wandb.started[0]["project"] == "p" and "p" in mlflow.experiments
    assert wandb.started[0]["name"] == "run" and wandb.points[0][0] == 1


def test_a_project_without_a_tracker_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(folder), "--out", str(tmp_path / "run"), "--project", "p"]
    assert run_main(command.main, [*given, "--tensorboard"]) == 2
    assert "--project has no meaning without --wandb or --mlflow" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_tensorboard_reads_what_was_written(split: CocoSplit, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(TrainRequest(RECIPE, split, tmp_path, tensorboard=True, processes=1))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {one.step: one.value for one in events.Scalars("train/loss")}
    logged = expected(tmp_path)
    assert found == pytest.approx({step: logged[step]["loss"] for step in (10, 12)}, rel=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_the_real_mlflow(split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with pytest.raises(KeyboardInterrupt):
        run(split, tmp_path / "run", "mlflow", stop=7)
    run(split, tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["steps"] == "12"
    points = client.get_metric_history(found.info.run_id, "train/loss")
    logged = expected(tmp_path / "run")
    assert {one.step: one.value for one in points} == {
        step: logged[step]["loss"] for step in (10, 12)
    }


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_wandb_offline(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    run(split, folder, "wandb")
    assert json.loads((folder / "loggers.json").read_text())["wandb"]
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
