"""Observers of a run: the events they get, that they change nothing, and what a failure does."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro import TrainingCallback
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.train.callbacks import (
    TrainingEnd,
    TrainingEvaluation,
    TrainingStart,
    TrainingStep,
)
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

RECIPE = Recipe(
    TINY, replace(TRAIN, steps=6, accumulate=2, checkpoint_every=500, evaluate_every=2), SPACE
)


class Notes(TrainingCallback):
    """Keeps every event, and disturbs all generators of random numbers."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def _note(self, facts: object) -> None:
        self.seen.append(facts)
        torch.manual_seed(len(self.seen))
        np.random.seed(len(self.seen))
        random.seed(len(self.seen))

    on_start = on_step = on_evaluation = on_end = _note  # type: ignore[assignment]


def rows(detector: object) -> list[dict]:
    return [{"split": "val", "ap": float(detector.class_embed.bias.detach().double().sum())}]  # type: ignore[attr-defined]


def assert_same_run(one: Path, other: Path) -> None:
    for name in (STATE, MODEL):
        ours, theirs = (read_tensors(folder / name)[0] for folder in (one, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = [[{**row, "seconds": 0} for row in read_log(folder)] for folder in (one, other)]
    assert logs[0] == logs[1] and logs[0]


def test_events_come_in_order_and_change_nothing(split: CocoSplit, tmp_path: Path) -> None:
    notes = Notes()
    Trainer(RECIPE, split, tmp_path / "seen").run(evaluate=rows, callbacks=[notes])
    Trainer(RECIPE, split, tmp_path / "alone").run(evaluate=rows)
    assert_same_run(tmp_path / "seen", tmp_path / "alone")
    start, *middle, end = notes.seen
    assert isinstance(start, TrainingStart) and isinstance(end, TrainingEnd)
    assert (start.images, start.images_per_step, start.step, start.steps) == (8, 4, 0, 6)
    assert [(type(one), one.step) for one in middle] == [  # type: ignore[attr-defined]
        (TrainingStep, 1),
        (TrainingStep, 2),
        (TrainingEvaluation, 2),
        (TrainingStep, 3),
        (TrainingStep, 4),
        (TrainingEvaluation, 4),
        (TrainingStep, 5),
        (TrainingStep, 6),
        (TrainingEvaluation, 6),
    ]
    steps = [one for one in middle if isinstance(one, TrainingStep)]
    assert [one.epoch for one in steps] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [one.archs for one in steps] == [
        tuple(arch.key for arch in RECIPE.archs_of_step(step)) for step in range(6)
    ]
    logged = {row["step"]: row for row in read_log(tmp_path / "seen") if "loss" in row}
    for one in steps:
        loss, *parts = one.losses.values()
        assert sum(parts) == pytest.approx(loss, rel=1e-5)
        assert one.seconds > 0 and one.memory_bytes > 0
        if one.step in logged:
            assert logged[one.step]["loss"] == loss and logged[one.step]["lr"] == one.lr
    assert (end.outcome, end.model, end.step) == ("complete", tmp_path / "seen" / MODEL, 6)


@pytest.mark.parametrize("step", [3, 4])
def test_a_callback_that_fails_ends_the_run_at_the_step_that_is_saved(
    split: CocoSplit, tmp_path: Path, step: int
) -> None:
    """Step 4 is followed by an evaluation, which must not be forgotten."""

    class Fails(TrainingCallback):
        def on_step(self, facts: TrainingStep) -> None:
            if facts.step == step:
                raise ZeroDivisionError("mine")

    notes = Notes()
    told = (
        f"on_step of the callback .*Fails raised ZeroDivisionError: mine after step {step}; the "
        f"state of that step is saved"
    )
    with pytest.raises(StatedFailure, match=told):
        Trainer(RECIPE, split, tmp_path / "cut").run(evaluate=rows, callbacks=[Fails(), notes])
    assert notes.seen[-1].outcome == "failed" and "mine" in notes.seen[-1].message  # type: ignore[attr-defined]
    resumed = Trainer(RECIPE, split, tmp_path / "cut")
    assert resumed.state.step == step and resumed.state.evaluation_due == (step == 4)
    resumed.run(evaluate=rows)
    Trainer(RECIPE, split, tmp_path / "whole").run(evaluate=rows)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("error", [InputError("no place"), StatedFailure("told")])
def test_a_callback_that_states_its_failure_ends_the_run_at_a_saved_step(
    split: CocoSplit, tmp_path: Path, error: Exception
) -> None:
    class Fails(TrainingCallback):
        def on_step(self, facts: TrainingStep) -> None:
            if facts.step == 3:
                raise error

        def on_start(self, start: TrainingStart) -> None:
            if tmp_path.name == start.folder.name:
                raise error

    with pytest.raises(type(error)):
        Trainer(RECIPE, split, tmp_path / "cut").run(evaluate=rows, callbacks=[Fails()])
    assert Trainer(RECIPE, split, tmp_path / "cut").state.step == 3
    with pytest.raises(type(error)):
        Trainer(RECIPE, split, tmp_path).run(evaluate=rows, callbacks=[Fails()])
    assert not (tmp_path / STATE).exists()  # nothing was trained


def test_a_callback_that_ends_the_run_as_ctrl_c_does(split: CocoSplit, tmp_path: Path) -> None:
    class Stops(TrainingCallback):
        def on_evaluation(self, facts: TrainingEvaluation) -> None:
            raise KeyboardInterrupt

    notes = Notes()
    with pytest.raises(KeyboardInterrupt, match="at step 2 of 6: the state is saved"):
        Trainer(RECIPE, split, tmp_path).run(evaluate=rows, callbacks=[Stops(), notes])
    assert notes.seen[-1].outcome == "interrupted"  # type: ignore[attr-defined]
    assert len([row for row in read_log(tmp_path) if row.get("split") == "val"]) == 1


def test_a_failure_at_the_end_does_not_undo_the_run(
    split: CocoSplit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(TrainingCallback):
        def on_end(self, end: TrainingEnd) -> None:
            raise RuntimeError("too late")

    assert Trainer(RECIPE, split, tmp_path).run(callbacks=[Fails()]).exists()
    assert "Fails failed at the end: RuntimeError: too late" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_gets_its_history_and_only_the_first_process_tells(
    split: CocoSplit, tmp_path: Path
) -> None:
    class Stops(TrainingCallback):
        def on_step(self, facts: TrainingStep) -> None:
            if facts.step == 3:
                raise KeyboardInterrupt

    asked = TrainRequest(RECIPE, split, tmp_path, processes=2, callbacks=[Stops()])
    with pytest.raises(KeyboardInterrupt):
        train(asked)
    notes = Notes()
    train(replace(asked, callbacks=[notes]))
    start = notes.seen[0]
    assert isinstance(start, TrainingStart) and start.step == 3
    assert [one.step for one in notes.seen if isinstance(one, TrainingStep)] == [4, 5, 6]
