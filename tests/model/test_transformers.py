"""Same weights, same images, two programs: this model against RF-DETR in Hugging Face transformers
(an independent rewrite).

Weights are made here (fill rule), so nothing is downloaded. Every size at full width is behind the
marker ``parity``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from filled import fill, uniform
from tiny import TINY

from rfdetr_repro.baselines.rf_detr_transformers.adapter import build
from rfdetr_repro.data.transforms import Target
from rfdetr_repro.model.checkpoints.layouts import from_transformers, transformers_name
from rfdetr_repro.model.checkpoints.pretrained import infer_preset, load_pretrained
from rfdetr_repro.model.checkpoints.released import from_released, to_released
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.presets import PRESETS
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train.losses import detection_losses

pytest.importorskip("transformers.models.rf_detr", reason="transformers (>= 5) is not installed")

# theirs has one pyramid level
EXPRESSIBLE = [name for name, row in PRESETS.items() if row.model.levels == ("P4",)]
DEFAULT = {"nano"}


def their_model(model: ModelConfig, windows: int) -> Any:
    """Their model of our configuration, in evaluation mode, filled by the rule of the test
    vectors.
    """
    theirs = build(model, windows, "eager").eval()
    theirs.load_state_dict(
        {
            name: fill(transformers_name(name), tuple(v.shape))
            for name, v in theirs.state_dict().items()
        }
    )
    return theirs


def our_model(theirs: Any, model: ModelConfig, size: str | None) -> Detector:
    released = from_transformers(theirs.state_dict())
    if size is not None:
        row = infer_preset(released, {}, size)
        assert row.model == model
        arch = row.arch
    else:
        arch = TINY.arch
    ours = Detector(replace(model, encoder_masks_projected=False), arch)
    ours.load_state_dict(from_released(released, ours.state_dict(), model.groups))
    return ours.eval()


@lru_cache(maxsize=1)
def pair(size: str) -> tuple[Any, Detector]:
    row = PRESETS[size]
    theirs = their_model(row.model, row.arch.windows)
    return theirs, our_model(theirs, row.model, size)


def images(count: int, height: int, width: int, name: str = "input") -> torch.Tensor:
    values = torch.from_numpy(uniform(name, count * 3 * height * width))
    return 2 * values.reshape(count, 3, height, width).float()


@torch.no_grad()
def ranked_images(ours: Detector, side: int) -> torch.Tensor:
    """One image whose tokens have one ranking in float32, too.

    A token's rank decides which query embedding it gets, so two tokens that swap places change
    their rows entirely. Float32 knows scores to about 2e-6 here: the first image counts whose
    chosen tokens, in float64, keep the distance below.
    """
    scores: list[torch.Tensor] = []
    hook = ours.selection.class_embed.register_forward_hook(
        lambda _layer, _inputs, logits: scores.append(logits[0, 0].amax(-1))
    )
    ours.double()
    try:
        for i in range(20):
            batch = images(1, side, side, f"input{i}" if i else "input")
            ours(batch.double(), ours.arch.with_input(side, side))
            best = scores[-1].sort(descending=True).values[: ours.config.queries + 1]
            if float((best[:-1] - best[1:]).min()) > 1e-5:
                return batch
    finally:
        hook.remove()
        ours.float()
    raise AssertionError("no image of twenty ranks its tokens clearly")


def small_side(size: str) -> int:
    """A square side that fits the windows and leaves at least as many tokens as queries; positions
    are interpolated.
    """
    arch = PRESETS[size].arch
    unit = arch.patch * arch.windows
    grid = arch.windows
    while grid * grid < PRESETS[size].model.queries:
        grid += arch.windows
    return grid // arch.windows * unit


@torch.no_grad()
def compare(theirs: Any, ours: Detector, batch: torch.Tensor, tolerance: float) -> None:
    theirs, ours = theirs.to(batch.dtype), ours.to(batch.dtype)
    expected = theirs(batch)
    found = ours(batch, ours.arch.with_input(*batch.shape[-2:]))
    scale = max(1.0, float(expected.logits.abs().max()))
    assert torch.allclose(found.logits, expected.logits, rtol=0, atol=tolerance * scale)
    assert torch.allclose(found.boxes_cxcywh, expected.pred_boxes, rtol=0, atol=tolerance)
    if ours.config.masks:
        scale = max(1.0, float(expected.pred_masks.abs().max()))
        assert torch.allclose(
            found.mask_logits, expected.pred_masks, rtol=0, atol=tolerance * scale
        )


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, marks=() if size in DEFAULT else pytest.mark.parity)
        for size in EXPRESSIBLE
    ],
)
def test_outputs_equal_theirs_at_every_size(size: str) -> None:
    """Full width, batch 1 in float32 and batch 3 in float64, on small images."""
    theirs, ours = pair(size)
    side = small_side(size)
    compare(theirs, ours, ranked_images(ours, side), 1e-4)
    compare(theirs, ours, images(3, side, side).double(), 1e-6)
    theirs.float(), ours.float()


@pytest.mark.parity
def test_nano_at_its_own_resolution() -> None:
    theirs, ours = pair("nano")
    compare(theirs, ours, ranked_images(ours, 384), 1e-4)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("hw", [(64, 128), (160, 96)])
def test_rectangles_equal_theirs(masks: bool, hw: tuple[int, int]) -> None:
    """One window per side: with more, their partition takes a window's height for its width."""
    model = _small(masks)
    theirs = their_model(model, 1)
    compare(theirs, our_model(theirs, model, None), images(2, *hw).double(), 1e-6)


