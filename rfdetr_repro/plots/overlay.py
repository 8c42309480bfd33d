"""Draws detections on a picture at the picture's own size: masks, boxes, and the labels that
:mod:`.label_rule` allows.

Drawn by Pillow, which is installed with this package: supervision's annotators need OpenCV, and
without OpenCV take 40 ms a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from .detections import Annotations, class_color, class_label
from .label_rule import place_labels
from .style import drawable, families, rgb

Array = np.ndarray[Any, Any]

_MASK_SHARE = 0.45  # of the colour in the pixels of a mask
_BAND_PX = 1 << 20  # pixels that are blended at a time
_FONT_PX = (11, 64)  # smallest and largest height of labels


def draw_over(image: Array, objects: Annotations, class_names: Sequence[str] = ()) -> Array:
    """``image``, uint8 (H, W, 3) RGB, with ``objects`` drawn on it; the array itself is changed
    where it can be written, else a copy. Sizes of lines and letters follow the picture's size.
    """
    canvas = image if image.flags.writeable and image.flags.c_contiguous else image.copy()
    height, width = canvas.shape[:2]
    line = max(1, round(min(height, width) / 240))
    _masks(canvas, objects)
    for box, label in zip(np.asarray(objects.boxes_xyxy), objects.labels, strict=True):
        _rectangle(canvas, box, line, rgb(class_color(label)))
    size = int(np.clip(min(height, width) / 55, *_FONT_PX))
    texts = [
        drawable(
            class_label(int(label), class_names)
            + ("" if objects.scores is None else f" {float(objects.scores[row]):.2f}")
        )
        for row, label in enumerate(objects.labels)
    ]
    pad = max(2, line)

    def size_of(row: int) -> tuple[float, float]:
        lengths = [font.getlength(run) for font, run in _runs(texts[row], size)]
        return sum(lengths) + 2 * pad, sum(_font("DejaVu Sans", size).getmetrics()) + pad

    placed = place_labels(
        objects.boxes_xyxy, objects.labels, objects.scores, size_of, (height, width)
    )
    for row, left, top in placed:
        tile = _label(
            _runs(texts[row], size), size_of(row), pad, rgb(class_color(objects.labels[row]))
        )
        part = canvas[round(top) :, round(left) :][: tile.shape[0], : tile.shape[1]]
        part[:] = tile[: part.shape[0], : part.shape[1]]
    return canvas


def _masks(canvas: Array, objects: Annotations) -> None:
    """Blends the colour of each mask into its pixels, a few rows at a time."""
    if objects.masks is None:
        return
    band = max(1, _BAND_PX // canvas.shape[1])
    for mask, label in zip(objects.masks, objects.labels, strict=True):
        color = _MASK_SHARE * np.array(rgb(class_color(label)), dtype=np.float32)
        for top in range(0, len(canvas), band):
            inside = mask[top : top + band]
            if inside.any():
                part = canvas[top : top + band]
                mixed = (1 - _MASK_SHARE) * part[inside].astype(np.float32) + color
                part[inside] = np.rint(mixed).astype(np.uint8)


def _rectangle(canvas: Array, box: Array, line: int, color: tuple[int, int, int]) -> None:
    """The outline of a box, ``line`` px wide, inside the box where the box has room."""
    height, width = canvas.shape[:2]
    left, top = (
        int(np.clip(round(float(value)), 0, size - 1))
        for value, size in zip(box[:2], (width, height), strict=True)
    )
    right, bottom = (
        int(np.clip(round(float(value)), low + 1, size))
        for value, low, size in zip(box[2:], (left, top), (width, height), strict=True)
    )
    line = max(1, min(line, (right - left) // 4, (bottom - top) // 4))
    canvas[top : top + line, left:right] = color
    canvas[bottom - line : bottom, left:right] = color
    canvas[top:bottom, left : left + line] = color
    canvas[top:bottom, right - line : right] = color


def _label(
    runs: Sequence[tuple[Any, str]],
    size: tuple[float, float],
    pad: int,
    color: tuple[int, int, int],
) -> Array:
    """Letters on a rectangle of the class's colour, uint8 (height, width, 3)."""
    width, height = (int(np.ceil(side)) for side in size)
    image = Image.new("RGB", (width, height), color)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 150
    draw = ImageDraw.Draw(image)
    base = runs[0][0].getmetrics()[0] + pad // 2 if runs else 0
    left = float(pad)
    for font, run in runs:
        draw.text((left, base), run, font=font, fill="white" if dark else "black", anchor="ls")
        left += font.getlength(run)
    return np.asarray(image)


def _runs(text: str, size: int) -> list[tuple[Any, str]]:
    """The text in pieces of one font each: the first of the figures' fonts that has the letter."""
    pieces: list[tuple[str, str]] = []
    for letter in text:
        family = next((name for name in families() if ord(letter) in _charmap(name)), "DejaVu Sans")
        if pieces and pieces[-1][0] == family:
            pieces[-1] = (family, pieces[-1][1] + letter)
        else:
            pieces.append((family, letter))
    return [(_font(family, size), run) for family, run in pieces]


@lru_cache(maxsize=32)
def _charmap(family: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(family)).get_charmap())


@lru_cache(maxsize=32)
def _font(family: str, size: int) -> Any:
    """A font of the figures at ``size`` px."""
    return ImageFont.truetype(font_manager.findfont(family), size)
