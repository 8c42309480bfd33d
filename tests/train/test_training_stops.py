"""What ends a training run early: losses and gradients that are not finite, no memory for anything,
a real kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.loader import batch_indices
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.train.processes import shared
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

RECIPE = Recipe(TINY, replace(TRAIN, accumulate=2), SPACE)
BAD_STEP = 4  # the last checkpoint before it is at step 3
ROOT = Path(__file__).resolve().parents[2]


def state(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / STATE)[0]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def images(split: CocoSplit, micro: int) -> list[int]:
    config = RECIPE.train
    chosen = batch_indices(
        len(split), config.batch_size, BAD_STEP, config.seed, micro, config.accumulate
    )
    return [split.images[index].id for index in chosen.tolist()]


def spoil_gradient(trainer: Trainer, value: float) -> None:
    """One element of one gradient of one step."""

    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        if trainer.state.step == BAD_STEP:
            gradient.view(-1)[0] = value
        return gradient

    trainer.state.detector.class_embed.weight.register_hook(spoiled)


def nan_loss(trainer: Trainer) -> None:
    plain: Callable[..., Any] = trainer.loss

    def loss(*arguments: Any) -> Any:
        total, parts = plain(*arguments)
        return (total * float("nan"), parts) if trainer.state.step == BAD_STEP else (total, parts)

    trainer.loss = loss  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    split: CocoSplit, tmp_path: Path, value: float
) -> None:
    Trainer(RECIPE, split, tmp_path / "whole").run()
    trainer = Trainer(RECIPE, split, tmp_path / "run")
    spoil_gradient(trainer, value)
    with pytest.raises(StatedFailure) as caught:
        trainer.run()
    arch = RECIPE.archs_of_step(BAD_STEP)[0].key
    named = images(split, 0) + images(split, 1)
    assert f"gradient is not finite at step {BAD_STEP} with {arch}; in images {named}" in str(
        caught.value
    )
    assert all(bool(one.isfinite().all()) for one in trainer.state.detector.state_dict().values())
    assert all(bool(one.isfinite().all()) for one in state(tmp_path / "run").values())
    again = Trainer(RECIPE, split, tmp_path / "run")  # the cause is gone
    assert again.state.step == 3
    again.run()
    assert equal(state(tmp_path / "run"), state(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_state(
    split: CocoSplit, tmp_path: Path
) -> None:
    trainer = Trainer(RECIPE, split, tmp_path)
    nan_loss(trainer)
    with pytest.raises(StatedFailure) as caught:
        trainer.run()
    arch = RECIPE.archs_of_step(BAD_STEP)[0].key
    assert (
        f"loss is not finite at step {BAD_STEP} with {arch}; in images {images(split, 0)}; "
        in str(caught.value)
    )
    kept = state(tmp_path)
    assert (
        all(bool(one.isfinite().all()) for one in kept.values()) and not (tmp_path / MODEL).exists()
    )
    again = Trainer(RECIPE, split, tmp_path)
    assert again.state.step == 3
    again.run()
    assert again.finished and (tmp_path / MODEL).exists()


def test_a_gradient_of_one_process_that_is_not_finite_ends_all(
    split: CocoSplit, tmp_path: Path
) -> None:
    setup: dict[str, Any] = {"recipe": RECIPE, "split": split, "folder": tmp_path}
    with (
        pytest.raises(StatedFailure, match=f"gradient is not finite at step {BAD_STEP} "),
        shared(2, **setup),
    ):
        trainer = Trainer(**setup)
        spoil_gradient(trainer, float("nan"))  # here only, before the sum
        trainer.run()
    assert all(bool(one.isfinite().all()) for one in state(tmp_path).values())


def test_the_loss_scaler_skips_a_step_that_is_not_finite(split: CocoSplit, tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, split, tmp_path)
    # as float16 training has it
    trainer.state.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=True)
    spoil_gradient(trainer, float("inf"))
    scales: list[float] = []
    trainer.run(lambda step, parts: scales.append(trainer.state.scaler.get_scale()))
    assert scales == [4.0] * BAD_STEP + [2.0] * (TRAIN.steps - BAD_STEP)
    assert trainer.finished and all(bool(one.isfinite().all()) for one in state(tmp_path).values())


def test_without_memory_for_any_architecture_the_run_fails(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: Trainer, *arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    small = replace(SPACE, resolutions=(64,), patches=(16,), windows=(1, 2))
    recipe = replace(RECIPE, train=replace(TRAIN, steps=100), space=small)
    monkeypatch.setattr(Trainer, "loss", loss)
    trainer = Trainer(recipe, split, tmp_path)
    with pytest.raises(
        StatedFailure,
        match="no architecture of the run is left: lower batch_size .* checkpoint_activations",
    ):
        trainer.run()
    assert trainer.state.step < 100 and trainer.state.left_out == {
        arch.key for arch in recipe.possible_archs()
    }
    assert not (tmp_path / MODEL).exists()
    drawn = {arch for step in range(300) for arch in recipe.archs_of_step(step)}
    assert drawn == set(recipe.possible_archs())


@pytest.mark.parametrize("place", ["clip_grad_norm_", "optimizer", "ema"])
def test_without_memory_for_an_update_the_run_ends_and_goes_on_from_its_state(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Another architecture would not help, and some weights may have changed already: what was
    saved before is whole.
    """
    Trainer(RECIPE, split, tmp_path / "whole").run()
    trainer = Trainer(RECIPE, split, tmp_path / "run")

    def fails(plain: Callable[..., Any]) -> Callable[..., Any]:
        def work(*arguments: Any, **named: Any) -> Any:
            found = plain(*arguments, **named)
            if trainer.state.step == BAD_STEP:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return found

        return work

    with monkeypatch.context() as patch:
        owner, name = {
            "optimizer": (trainer.state.optimizer, "step"),
            "ema": (trainer.state.ema, "update"),
        }.get(place, (torch.nn.utils, place))
        patch.setattr(owner, name, fails(getattr(owner, name)))
        told = (
            rf"out of memory at step {BAD_STEP} in the update of the weights, after "
            rf"{RECIPE.archs_of_step(BAD_STEP)[-1].key}: "
        )
        with pytest.raises(StatedFailure, match=told + "lower batch_size"):
            trainer.run()
    assert not trainer.state.left_out and not (tmp_path / "run" / MODEL).exists()
    again = Trainer(RECIPE, split, tmp_path / "run")
    assert again.state.step == 3
    again.run()
    assert equal(state(tmp_path / "run"), state(tmp_path / "whole"))


