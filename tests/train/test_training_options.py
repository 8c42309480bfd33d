"""What a run can be asked for beyond the plain recipe: sandwich steps, less memory, float16, a
plateau, weights to start from.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SPACE, TINY, TRAIN, images_for, tiny_detector

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.model.checkpoints.native import load_supernet, read_tensors, write_tensors
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.train import command
from rfdetr_repro.train import plan as planning
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_log import read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import BEST, LAST, MODEL, Trainer

RECIPE = Recipe(TINY, TRAIN, SPACE)


def with_train(**changes: object) -> Recipe:
    return replace(RECIPE, train=replace(TRAIN, **changes))


class Killed(Exception):
    pass


def test_a_sandwich_run_resumes_bit_for_bit(split: CocoSplit, tmp_path: Path) -> None:
    recipe = with_train(steps=3, sampling="sandwich", checkpoint_every=2, accumulate=2)
    Trainer(recipe, split, tmp_path / "whole").run()

    def kill(step: int, parts: dict[str, float]) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        Trainer(recipe, split, tmp_path / "cut").run(kill)
    Trainer(recipe, split, tmp_path / "cut").run()
    whole, cut = (read_tensors(tmp_path / name / STATE)[0] for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_sandwich_step_averages_its_passes(split: CocoSplit, tmp_path: Path) -> None:
    """Its gradient is the mean of those of three single steps on the same images."""
    recipe = with_train(sampling="sandwich", bfloat16=False, base_share=0.0)
    trainer = Trainer(recipe, split, tmp_path)
    from rfdetr_repro.data.loader import training_batches

    sizes = lambda step: [arch.input_hw for arch in recipe.archs_of_step(step)]  # noqa: E731
    (batches,) = training_batches(split, recipe.train, sizes, 0, 1, masks=True)
    assert len({batch.images.shape for batch in batches}) > 1
    assert len({tuple(target.image_id for target in batch.targets) for batch in batches}) == 1
    parameter = trainer.state.detector.class_embed.weight
    gradients = []
    for index, arch in enumerate(recipe.archs_of_step(0)):
        trainer.add_gradients(batches[index], arch, 0, 1)
        gradients.append(parameter.grad.clone())
        parameter.grad = None
    for index, arch in enumerate(recipe.archs_of_step(0)):
        trainer.add_gradients(batches[index], arch, 0, 3)
    assert torch.allclose(parameter.grad, sum(gradients) / 3, atol=1e-6)


def test_checkpointed_activations_give_the_same_gradients_from_less_memory() -> None:
    detector = tiny_detector()
    kept = []
    gradients = []
    for again in (False, True):
        detector.backbone.checkpoint_activations = again
        detector.zero_grad()
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=saved: (s.append(t.numel()), t)[1], lambda t: t
        ):
            maps = detector.features(images_for(TINY.arch), 16, 1)
        sum(one.square().sum() for one in maps).backward()
        kept.append(sum(saved))
        gradients.append(
            {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}
        )
    assert kept[1] < kept[0] / 2
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_float16_scales_the_loss_and_keeps_the_scale(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_train(steps=2, bfloat16=False, float16=True, checkpoint_every=1)
    trainer = Trainer(recipe, split, tmp_path)
    assert trainer.precision.dtype == torch.float16 and trainer.state.scaler.is_enabled()
    before = trainer.state.detector.class_embed.weight.detach().clone()
    trainer.run()
    assert not torch.equal(before, trainer.state.detector.class_embed.weight)
    trainer.state.scaler.update(8.0)
    trainer.save()
    assert Trainer(recipe, split, tmp_path).state.scaler.get_scale() == 8.0
    monkeypatch.setattr(
        "rfdetr_repro.train.optim.bfloat16_is_fast", lambda device: (False, "as said")
    )
    assert Trainer(with_train(), split, tmp_path / "plain").precision.dtype is None


def test_a_plateau_ends_the_run_and_keeps_the_best_weights(
    split: CocoSplit, tmp_path: Path
) -> None:
    recipe = with_train(steps=20, evaluate_every=1, patience=2, checkpoint_every=5)
    # ema and raw in turn; best: raw weights of step 2
    aps = iter([0.1, 0.05, 0.2, 0.3, 0.3, 0.1, 0.2, 0.3])

    def evaluate(detector: object) -> list[dict]:
        return [{"split": "val", "ap": next(aps), "ap50": None}]

    trainer = Trainer(recipe, split, tmp_path)
    trainer.run(evaluate=evaluate)
    assert (trainer.state.step, trainer.state.best.step, trainer.state.best.weights) == (
        4,
        2,
        "raw",
    ) and trainer.finished
    assert (
        (tmp_path / MODEL).read_bytes()
        == (tmp_path / BEST).read_bytes()
        != (tmp_path / LAST).read_bytes()
    )
    assert "step 2, raw weights" in load_supernet(tmp_path / MODEL)[1].notes
    again = Trainer(recipe, split, tmp_path)
    assert again.finished and again.state.best == trainer.state.best
    again.run(evaluate=evaluate)
    assert again.state.step == 4
    rows = [row for row in read_log(tmp_path) if "split" in row]
    assert [row.get("weights", "ema") for row in rows] == ["ema", "raw"] * 4


def test_patience_without_validation_is_refused(split: CocoSplit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="patience needs a val split"):
        Trainer(with_train(evaluate_every=1, patience=1), split, tmp_path).run()


def out_of_memory_with(key: str):
    plain = Trainer.loss

    def loss(self, batch, arch, draws):
        if arch.key == key:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, arch, draws)

    return loss


def test_an_architecture_that_does_not_fit_is_left_out_and_named(
    split: CocoSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = with_train(steps=3, sampling="sandwich", checkpoint_every=1)
    largest = recipe.archs_of_step(0)[0].key
    monkeypatch.setattr(Trainer, "loss", out_of_memory_with(largest))
    Trainer(recipe, split, tmp_path).run(lambda step, parts: None)
    assert f"continues without {largest}" in "".join(capsys.readouterr())
    assert [row for row in read_log(tmp_path) if "out_of_memory" in row] == [
        {"step": 0, "out_of_memory": largest}
    ]
    assert largest in load_supernet(tmp_path / MODEL)[1].notes
    assert Trainer(recipe, split, tmp_path).state.left_out == {largest}
    alone = replace(recipe, space=None, train=replace(TRAIN, steps=1))
    monkeypatch.setattr(Trainer, "loss", out_of_memory_with(TINY.arch.key))
    with pytest.raises(StatedFailure, match=f"out of memory at step 0 with {TINY.arch.key}"):
        Trainer(alone, split, tmp_path / "alone").run()


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        (
            "from rfdetr_repro.model.checkpoints.native import write_tensors",
            "write_tensors({path!r}, {{'one': torch.ones(1 << 20)}}, {{}})",
        ),
        (
            "from rfdetr_repro.spec.files import write_atomic",
            "write_atomic({path!r}, b'x' * (1 << 20))",
        ),
    ],
)
def test_a_full_disk_leaves_the_last_state_and_one_line(
    imports: str, call: str, tmp_path: Path
) -> None:
    path = tmp_path / STATE
    write_tensors(path, {"one": torch.ones(4)}, {})
    before = path.read_bytes()
    limit = (  # a limit on the size of files stands for a full disk
        "import resource, signal, sys, torch; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"from rfdetr_repro.spec.errors import run_main; {imports}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))\n"
        f"sys.exit(run_main(lambda argv: {call.format(path=str(path))}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: cannot write")
        and done.stderr.count("\n") == 1
    ), done.stderr
    assert str(path) in done.stderr
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [STATE]
    assert resource.RLIMIT_FSIZE  # the limit exists on this system


def test_a_stage_starts_from_the_weights_of_the_one_before(
    folder: Path,
    split: CocoSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = Trainer(with_train(steps=1), split, tmp_path / "first").run()
    monkeypatch.setattr(command, "preset", lambda size: TINY)
    monkeypatch.setattr(command, "_recipe", lambda size, fixed: (SPACE, replace(TRAIN, steps=1)))
    again = [
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "second"),
        "--weights",
        str(first),
        "--processes",
        "1",
    ]
    command.main([*again, "--set", "lr=0", "--set", "lr_encoder=0"])
    said = capsys.readouterr().out
    assert "starting from supernet.safetensors" in said and "its own classes" in said
    one, two = (
        load_supernet(tmp_path / name / MODEL)[0].state_dict() for name in ("first", "second")
    )
    # a rate of 0 moves nothing but by decay
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    with pytest.raises(InputError, match="other data or settings"):
        command.main([*again[:4], "--processes", "1"])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed"
)
def test_tensorboard_asked_for_but_absent_is_one_line(split: CocoSplit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tensorboard is not installed"):
        train(TrainRequest(with_train(steps=1), split, tmp_path, tensorboard=True))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_tensorboard_gets_the_losses(split: CocoSplit, tmp_path: Path) -> None:
    train(TrainRequest(with_train(steps=1), split, tmp_path, tensorboard=True))
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_plan_adds_up_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "REPEATS", 1)
    recipe = with_train(steps=1000, batch_size=2, accumulate=3)
    found = planning.plan(recipe, torch.device("cpu"), images=500)
    assert 1 <= len(found.timed) <= 3 and all(one.seconds > 0 for one in found.timed)
    costs = [one.gflops for one in found.timed]
    assert costs == sorted(costs)
    spent = np.array([one.seconds for one in found.timed])
    assert (
        3 * spent.min()
        <= found.step_seconds
        <= 3 * spent.max() + max(one.update_seconds for one in found.timed)
    )
    text = "\n".join(found.lines())
    assert (
        "1000 steps of 6 images = 6000 images, 12.0 epochs of 500" in text
        and f"{found.hours:.3g} hours" in text
    )
    assert json.dumps(found.lines()) and not list(tmp_path.iterdir())
