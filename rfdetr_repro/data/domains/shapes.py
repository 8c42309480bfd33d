"""Shapes with soft edges in coordinates of their own.

Every function returns how much of each pixel the shape covers, float32 in 0..1, from the distance
of the pixel's centre to the edge.
"""

from __future__ import annotations

import numpy as np


def local(reach: int, cosine: float = 1.0, sine: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (along, across) of a square of 2 * ``reach`` + 1 pixels around its middle, turned
    by the direction (``cosine``, ``sine``); float32.
    """
    place = np.arange(-reach, reach + 1, dtype=np.float32)
    return turned(place[None, :], place[:, None], cosine, sine)


def turned(
    right: np.ndarray, down: np.ndarray, cosine: float, sine: float
) -> tuple[np.ndarray, np.ndarray]:
    """(along, across) of the places ``right`` and ``down`` of a middle."""
    return cosine * right + sine * down, cosine * down - sine * right


def soft(inside: np.ndarray) -> np.ndarray:
    """The cover of a pixel that lies ``inside`` pixels from the edge of a shape."""
    return np.clip(inside + np.float32(0.5), 0, 1)


def box(along: np.ndarray, across: np.ndarray, half_length: float, half_width: float) -> np.ndarray:
    """A rectangle around the middle."""
    return soft(np.minimum(half_length - abs(along), half_width - abs(across)))


def ellipse(
    along: np.ndarray, across: np.ndarray, half_length: float, half_width: float
) -> np.ndarray:
    """An ellipse around the middle."""
    along, across = along / half_length, across / half_width
    radius = np.sqrt(along * along + across * across)
    return soft((1 - radius) * min(half_length, half_width))
