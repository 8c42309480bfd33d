"""The only way from a picture to a network's input: crop, resize, flip, scale to 0..1, normalise.

Training, evaluation, prediction, the search and artifacts all call :func:`network_input`. Its
arguments cover the conventions that differ between models (normalisation, and the resize rules of
:mod:`rfdetr_repro.spec.resize_rules`) and between training and evaluation (flip and crop). No torch
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED, LETTERBOX, PLAIN, PLAIN_LETTERBOX

if TYPE_CHECKING:
    from torch import Tensor

Images = TypeVar("Images", "np.ndarray", "Tensor")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = 114
Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


class View(NamedTuple):
    """The part of a picture that training uses: a window (left, top, right, bottom) in whole px of
    the picture, and whether the window is mirrored.
    """

    window: tuple[int, int, int, int]
    flip: bool


def network_input(
    pictures: Sequence[np.ndarray],
    input_hw: tuple[int, int],
    rule: str = ANTIALIASED,
    *,
    normalised: bool = False,
    views: Sequence[View] | None = None,
) -> np.ndarray:
    """B pictures uint8 (H, W, 3) RGB, each of its own size -> contiguous float32 (B, 3, *input_hw).

    ``rule``: one of :mod:`rfdetr_repro.spec.resize_rules`; it says whether the resize is
    antialiased and whether the aspect ratio is kept. An unknown rule is an :class:`InputError`.
    ``normalised``: False gives values in 0..1, which artifacts take; True subtracts ImageNet's mean
    and divides by its standard deviation, as the network in PyTorch takes values. ``views``: one
    :class:`View` per picture, for training, which resizes by the antialiased rule only.
    """
    if views is None:
        fitted = [resized(picture, input_hw, rule) for picture in pictures]
    else:
        if rule != ANTIALIASED:
            raise ValueError(f"training resizes with antialiasing, not {rule!r}")
        fitted = [
            _seen(picture, input_hw, view) for picture, view in zip(pictures, views, strict=True)
        ]
    values = np.stack(fitted).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(normalise(values) if normalised else values)


def _seen(picture: np.ndarray, input_hw: tuple[int, int], view: View) -> np.ndarray:
    image = resize_image(picture, input_hw, view.window)
    return image[:, ::-1] if view.flip else image


def normalise(images: Images) -> Images:
    """float32 (..., 3, H, W) in 0..1, array or tensor -> the same minus ImageNet's mean, divided by
    its standard deviation.
    """
    if isinstance(images, np.ndarray):
        mean, std = (
            np.array(values, dtype=images.dtype)[:, None, None]
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
    else:
        mean, std = (
            images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
    return (images - mean) / std


def resize_image(
    image: np.ndarray,
    size_hw: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (*size_hw, 3), antialiased bilinear; ``box`` (left, top, right,
    bottom) in px restricts the resize to a part of the image.
    """
    height, width = size_hw
    return np.asarray(
        Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box)
    )


def resized(image: np.ndarray, size_hw: tuple[int, int], rule: str = ANTIALIASED) -> np.ndarray:
    """uint8 (H, W, 3) -> (*size_hw, 3) in 0..255: uint8 for the antialiased rules, which Pillow
    rounds, and float32 for the plain rules.

    Raises :class:`InputError` for an unknown rule.
    """
    if rule in (LETTERBOX, PLAIN_LETTERBOX):
        letterbox = Letterbox((image.shape[0], image.shape[1]), size_hw)
        return letterbox.picture(image, resize_image if rule == LETTERBOX else resize_plain)
    if rule not in (ANTIALIASED, PLAIN):
        raise InputError(f"unknown resize rule {rule!r}", hint="export the model again")
    return resize_image(image, size_hw) if rule == ANTIALIASED else resize_plain(image, size_hw)


def resize_plain(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (*size_hw, 3) in 0..255, not rounded: each pixel interpolates the
    four pixels nearest to its centre.

    The centre of pixel i lies at (i + 0.5) * scale - 0.5, but not before the first pixel (PyTorch's
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
    """For each of ``size`` new pixels: the two old pixels on either side of its centre, and the
    weight of the second, float32.
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


@dataclass(frozen=True)
class Letterbox:
    """The place of a picture of ``image_hw`` px in an input of ``input_hw`` px that keeps the
    aspect ratio and fills the rest with grey (YOLO's convention).

    Scale and borders are rounded as the vendors round: the scaled picture to whole pixels, the left
    and upper border down at a half.
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]

    @property
    def scale(self) -> float:
        """Factor from pixels of the picture to pixels of the input."""
        return min(size / side for size, side in zip(self.input_hw, self.image_hw, strict=True))

    @property
    def scaled_hw(self) -> tuple[int, int]:
        """(height, width) in px of the scaled picture."""
        height, width = (max(1, round(side * self.scale)) for side in self.image_hw)
        return height, width

    @property
    def top_left(self) -> tuple[int, int]:
        """Rows above and columns left of the picture."""
        top, left = (
            round((size - side) / 2 - 0.1)
            for size, side in zip(self.input_hw, self.scaled_hw, strict=True)
        )
        return top, left

    def picture(self, image: np.ndarray, resize: Resize) -> np.ndarray:
        """uint8 (H, W, 3) -> (*input_hw, 3) in 0..255, of the type that ``resize`` returns."""
        fitted = resize(image, self.scaled_hw)
        canvas = np.full((*self.input_hw, 3), GREY, dtype=fitted.dtype)
        top, left = self.top_left
        height, width = self.scaled_hw
        canvas[top : top + height, left : left + width] = fitted
        return canvas

    def boxes_of_picture(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """float32 (k, 4) in 0..1 of the input -> in 0..1 of the picture, not clipped."""
        height, width = self.input_hw
        top, left = self.top_left
        image_h, image_w = self.image_hw
        scaled = boxes_xyxy * np.array([width, height] * 2, np.float32) - np.array(
            [left, top] * 2, np.float32
        )
        return (
            scaled / (np.float32(self.scale) * np.array([image_w, image_h] * 2, np.float32))
        ).astype(np.float32)

    def masks_of_picture(self, masks: np.ndarray) -> np.ndarray:
        """(k, h, w) maps of the input -> the part that shows the picture, cut at whole cells."""
        rows, columns = (
            slice(
                round(start * cells / size),
                max(round((start + side) * cells / size), round(start * cells / size) + 1),
            )
            for start, side, cells, size in zip(
                self.top_left, self.scaled_hw, masks.shape[1:], self.input_hw, strict=True
            )
        )
        return np.ascontiguousarray(masks[:, rows, columns])
