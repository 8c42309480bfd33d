"""Options of a training step that change its speed only: the order of numbers in memory, and CUDA
graphs of compiled code. What they need is said before a step is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from samples_backbones import small
from tiny import TRAIN

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.loader import training_batches
from rfdetr_repro.rivals.recipe import with_rival_settings
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import Preset
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train import trainer as trainers
from rfdetr_repro.train.mask_points import PointDraws
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer

Watched = tuple[torch.Tensor, dict[str, torch.Tensor], list[bool]]


def backward_pass(preset: Preset, split: CocoSplit, folder: Path, config: TrainConfig) -> Watched:
    """Loss and gradients of one pass, and for each convolution whether the channels of a pixel
    follow each other in its input.
    """
    orders: list[bool] = []
    plain = F.conv2d

    def watched(x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        orders.append(x.stride(1) == 1)
        return plain(x, *given, **named)

    trainer = Trainer(Recipe(preset, config), split, folder)
    sizes = [preset.arch.input_hw]
    (batches,) = training_batches(split, config, lambda step: sizes, 0, 1, masks=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", watched)
        total, _ = trainer.loss(batches[0], preset.arch, PointDraws(3))
    total.backward()
    named = trainer.state.detector.named_parameters()
    gradients = {name: one.grad for name, one in named if one.grad is not None}
    return total.detach(), gradients, orders


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "convnext"])
def test_channels_last_changes_no_loss(kind: str, split: CocoSplit, tmp_path: Path) -> None:
    """Without the option the patches of the images are the only convolution whose channels do not
    follow each other: norms and windows leave their maps so.
    """
    preset = small(kind, masks=False)
    plain, last = (
        backward_pass(
            preset,
            split,
            tmp_path / str(asked),
            replace(TRAIN, channels_last=asked, precision="float32"),
        )
        for asked in (False, True)
    )
    assert plain[2] == [False, *[True] * (len(plain[2]) - 1)] and len(plain[2]) > 3
    assert last[2] == [True] * len(plain[2])
    torch.testing.assert_close(last[0], plain[0], rtol=1e-5, atol=0)
    assert last[1].keys() == plain[1].keys()
    for name, wanted in plain[1].items():
        largest = float(wanted.abs().max())
        torch.testing.assert_close(last[1][name], wanted, rtol=1e-3, atol=1e-4 * largest + 1e-9)
        assert last[1][name].is_contiguous(), name  # weights stay as files have them


def test_what_cuda_graphs_need_is_said(split: CocoSplit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs compile=true"):
        replace(TRAIN, cuda_graph=True)
    with pytest.raises(InputError, match="accumulate > 1 exclude each other"):
        replace(TRAIN, cuda_graph=True, compile=True, accumulate=2)
    recipe = Recipe(small("dinov2"), replace(TRAIN, cuda_graph=True, compile=True))
    with pytest.raises(InputError, match="needs a CUDA GPU, not cpu"):
        Trainer(recipe, split, tmp_path)
    assert not list(tmp_path.iterdir())
    for name in ("cuda_graph", "channels_last"):
        with pytest.raises(InputError, match="RF-DETR's training only"):
            with_rival_settings(TRAIN, [f"{name}=true"])


@pytest.mark.parametrize("graphs", [False, True])
def test_compiled_parts_are_captured_where_asked(
    graphs: bool, split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch is told to capture, and at every pass that the tensors of the one before are free."""
    modes: list[str | None] = []
    begun: list[int] = []

    def compiled(part: Callable[..., Any], *, mode: str | None, **_: Any) -> Callable[..., Any]:
        modes.append(mode)
        return part

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    monkeypatch.setattr(trainers, "_check_cuda_graph", lambda asked, device: None)
    config = replace(TRAIN, cuda_graph=graphs, compile=True, precision="float32", steps=2)
    trainer = Trainer(Recipe(small("dinov2", masks=False), config), split, tmp_path)
    trainer.run()
    assert modes == 2 * ["reduce-overhead" if graphs else None]
    assert len(begun) == (2 if graphs else 0)
    words = "float32, compiled, CUDA graphs" if graphs else "float32, compiled"
    assert trainer.words == words and trainer.state.precisions == [words]


def test_options_have_words() -> None:
    assert not TRAIN.options
    every = replace(TRAIN, resize_on="device", channels_last=True, compile=True, cuda_graph=True)
    assert every.options == (
        *("pictures resized on the device", "channels last"),
        *("compiled", "CUDA graphs"),
    )