def _small(masks: bool) -> ModelConfig:
    """A small width that no preset has."""
    return replace(
        TINY.model,
        masks=masks,
        mask_stride=4,
        proposal_side=0.05,
        layer_scale=True,
        feature_stages=(1, 2, 3, 4),
        global_blocks=(1, 2, 3),
    )


@pytest.mark.parametrize("masks", [False, True])
def test_their_state_dict_loads_from_a_file(masks: bool, tmp_path: Any) -> None:
    """A file with nothing but their tensors, at a small width that no preset has: the size must be
    described.
    """
    model = _small(masks)
    theirs = their_model(model, 1)
    ours = our_model(theirs, model, None)
    compare(theirs, ours, images(2, 128, 128), 1e-4)
    said = {
        "sa_nheads": 2,
        "ca_nheads": 4,
        "dec_n_points": 2,
        "out_feature_indexes": [1, 2, 3, 4],
        "num_windows": 1,
    }
    torch.save({"model": theirs.state_dict(), "args": said}, tmp_path / "theirs.pth")
    loaded, card, _ = load_pretrained(tmp_path / "theirs.pth")
    # 32 / 64 heads: DINOv2's rule
    assert loaded.config == replace(model, vit_heads=1) and card.arch.input_hw[0] == 128
    assert torch.equal(loaded.decoder.query_feat, ours.decoder.query_feat.float())


def test_a_folder_of_theirs_is_read_with_its_names_and_geometry(tmp_path: Path) -> None:
    """What ``save_pretrained`` writes: tensors, and beside them the configuration; nothing has to
    be named.
    """
    model = _small(False)
    theirs = their_model(model, 1)
    theirs.config.id2label = {index: f"part {index}" for index in range(model.num_classes)}
    theirs.save_pretrained(tmp_path / "theirs")
    loaded, card, _ = load_pretrained(tmp_path / "theirs")
    assert loaded.config == model and card.arch.input_hw == (128, 128)
    assert card.class_names == tuple(f"part {index}" for index in range(model.num_classes))
    compare(theirs, loaded, images(2, 128, 128), 1e-4)
    path = tmp_path / "theirs" / "config.json"
    for change in ({"activation_function": "relu"}, {"mask_downsample_ratio": 2}):
        said = {**json.loads(path.read_text()), **change}
        (other := tmp_path / "other").mkdir(exist_ok=True)
        (other / "config.json").write_text(json.dumps(said))
        shutil.copy(tmp_path / "theirs" / "model.safetensors", other)
        with pytest.raises(InputError, match=next(iter(change))):
            load_pretrained(other)


def test_training_loss_and_every_gradient_equal_theirs() -> None:
    """13 query groups would only cost time: three, in float64.

    Their classification, L1 and GIoU losses are upstream's too.
    """
    model = replace(
        TINY.model, masks=False, proposal_side=0.05, layer_scale=True, global_blocks=(1, 2, 3)
    )
    theirs = their_model(model, 1).double().train()
    ours = our_model(theirs, model, None).double().train()
    batch = images(2, 128, 128).double()
    boxes = [
        [[0.5, 0.5, 0.4, 0.3], [0.25, 0.3, 0.1, 0.2], [0.7, 0.8, 0.2, 0.15]],
        [[0.4, 0.6, 0.5, 0.5]],
    ]
    labels = [[1, 17, 6], [3]]
    targets = [
        Target(torch.tensor(b, dtype=torch.float64), torch.tensor(c), None, i)
        for i, (b, c) in enumerate(zip(boxes, labels, strict=True))
    ]
    expected = theirs(
        batch, labels=[{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
    )
    expected.loss.backward()
    outputs = ours.training_outputs(ours.features(batch, 16, 1), (128, 128), ours.arch)
    total, _ = detection_losses(outputs, targets, model.groups, TrainConfig())
    total.backward()
    assert total.item() == pytest.approx(expected.loss.item(), rel=1e-6)
    wanted = from_transformers(
        {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    )
    found = to_released({name: p.grad for name, p in ours.named_parameters()}, model.groups)
    assert len(wanted) == len(found) - 1  # DINOv2's mask token, which nothing reads
    for name, gradient in wanted.items():
        gap = float((found[name] - gradient).abs().max()) / max(1e-3, float(gradient.abs().max()))
        assert gap < 1e-5, f"{name}: {gap}"