SCRIPT = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    import torch
    from tiny import SPACE, TINY, TRAIN
    from rfdetr_repro.data.coco import read_split
    from rfdetr_repro.train.trainer import Trainer
    from rfdetr_repro.train.recipe import Recipe

    torch.set_num_threads(1)
    recipe = Recipe(TINY, replace(TRAIN, steps=12), SPACE)
    trainer = Trainer(recipe, read_split(sys.argv[1], "train"), Path(sys.argv[2]))
    print("from", trainer.state.step, flush=True)
    trainer.run(lambda step, parts: print("step", step, flush=True))
"""


def start(data: Path, run: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
    }
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(data), str(run)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    """SIGKILL leaves no chance to tidy up: what the next process finds is what lay on the disk."""
    with start(folder, tmp_path / "cut") as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line == "step 5\n":  # checkpoints are at steps 3, 6, 9
                killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    with start(folder, tmp_path / "cut") as resumed, start(folder, tmp_path / "whole") as whole:
        said = [one.communicate()[0].splitlines() for one in (resumed, whole)]
    assert resumed.returncode == whole.returncode == 0
    assert said[0][0] in ("from 3", "from 6", "from 9") and said[1][0] == "from 0"
    assert said[0][-1] == said[1][-1] == "step 12"
    assert equal(state(tmp_path / "cut"), state(tmp_path / "whole"))
    assert equal(
        read_tensors(tmp_path / "cut" / MODEL)[0], read_tensors(tmp_path / "whole" / MODEL)[0]
    )
