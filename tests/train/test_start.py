"""What a run starts from: files of this project with and without masks, in float32 and float16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import TINY

from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.train.prepare import start_from
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
