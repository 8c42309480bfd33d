"""Deterministic weights and input without any download: the fill rule of architecture facts section
15.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rfdetr_repro.model.checkpoints.released import from_released, to_released
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.presets import preset


def uniform(name: str, count: int) -> np.ndarray:
    """float64 in [-1, 1): an integer hash of the flat index, keyed by the CRC32 of the name."""
    mask = np.uint64(0xFFFFFFFF)
    x = (
        np.arange(count, dtype=np.uint64) * np.uint64(2654435761)
        + np.uint64(zlib.crc32(name.encode()))
    ) & mask
    for _ in range(2):
        x ^= x >> np.uint64(16)
        x = (x * np.uint64(0x45D9F3B)) & mask
    x ^= x >> np.uint64(16)
    return 2 * x.astype(np.float64) / 2**32 - 1


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of the parameter with released name ``name``."""
    count = int(np.prod(shape))
    u = torch.from_numpy(uniform(name, count)).reshape(shape)
    if len(shape) == 1:
        return 1 + 0.1 * u if name.endswith((".weight", "lambda1")) else 0.05 * u
    if name == "refpoint_embed.weight" or ("bbox_embed" in name and ".layers.2." in name):
        return 0.1 * u
    if "embeddings." in name and "projection" not in name:
        return 0.5 * u
    return u * (3 / (count / shape[0])) ** 0.5


def filled_detector(size: str, **changes: object) -> tuple[Detector, Tensor, dict[str, Tensor]]:
    """(float64 detector in evaluation mode, input (2, 3, R, R), its released state dict)."""
    row = preset(size)
    detector = Detector(replace(row.model, **changes), row.arch).double().eval()
    released = {
        name: fill(name, tuple(value.shape))
        for name, value in to_released(detector.state_dict(), row.model.groups).items()
    }
    detector.load_state_dict(from_released(released, detector.state_dict(), row.model.groups))
    side = row.arch.input_hw[0]
    images = 2 * torch.from_numpy(uniform("input", 2 * 3 * side * side)).reshape(2, 3, side, side)
    return detector, images, released
