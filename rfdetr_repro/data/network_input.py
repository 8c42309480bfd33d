"""The only way from a picture to a network's input: crop, resize, flip, scale to 0..1, normalise.

Training, evaluation, prediction, the search and artifacts all call :func:`network_input`. Its
arguments cover the conventions that differ between models (normalisation, and the resize rules of
:mod:`rfdetr_repro.spec.resize_rules`) and between training and evaluation (flip and crop). The work
is compiled (csrc/cpu/pictures.h), for NumPy arrays without torch; the PyTorch operator
:func:`rfdetr_repro.ops.network_input` shares the code, and :mod:`.device_input` computes the same
pixels on the device that trains, where a recipe asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from rfdetr_repro.spec.errors import InputError, LibraryNotBuilt
from rfdetr_repro.spec.resize_rules import (
    ANTIALIASED,
    LETTERBOX,
    PLAIN,
    PLAIN_LETTERBOX,
    RULES,
)

if TYPE_CHECKING:
    from torch import Tensor

try:
    _pictures: Any = import_module("rfdetr_repro._pictures")  # csrc/python/pictures.cpp
except ImportError as error:
    raise LibraryNotBuilt(f"the compiled picture module does not load ({error})") from error

Images = TypeVar("Images", "np.ndarray", "Tensor")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = 114
_AS_IT_IS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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
    antialiased and whether the aspect ratio is kept. ``normalised``: False gives values in 0..1,
    which artifacts take; True subtracts ImageNet's mean and divides by its standard deviation, as
    the network in PyTorch takes values. ``views``: one :class:`View` per picture, for training,
    which resizes by the antialiased rule only.

    Antialiased pixels are those of Pillow's bilinear filter, bit for bit as Pillow 13 computes
    them; the others are bilinear in float32. Pictures may have any strides. Raises
    :class:`InputError` for an unknown rule and for arrays of another form.
    """
    if rule not in RULES:
        raise InputError(f"unknown resize rule {rule!r}", hint="export the model again")
    if views is not None and rule != ANTIALIASED:
        raise ValueError(f"training resizes with antialiasing, not {rule!r}")
    inputs = np.empty((len(pictures), 3, *input_hw), dtype=np.float32)
    seen = [None] * len(pictures) if views is None else views
    for picture, to, view in zip(pictures, inputs, seen, strict=True):
        write_input(picture, to, rule, normalised=normalised, view=view)
    return inputs


def write_input(
    picture: np.ndarray,
    to: np.ndarray,
    rule: str = ANTIALIASED,
    *,
    normalised: bool = False,
    view: View | None = None,
) -> None:
    """Writes one picture as :func:`network_input` does, to ``to``, float32 (3, h, w) with
    contiguous rows. Several threads may write to parts of one array at once.
    """
    scale = (IMAGENET_MEAN, IMAGENET_STD) if normalised else _AS_IT_IS
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        given = f"{picture.dtype} {tuple(picture.shape)}"
        raise InputError(f"a picture must be uint8 (H, W, 3), not {given}", hint="decode the file")
    height, width = picture.shape[:2]
    window, flip = view or View((0, 0, width, height), False)
    if rule in (LETTERBOX, PLAIN_LETTERBOX):
        letterbox = Letterbox((height, width), (to.shape[1], to.shape[2]))
        mean, std = (np.asarray(part, np.float32) for part in scale)
        grey = (np.float32(GREY) / np.float32(255) - mean) / std
        to[:] = grey[:, None, None]
        rows, columns = letterbox.inside
        to = to[:, rows, columns]
    antialias = rule not in (PLAIN, PLAIN_LETTERBOX)
    _pictures.network_input(picture, to, window, flip, antialias, *scale)


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

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the input that show the picture."""
        (top, left), (height, width) = self.top_left, self.scaled_hw
        return slice(top, top + height), slice(left, left + width)

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
