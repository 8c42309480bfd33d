"""The resize that keeps the aspect ratio and fills the rest of the input with grey (YOLO's
convention).

Scale and borders are rounded as the vendors round: the scaled picture to whole pixels, the left and
upper border down at a half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GREY = 114
Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Letterbox:
    """The place of a picture of ``image_hw`` px in an input of ``input_hw`` px."""

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
        (top, left), (height, width) = self.top_left, self.scaled_hw
        canvas[top : top + height, left : left + width] = fitted
        return canvas

    def boxes_of_picture(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """float32 (k, 4) in 0..1 of the input -> in 0..1 of the picture, not clipped."""
        (height, width), (top, left), (image_h, image_w) = (
            self.input_hw,
            self.top_left,
            self.image_hw,
        )
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
