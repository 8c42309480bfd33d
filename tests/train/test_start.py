"""What a run starts from: files of this project with and without masks, in float32 and float16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import ARCH, TINY, TRAIN, images_for, tiny_detector

from rfdetr_repro.data.coco import read_splits
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import with_queries
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.sizing import Sizing
from rfdetr_repro.train import command
from rfdetr_repro.train.prepare import start_from, start_of
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.slim import slim


def test_boxes_alone_start_from_a_model_with_masks(tmp_path: Path) -> None:
    """Data without masks: everything but the mask head is taken, also from a file in float16."""
    torch.manual_seed(0)
    row = replace(TINY, model=replace(TINY.model, masks=True))
    whole = Detector(row.model, row.arch).eval()
    names = tuple(f"thing {index}" for index in range(row.model.num_classes))
    card = ModelCard(row.model, row.arch, names, tuple(range(1, len(names) + 1)))
    save_detector(tmp_path / "whole.safetensors", whole.state_dict(), card)
    slim(tmp_path / "whole.safetensors", tmp_path / "half.safetensors", "said")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (
        tmp_path / "whole.safetensors"
    ).stat().st_size
    plain = replace(row, model=replace(row.model, masks=False))
    found, state, told = start_from(
        tmp_path / "half.safetensors", plain, ClassMap(card.category_ids, names)
    )
    assert (
        not found.model.masks
        and not any(name.startswith("mask_head") for name in state)
        and "its own classes" in told
    )
    boxes = Detector(found.model, found.arch).eval()
    boxes.load_state_dict(state)
    image = torch.rand(1, 3, *row.arch.input_hw)
    with torch.inference_mode():
        ours = boxes(image, row.arch, masks=False)
        theirs = whole(image, row.arch, masks=False)
    assert torch.allclose(ours.logits, theirs.logits, atol=0.05) and torch.allclose(
        ours.boxes_cxcywh, theirs.boxes_cxcywh, atol=0.05
    )


def test_weights_beyond_float16_are_named(tmp_path: Path) -> None:
    detector = Detector(TINY.model, TINY.arch)
    with torch.no_grad():
        detector.class_embed.bias[0] = 1e6
    names = tuple(f"thing {index}" for index in range(TINY.model.num_classes))
    card = ModelCard(TINY.model, TINY.arch, names, tuple(range(len(names))))
    save_detector(tmp_path / "huge.safetensors", detector.state_dict(), card)
    with pytest.raises(InputError, match="class_embed.bias does not fit into float16"):
        slim(tmp_path / "huge.safetensors", tmp_path / "half.safetensors")
    assert not (tmp_path / "half.safetensors").exists()


def test_queries_are_added_without_a_change_of_the_others() -> None:
    """A model with more queries predicts with its first ones what it predicted before, and every
    added slot is the copy that the rule states.
    """
    detector = tiny_detector(seed=3)
    stored = detector.config.queries
    more = with_queries(detector, 2 * stored + 3)
    assert more.config.queries == 2 * stored + 3 and more.training == detector.training
    images = images_for(ARCH)
    with torch.inference_mode():
        before = detector(images, ARCH)
        after = more(images, ARCH)
        whole = more(images, replace(ARCH, queries=12))
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.boxes_cxcywh, after.boxes_cxcywh)
    assert whole.logits.shape[1] == 12
    for name in ("query_feat", "refpoint_embed"):
        old = getattr(detector.decoder, name).unflatten(0, (-1, stored))
        new = getattr(more.decoder, name).unflatten(0, (-1, 2 * stored + 3))
        for slot in range(2 * stored + 3):
            assert torch.equal(new[:, slot], old[:, slot % stored])
    assert with_queries(detector, stored) is detector
    assert with_queries(detector, 2) is detector


def test_a_sized_start_trains(tmp_path: Path) -> None:
    """Settings that follow the data replace those of the file, and training takes them."""
    detector = tiny_detector(seed=4)
    names = tuple(f"thing {index}" for index in range(detector.config.num_classes))
    card = ModelCard(detector.config, detector.arch, names, tuple(range(len(names))))
    save_detector(tmp_path / "model.safetensors", detector.state_dict(), card)
    folder = write_embedded(
        tmp_path / "data", EmbeddedConfig(64, train_images=3, val_images=1, test_images=1)
    )
    split = read_splits(DataSource.of(folder))["train"]
    sizing = Sizing(96, 25, 0.1, 2)
    start = start_of(TINY, split, tmp_path / "model.safetensors", sizing)
    assert start.preset.model.queries == 25 and "queries repeated to 25" in start.taken
    assert (start.preset.model.mask_stride, start.preset.model.proposal_side) == (2, 0.1)
    assert start.preset.arch.resolution == 96 and start.preset.arch.queries == 25
    assert start_of(TINY, split, None, sizing).preset == start.preset.__class__(
        replace(TINY.model, queries=25, mask_stride=2, proposal_side=0.1),
        start.preset.arch,
        TINY.note,
    )
    request = TrainRequest(
        recipe=Recipe(start.preset, replace(TRAIN, steps=2)),
        split=split,
        folder=tmp_path / "run",
        initial=start.initial,
        device=torch.device("cpu"),
        processes=1,
    )
    assert train(request).steps == 2


@pytest.mark.parametrize("more", [[], ["--fixed", "--shape", "64x96"], ["--queries", "60"]])
def test_a_plan_is_of_what_the_training_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    data = write_embedded(
        tmp_path / "data",
        EmbeddedConfig(64, train_images=4, val_images=2, test_images=0),
        workers=1,
    )
    recipes: list[Recipe] = []

    def planned(recipe: Recipe, device: Any, images: int, processes: int) -> Any:
        assert processes == 2
        recipes.append(recipe)
        return SimpleNamespace(lines=lambda: [str(images)])

    def trained(request: TrainRequest) -> Any:
        recipes.append(request.recipe)
        return SimpleNamespace(best=None, model="model")

    monkeypatch.setattr("rfdetr_repro.train.plan.plan", planned)
    monkeypatch.setattr(command, "train", trained)
    given = ["--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu", *more]
    command.main([*given, "--plan", "--processes", "2"])
    command.main(given)
    plan, run = recipes
    assert (plan.preset.arch, plan.train, plan.space) == (run.preset.arch, run.train, run.space)
    assert plan.preset.model == run.preset.model
    if "--shape" in more:
        assert run.preset.arch.input_hw == (64, 96)
    if "--queries" in more:
        assert run.preset.arch.queries == 60
