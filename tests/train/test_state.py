"""The state of a run, apart from the trainer: saved, loaded and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.state import STATE, Session, TrainingState
from rfdetr_repro.train.trainer import Trainer

RECIPE = Recipe(TINY, TRAIN, SPACE)
CPU = torch.device("cpu")
SESSION = Session(1, "None")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    config = EmbeddedConfig(64, train_images=8, val_images=2, test_images=2)
    return read_split(write_embedded(tmp_path_factory.mktemp("data"), config, workers=1), "train")


@pytest.fixture(scope="module")
def run(split: CocoSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is complete."""
    folder = tmp_path_factory.mktemp("run")
    Trainer(RECIPE, split, folder).run()
    return folder


def fresh(split: CocoSplit, folder: Path) -> TrainingState:
    return TrainingState.new(RECIPE, split, folder, None, CPU, None)


def loaded(split: CocoSplit, folder: Path) -> TrainingState:
    state = fresh(split, folder)
    state.load(folder / STATE)
    return state


def test_a_new_state_depends_on_the_seed_alone(split: CocoSplit, tmp_path: Path) -> None:
    torch.rand(7)  # whatever the generator did before
    assert fresh(split, tmp_path) == fresh(split, tmp_path)
    other = replace(RECIPE, train=replace(RECIPE.train, seed=RECIPE.train.seed + 1))
    assert TrainingState.new(other, split, tmp_path, None, CPU, None) != fresh(split, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_saved_is_what_is_loaded(split: CocoSplit, run: Path, tmp_path: Path) -> None:
    state = loaded(split, run)
    assert state.step == RECIPE.train.steps and state != fresh(split, run)
    copied = fresh(split, tmp_path)
    copied.load(run / STATE)
    assert copied != state  # without its history
    copied.log.resume(0, (run / "train_log.jsonl").read_text().splitlines())
    assert copied == state
    copied.best.ap = 0.25
    copied.left_out.add("some architecture")
    copied.evaluation_due = True
    copied.save(tmp_path / STATE, Session(3, "torch.bfloat16"))
    again = fresh(split, tmp_path)
    assert again.load(tmp_path / STATE) == Session(3, "torch.bfloat16")
    assert again == copied and again.best.ap == 0.25 and again.evaluation_due


def nudge(tensor: torch.Tensor) -> None:
    """The smallest change of one number."""
    with torch.no_grad():
        flat = tensor.view(-1)
        flat[:1] = torch.nextafter(flat[:1], torch.full_like(flat[:1], 9.0))


CHANGES: dict[str, Callable[[TrainingState], object]] = {
    "a weight": lambda state: nudge(state.detector.class_embed.weight),
    "an average": lambda state: nudge(state.ema.state["class_embed.weight"]),
    "a moment": lambda state: nudge(next(iter(state.optimizer.state.values()))["exp_avg"]),
    "the step": lambda state: setattr(state, "step", state.step - 1),
    "the best": lambda state: setattr(state.best, "misses", 1),
    "what is left out": lambda state: state.left_out.add("x"),
    "an evaluation due": lambda state: setattr(state, "evaluation_due", True),
    "the history": lambda state: state.log.add({"step": 99}),
    "the run": lambda state: setattr(state, "identity", "{}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_states_differ_by_any_part_of_them(change: str, split: CocoSplit, run: Path) -> None:
    one = loaded(split, run)
    other = loaded(split, run)
    assert one == other
    CHANGES[change](one)
    assert one != other


def test_the_time_of_the_steps_is_no_part_of_equality(split: CocoSplit, run: Path) -> None:
    one = loaded(split, run)
    other = loaded(split, run)
    one.seconds += 5
    one.log.add({"step": 7, "seconds": 1.0})
    other.log.add({"step": 7, "seconds": 2.0})
    assert one == other and one != "a state"
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_a_resumed_run_has_the_state_of_the_uninterrupted_run(
    split: CocoSplit, run: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, parts: dict[str, float]) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        Trainer(RECIPE, split, tmp_path).run(kill)
    resumed = Trainer(RECIPE, split, tmp_path)
    assert 0 < resumed.state.step < 5
    resumed.run()
    assert resumed.state == loaded(split, run)


def test_the_state_of_another_run_is_refused(split: CocoSplit, run: Path) -> None:
    state = fresh(split, run)
    state.identity = "another"
    with pytest.raises(InputError, match="other data or settings"):
        state.load(run / STATE)
    assert state.step == 0


def test_weights_that_do_not_fit_are_refused(split: CocoSplit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="initial weights do not fit"):
        TrainingState.new(RECIPE, split, tmp_path, {"x": torch.zeros(1)}, CPU, None)
