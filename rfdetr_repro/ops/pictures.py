"""A network's input from pictures as tensors, by the code that :mod:`rfdetr_repro.data` runs on
NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .distribution import NAMESPACE
from .library import OPERATORS


def network_input(
    pictures: Tensor,
    height: int,
    width: int,
    *,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    antialias: bool = True,
) -> Tensor:
    """Pictures uint8 (B, H, W, 3) RGB of any strides -> float32 (B, 3, height, width), which is
    ((value / 255) - mean) / std of the resized pictures; CPU only.

    ``antialias``: True is Pillow's bilinear filter, rounded to 8 bits as Pillow 13 rounds; False is
    bilinear between the four nearest pixels in float32, as ``interpolate(mode="bilinear",
    align_corners=False)`` is. No gradient. Raises RuntimeError for other shapes and types, and
    ValueError for sizes out of range.
    """
    scale = torch.tensor([list(mean), list(std)], dtype=torch.float32)
    return OPERATORS.network_input.default(pictures, height, width, scale, antialias)


@torch.library.register_fake(f"{NAMESPACE}::network_input")
def _shape(pictures: Tensor, height: int, width: int, scale: Tensor, antialias: bool) -> Tensor:
    return pictures.new_empty((pictures.shape[0], 3, height, width), dtype=torch.float32)
