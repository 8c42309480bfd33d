"""Frozen parts of the detector: no gradient, no weight decay, no change of the moving average, and
no other choice on resume.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SPACE, TINY, TRAIN, tiny_detector

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.train_config import PARTS, TrainConfig, with_settings
from rfdetr_repro.train import command
from rfdetr_repro.train.prepare import cpu_weights
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

# a decay that would be seen at once
HARD = replace(TRAIN, steps=3, weight_decay=0.5, lr=1e-2, lr_encoder=1e-2)


def recipe(*parts: str, masks: bool = True) -> Recipe:
    row = replace(TINY, model=replace(TINY.model, masks=masks))
    return Recipe(row, replace(HARD, freeze=parts), SPACE)


def test_the_parts_cover_every_parameter_once() -> None:
    for name, _ in tiny_detector().named_parameters():
        holders = [part for part, starts in PARTS.items() if name.startswith(starts)]
        assert len(holders) == 1, name


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_keeps_every_bit(split: CocoSplit, tmp_path: Path, part: str) -> None:
    trainer = Trainer(recipe(part), split, tmp_path)
    before = {name: value.clone() for name, value in trainer.state.detector.state_dict().items()}
    frozen = {name for name in before if name.startswith(PARTS[part])}
    gradients: list[str] = []
    plain = trainer.update

    def update() -> float:
        gradients.extend(
            name
            for name, parameter in trainer.state.detector.named_parameters()
            if parameter.grad is not None
        )
        return plain()

    trainer.update = update  # type: ignore[method-assign]
    trainer.run()
    raw = trainer.state.detector.state_dict()
    written = read_tensors(tmp_path / MODEL)[0]
    for name in frozen:
        assert torch.equal(raw[name], before[name]) and torch.equal(written[name], before[name])
        assert torch.equal(trainer.state.ema.state[name], before[name])
    assert gradients and not frozen & set(gradients)
    moved = {name for name in before if not torch.equal(raw[name], before[name])}
    others = {name for name, _ in trainer.state.detector.named_parameters()} - frozen
    assert moved == others  # weight decay alone moves every trained weight that is not 0


def test_without_freeze_every_part_changes(split: CocoSplit, tmp_path: Path) -> None:
    trainer = Trainer(
        recipe(), split, tmp_path, initial=cpu_weights(tiny_detector(2, num_classes=18))
    )
    before = {name: value.clone() for name, value in trainer.state.detector.state_dict().items()}
    trainer.run()
    raw = trainer.state.detector.state_dict()
    assert all(
        not torch.equal(raw[name], before[name])
        for name, _ in trainer.state.detector.named_parameters()
    )


def test_a_frozen_run_resumes_bit_for_bit_and_refuses_another_choice(
    split: CocoSplit, tmp_path: Path
) -> None:
    chosen = recipe("backbone", "projector")
    Trainer(chosen, split, tmp_path / "whole").run()
    cut = Trainer(chosen, split, tmp_path / "cut")

    def stop(step: int, parts: dict[str, float]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.run(stop)
    told = "train.freeze was backbone,projector, now the default"
    with pytest.raises(InputError, match=f"other data or settings: {told}"):
        Trainer(recipe(), split, tmp_path / "cut")
    Trainer(chosen, split, tmp_path / "cut").run()
    ours, theirs = (read_tensors(tmp_path / name / STATE)[0] for name in ("cut", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (
        '"freeze": ["backbone", "projector"]' in read_tensors(tmp_path / "cut" / STATE)[1]["recipe"]
    )


def test_names_are_checked_and_ordered() -> None:
    assert TrainConfig(freeze=("decoder", "backbone")) == TrainConfig(freeze="backbone, decoder")  # type: ignore[arg-type]
    assert with_settings(TrainConfig(), ["freeze=decoder,backbone"]).freeze == (
        "backbone",
        "decoder",
    )
    assert "freeze" not in TrainConfig().settings()  # runs of earlier versions go on
    for given, told in (
        ("backbon", "unknown part to freeze 'backbon'; did you mean backbone?"),
        (3, "freeze = 3 is not a list of parts"),
        (tuple(PARTS), "nothing to train"),
    ):
        with pytest.raises(InputError, match=told.replace("?", r"\?")):
            TrainConfig(freeze=given)  # type: ignore[arg-type]


def test_parts_that_the_model_lacks_are_refused() -> None:
    with pytest.raises(InputError, match="predicts no masks"):
        recipe("mask_head", masks=False).check()
    every = [part for part in PARTS if part != "mask_head"]
    with pytest.raises(InputError, match="every part of this model"):
        recipe(*every, masks=False).check()
    recipe(*every).check()  # the mask head alone is trained


def test_checkpointed_activations_of_a_frozen_backbone(split: CocoSplit, tmp_path: Path) -> None:
    plain = recipe("backbone")
    saving = replace(plain, train=replace(plain.train, checkpoint_activations=True))
    for name, chosen in (("plain", plain), ("saving", saving)):
        Trainer(chosen, split, tmp_path / name).run()
    ours, theirs = (read_tensors(tmp_path / name / MODEL)[0] for name in ("plain", "saving"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_random_weights_are_not_frozen(split: CocoSplit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="freeze = backbone without initial weights"):
        TrainRequest(recipe("backbone"), split, tmp_path)


def test_the_flag_and_the_setting_are_checked_before_data_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for given in (["--freeze", "bckbone"], ["--set", "freeze=bckbone"]):
        assert run_main(command.main, ["--data", "x", "--out", "y", *given]) == 2
        assert "did you mean backbone?" in capsys.readouterr().err
