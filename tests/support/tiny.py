"""A model small enough for tests, with every part of the real one: windows, groups, two decoder
layers, masks.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.presets import PICO, PICO_TRAIN, Preset
from rfdetr_repro.spec.train_config import TrainConfig

ARCH = Arch(64, 16, 1, 2, 10)
TINY = Preset(
    replace(
        PICO.model,
        vit_dim=32,
        vit_heads=2,
        hidden=32,
        self_heads=2,
        cross_heads=4,
        ffn=64,
        queries=10,
        groups=3,
        pos_grid=8,
        mask_stride=4,
    ),
    ARCH,
)
SPACE = SearchSpace((48, 64, 96), (8, 12, 16), (1, 2), (0, 1, 2), (3, 7, 10))
TRAIN: TrainConfig = replace(
    PICO_TRAIN, steps=6, batch_size=2, checkpoint_every=3, evaluate_every=0, warmup_steps=2
)


def tiny_detector(seed: int = 0, **changes: object) -> Detector:
    """Random weights; box and class heads are shaken out of their initial zeros so that outputs
    differ between queries.
    """
    torch.manual_seed(seed)
    detector = Detector(replace(TINY.model, **changes), ARCH)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return detector.eval()


def images_for(arch: Arch, count: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, *arch.input_hw, generator=torch.Generator().manual_seed(seed))
