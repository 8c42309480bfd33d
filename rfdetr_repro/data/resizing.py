"""A picture as a model's input, by any of the rules of :mod:`rfdetr_repro.spec.resize_rules`.

No torch here.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED, LETTERBOX, PLAIN, PLAIN_LETTERBOX

from .letterbox import Letterbox


def resize_image(
    image: np.ndarray,
    size_hw: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (*size_hw, 3), antialiased bilinear; ``box`` (left, top, right,
    bottom) px: only that part.
    """
    height, width = size_hw
    return np.asarray(
        Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box)
    )


def resized(image: np.ndarray, size_hw: tuple[int, int], rule: str = ANTIALIASED) -> np.ndarray:
    """uint8 (H, W, 3) -> (*size_hw, 3) in 0..255: uint8 where Pillow rounds, float32 of the plain
    rules.

    An unknown rule is an :class:`InputError`.
    """
    if rule in (LETTERBOX, PLAIN_LETTERBOX):
        letterbox = Letterbox((image.shape[0], image.shape[1]), size_hw)
        return letterbox.picture(image, resize_image if rule == LETTERBOX else resize_plain)
    if rule not in (ANTIALIASED, PLAIN):
        raise InputError(f"unknown resize rule {rule!r}", hint="export the model again")
    return resize_image(image, size_hw) if rule == ANTIALIASED else resize_plain(image, size_hw)


def resize_plain(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (*size_hw, 3) in 0..255, not rounded: each pixel from the four
    nearest to its centre.

    The centre of pixel i lies at (i + 0.5) * scale - 0.5, not before the first pixel (PyTorch's
    ``align_corners=False``).
    """
    top, bottom, down = _nearest(image.shape[0], size_hw[0])
    left, right, across = _nearest(image.shape[1], size_hw[1])
    down, across = down[:, None, None], across[None, :, None]
    above = image[top]
    below = image[bottom]
    upper = above[:, left] * (1 - across) + above[:, right] * across
    lower = below[:, left] * (1 - across) + below[:, right] * across
    return (upper * (1 - down) + lower * down).astype(np.float32)


def _nearest(side: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``size`` new pixels: the two old ones beside its centre, and the weight of the
    second, float32.
    """
    scale = np.float32(side / size)
    centre = np.maximum(
        (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5),
        np.float32(0),
    )
    first = np.minimum(centre.astype(np.int64), side - 1)
    return (
        first,
        np.minimum(first + 1, side - 1),
        (centre - first.astype(np.float32)).astype(np.float32),
    )


def model_input(
    image: np.ndarray, input_hw: tuple[int, int], rule: str = ANTIALIASED
) -> np.ndarray:
    """uint8 (H, W, 3) RGB -> float32 (1, 3, h, w) in 0..1, by the manifest's resize rule."""
    fitted = resized(image, input_hw, rule)
    return np.ascontiguousarray(
        fitted.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    )
