"""Training of every kind of backbone: gradients of all parameters, rates by block, and a resumed
run that equals the uninterrupted run bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples_backbones import FIELDS, small, small_detector
from tiny import TRAIN

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.model.checkpoints.native import load_supernet, read_tensors
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.backbone_kinds import KINDS
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train.optim import rate_and_decay
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

SPACE = SearchSpace((48, 64, 80), (8, 12, 16), (1,), (0, 1, 2), (3, 10))
KINDS_TRAINED = [kind for kind in FIELDS if kind != "dinov2"]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    folder = write_embedded(
        tmp_path_factory.mktemp("data"),
        EmbeddedConfig(64, train_images=8, val_images=2, test_images=2),
        workers=1,
    )
    return read_split(folder, "train")


class Killed(BaseException):
    pass


def kill_at_5(step: int, parts: dict[str, float]) -> None:
    if step == 5:  # the last checkpoint is at step 3
        raise Killed


@pytest.mark.parametrize("kind", KINDS_TRAINED)
def test_a_resumed_run_equals_the_uninterrupted_run(
    kind: str, split: CocoSplit, tmp_path: Path
) -> None:
    recipe = Recipe(small(kind), TRAIN, SPACE)
    start = Trainer(recipe, split, tmp_path / "none").state.detector.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    Trainer(recipe, split, tmp_path / "whole").run()
    with pytest.raises(Killed):
        Trainer(recipe, split, tmp_path / "cut").run(kill_at_5)
    resumed = Trainer(recipe, split, tmp_path / "cut")
    assert resumed.state.step == 3
    resumed.run()
    whole, cut = (read_tensors(tmp_path / name / STATE)[0] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    _, card, _ = load_supernet(tmp_path / "whole" / MODEL)
    assert card.config.backbone == FIELDS[kind]["backbone"]
    kept = {
        name
        for name, value in whole.items()
        if name.startswith("model.backbone.") and torch.equal(value, start[name[len("model.") :]])
    }
    assert not kept, "every parameter of the backbone has moved"


@pytest.mark.parametrize("kind", KINDS_TRAINED)
def test_another_backbone_is_another_run(kind: str, split: CocoSplit, tmp_path: Path) -> None:
    """The identity of a run names the backbone: its folder is not resumed with another."""
    other = Trainer(Recipe(small("dinov2"), TRAIN, SPACE), split, tmp_path)
    other.save()
    with pytest.raises(InputError, match="backbone"):
        Trainer(Recipe(small(kind), TRAIN, SPACE), split, tmp_path)


@pytest.mark.parametrize("kind", FIELDS)
def test_rates_fall_towards_the_image(kind: str) -> None:
    """Every parameter of a backbone has a layer: the embedding the lowest rate, norms of maps the
    highest; norms, biases and tokens are not decayed.
    """
    config = TrainConfig()
    detector = small_detector(kind)
    last = max(detector.config.feature_stages)
    part = "stages" if kind == "convnext" else "blocks"
    rates = {}
    for name, parameter in detector.named_parameters():
        if not name.startswith("backbone."):
            continue
        rate, decay = rate_and_decay(name, config, last)
        words = name.split(".")
        rates.setdefault(int(words[2]) if words[1] == part else words[1], set()).add(rate)
        if (parameter.dim() == 1 and "scale" not in name) or "token" in name:
            assert decay == 0, name
        elif words[1] == part and parameter.dim() > 1:
            assert decay == config.weight_decay, name
    assert all(len(found) == 1 for found in rates.values())
    by_block = [rates[index].pop() for index in range(4)]
    assert by_block == sorted(by_block) and len(set(by_block)) == 4
    assert rates["patch_embed"].pop() < by_block[0]
    assert rates["norms" if kind == "convnext" else "norm"].pop() > by_block[-1]


def test_a_space_that_the_backbone_cannot_run_is_refused_before_training() -> None:
    for space, message in (
        (replace(SPACE, windows=(1, 2)), "no windows"),
        (replace(SPACE, patches=(8, 10)), "multiples of 4"),
    ):
        with pytest.raises(InputError, match=message):
            Recipe(small("convnext"), TRAIN, space).check()
    assert KINDS["dinov3"].windows
    Recipe(small("dinov3"), TRAIN, replace(SPACE, windows=(1, 2), patches=(8, 10))).check()
