"""Mask logits for tests, and what PyTorch makes of them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def expected(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return (
        F.interpolate(logits[:, None], size=(height, width), mode="bilinear", align_corners=False)[
            :, 0
        ]
        > 0
    )


def blobs(count: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Smooth outlines with noise: (count, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, max(2, h // 6), max(2, w // 6), generator=generator)
    smooth = F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=False)[:, 0]
    return smooth + 0.1 * torch.randn(count, h, w, generator=generator)


def unpacked(bits: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(bits, axis=-1, bitorder="little")[..., :width].astype(bool)
