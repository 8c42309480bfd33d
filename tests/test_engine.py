"""Training: parameter groups, schedule, EMA, and a resume that equals the uninterrupted run bit for bit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.config import TrainConfig
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded import EmbeddedConfig, write_embedded
from rfdetr_repro.errors import InputError
from rfdetr_repro.model.checkpoint import load_supernet, read_tensors
from rfdetr_repro.train.engine import MODEL, Trainer
from rfdetr_repro.train.optim import Ema, build_optimizer, rate_and_decay, schedule
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.state import LOG, STATE, read_log

RECIPE = Recipe(TINY, TRAIN, SPACE)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    folder = write_embedded(
        tmp_path_factory.mktemp("data"), EmbeddedConfig(64, train_images=8, val_images=2, test_images=2), workers=1
    )
    return read_split(folder, "train")


def states(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / STATE)[0]


class Killed(Exception):
    pass


def test_resume_equals_the_uninterrupted_run(split: CocoSplit, tmp_path: Path) -> None:
    Trainer(RECIPE, split, tmp_path / "whole").run()

    def kill(step: int, parts: dict[str, float]) -> None:
        if step == 5:  # the last checkpoint is at step 3
            raise Killed

    with pytest.raises(Killed):
        Trainer(RECIPE, split, tmp_path / "cut").run(kill)
    resumed = Trainer(RECIPE, split, tmp_path / "cut")
    assert resumed.step == 3
    resumed.run()
    whole, cut = states(tmp_path / "whole"), states(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    strip = [[{**row, "seconds": 0} for row in read_log(tmp_path / name)] for name in ("whole", "cut")]
    assert strip[0] == strip[1] and strip[0][-1]["step"] == 6
    weights = [load_supernet(tmp_path / name / MODEL)[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_moves_the_weights_and_describes_itself(split: CocoSplit, tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, split, tmp_path)
    before = {name: value.clone() for name, value in trainer.detector.state_dict().items()}
    trainer.run()
    still = [name for name, value in trainer.detector.state_dict().items() if torch.equal(value, before[name])]
    assert not still
    detector, card, digest = load_supernet(tmp_path / MODEL)
    assert card.class_names == split.classes.names and card.space == SPACE and card.steps == 6 and len(digest) == 64
    assert all(torch.equal(value, trainer.ema.state[name]) for name, value in detector.state_dict().items())


def test_other_settings_or_a_corrupt_state_are_refused(split: CocoSplit, tmp_path: Path) -> None:
    Trainer(replace(RECIPE, train=replace(TRAIN, steps=1)), split, tmp_path).run()
    with pytest.raises(InputError, match="other data or settings"):
        Trainer(RECIPE, split, tmp_path)
    content = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="corrupt checkpoint"):
        Trainer(RECIPE, split, tmp_path)
    (tmp_path / MODEL).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="corrupt checkpoint"):
        load_supernet(tmp_path / MODEL)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_supernet(tmp_path / "absent.safetensors")


def test_evaluation_rows_go_to_the_log(split: CocoSplit, tmp_path: Path) -> None:
    config = replace(TRAIN, steps=4, evaluate_every=2)
    Trainer(replace(RECIPE, train=config), split, tmp_path).run(evaluate=lambda trainer: [{"split": "val", "ap": 0.0}])
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [row["step"] for row in rows if "split" in row] == [2, 4]


def test_architectures_are_drawn_uniformly_and_by_step() -> None:
    uniform = replace(RECIPE, train=replace(TRAIN, base_share=0.0))
    drawn = [uniform.archs_of_step(step)[0] for step in range(600)]
    assert drawn == [uniform.archs_of_step(step)[0] for step in range(600)]
    counts = {arch: drawn.count(arch) for arch in SPACE.training_archs()}
    assert min(counts.values()) > 10 and set(drawn) == set(counts)
    assert all((arch.decoder_layers, arch.queries) == (2, 10) for arch in counts)
    base = [replace(RECIPE, train=replace(TRAIN, base_share=0.5)).archs_of_step(step) == (TINY.arch,) for step in range(600)]
    assert 0.45 < sum(base) / 600 < 0.65


@pytest.mark.parametrize(
    ("name", "rate", "decay"),
    [
        ("backbone.pos_embed", 1.5e-4 * 0.8**14 * 0.49, 0.0),
        ("backbone.patch_embed.weight", 1.5e-4 * 0.8**14 * 0.49, 0.0),
        ("backbone.blocks.0.fc1.weight", 1.5e-4 * 0.8**13 * 0.49, 1e-4),
        ("backbone.blocks.11.fc1.weight", 1.5e-4 * 0.8**2 * 0.49, 1e-4),
        ("backbone.blocks.11.fc1.bias", 1.5e-4 * 0.8**2 * 0.49, 0.0),
        ("backbone.blocks.3.scale1", 1.5e-4 * 0.8**10 * 0.49, 1e-4),
        ("backbone.norm.weight", 1.5e-4 * 0.49, 0.0),
        ("decoder.layers.1.linear1.bias", 0.7e-4, 1e-4),
        ("decoder.query_feat", 1e-4, 1e-4),
        ("projector.stages.0.cv1.norm.weight", 1e-4, 1e-4),
        ("selection.proj.weight", 1e-4, 1e-4),
        ("class_embed.bias", 1e-4, 1e-4),
    ],
)
def test_parameter_groups_of_the_released_recipe(name: str, rate: float, decay: float) -> None:
    assert rate_and_decay(name, TrainConfig(), 12) == pytest.approx((rate, decay))


def test_schedule() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, cooldown_share=0.25)
    assert [schedule(step, config) for step in (0, 9, 10, 74, 75)] == [0.1, 1.0, 1.0, 1.0, 1.0]
    assert schedule(99, config) == pytest.approx(0.04)
    assert schedule(10**6, TrainConfig(steps=10)) == 1.0  # the paper has no schedule


def test_ema_follows_its_schedule(split: CocoSplit, tmp_path: Path) -> None:
    detector = Trainer(RECIPE, split, tmp_path).detector
    ema, name = Ema(detector, TRAIN), "class_embed.bias"
    start = ema.state[name].clone()
    with torch.no_grad():
        detector.class_embed.bias += 1
    ema.update(detector, 1)
    decay = TRAIN.ema_decay * (1 - math.exp(-1 / TRAIN.ema_tau))
    assert torch.allclose(ema.state[name], start + (1 - decay))
    total = sum(len(group["params"]) for group in build_optimizer({"": detector}, TrainConfig(), 12).param_groups)
    assert total == len(list(detector.parameters()))
