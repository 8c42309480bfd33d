"""Shared by ``test_pretrained.py`` and others: described, small_released."""

from __future__ import annotations

from typing import Any

import torch
from filled import fill
from tiny import tiny_detector

from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.checkpoints.released import from_released, to_released
from rfdetr_repro.model.detector import Detector


def small_released(**changes: Any) -> tuple[Detector, dict[str, torch.Tensor]]:
    detector = tiny_detector(**changes)
    names = to_released(detector.state_dict(), detector.config.groups)
    released = {name: fill(name, tuple(value.shape)).float() for name, value in names.items()}
    detector.load_state_dict(from_released(released, detector.state_dict(), detector.config.groups))
    return detector.eval(), released


def described(detector: Detector) -> ModelCard:
    count = detector.config.num_classes
    return ModelCard(
        detector.config,
        detector.arch,
        tuple(f"thing {i}" for i in range(count)),
        tuple(range(10, 10 + count)),
    )
