"""Arithmetic that gives the same bits on every processor.

Random values come from whole numbers and ``Generator.random``; the distributions of NumPy that
multiply and add in C are avoided, because some compilers fuse the two operations. Directions are
rational points of the circle instead of sines and cosines. Scaling and blurring are products of
matrices of whole numbers below 2**24, which float32 represents exactly, so that neither the order
of a sum nor fused operations change a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")
UNIT = 4096  # the sum of the weights of a filter; UNIT * 255 < 2**24
_NOISE_DEVIATION = 147.8  # of a sum of four uniform bytes
_NOISE_MEAN = 510


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly from ``low`` to ``high``."""
    return low + (high - low) * float(rng.random())


def whole(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number drawn evenly from ``low`` to ``high``, both included."""
    return int(rng.integers(low, high + 1))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with ``probability``."""
    return float(rng.random()) < probability


def choose(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of ``items``, drawn evenly."""
    return items[int(rng.integers(len(items)))]


def weighted(rng: np.random.Generator, weights: Sequence[int]) -> int:
    """The index of one of ``weights``, drawn in proportion to the weights."""
    rest = int(rng.integers(sum(weights)))
    for index, weight in enumerate(weights):
        rest -= weight
        if rest < 0:
            return index
    raise ValueError("weights must be positive")


def direction(rng: np.random.Generator) -> tuple[float, float]:
    """A unit vector (cosine, sine) of any direction: a rational point of the circle."""
    slope = between(rng, -1.0, 1.0)
    below = 1.0 + slope * slope
    cosine, sine = (1.0 - slope * slope) / below, 2.0 * slope / below
    if chance(rng, 0.5):
        cosine, sine = -sine, cosine
    return (-cosine, -sine) if chance(rng, 0.5) else (cosine, sine)


def noise(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    """Nearly normal noise of mean 0, float32: sums of four uniform bytes."""
    total = rng.integers(0, 256, size=(4, *shape), dtype=np.uint8).sum(axis=0, dtype=np.int32)
    return (total - _NOISE_MEAN).astype(np.float32) * np.float32(deviation / _NOISE_DEVIATION)


@lru_cache(maxsize=512)
def _scaling(source: int, target: int) -> np.ndarray:
    """Triangular filter from ``source`` to ``target`` pixels as whole weights, float32 (target,
    source); each row adds up to UNIT.
    """
    rows = 2 * np.arange(target, dtype=np.int64)[:, None] + 1
    columns = 2 * np.arange(source, dtype=np.int64)[None, :] + 1
    reach = 2 * max(source, target)
    return _normalised(np.maximum(reach - abs(columns * target - rows * source), 0))


@lru_cache(maxsize=512)
def _smoothing(size: int, radius: int) -> np.ndarray:
    """Triangular filter that reaches ``radius`` pixels to each side, as ``_scaling``."""
    place = np.arange(size, dtype=np.int64)
    return _normalised(np.maximum(radius + 1 - abs(place[:, None] - place[None, :]), 0))


def _normalised(weights: np.ndarray) -> np.ndarray:
    """Rows of whole weights that add up to UNIT; what rounding leaves goes to the largest."""
    whole_weights = weights * UNIT // weights.sum(axis=1, keepdims=True)
    largest = whole_weights.argmax(axis=1)
    whole_weights[np.arange(len(weights)), largest] += UNIT - whole_weights.sum(axis=1)
    return whole_weights.astype(np.float32)


def _filtered(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``pixels`` uint8 (h, w, c), filtered along both axes; uint8."""
    height, width, bands = pixels.shape
    flat = pixels.astype(np.float32).reshape(height, width * bands)
    down = _rounded(rows @ flat).reshape(len(rows), width, bands)
    return _rounded(np.matmul(columns, down)).astype(np.uint8)


def _rounded(sums: np.ndarray) -> np.ndarray:
    return np.floor((sums + np.float32(UNIT // 2)) * np.float32(1 / UNIT))


def resampled(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """``pixels`` uint8 (h, w, c) at another size, linearly interpolated, and averaged where the
    picture becomes smaller; uint8 (height, width, c).
    """
    return _filtered(pixels, _scaling(pixels.shape[0], height), _scaling(pixels.shape[1], width))


def blurred(pixels: np.ndarray, radius: int) -> np.ndarray:
    """``pixels`` uint8 (h, w, c) under a triangular filter of ``radius`` pixels; uint8."""
    if radius < 1:
        return pixels
    return _filtered(
        pixels, _smoothing(pixels.shape[0], radius), _smoothing(pixels.shape[1], radius)
    )


def smeared(pixels: np.ndarray, steps: Sequence[tuple[int, int]]) -> np.ndarray:
    """The mean of copies of ``pixels`` uint8 (h, w, c), each moved by (rows, columns); the border
    is repeated.
    """
    height, width = pixels.shape[:2]
    total = np.zeros(pixels.shape, dtype=np.int64)
    for down, right in steps:
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        total += pixels[rows[:, None], columns[None, :]]
    return (total // len(steps)).astype(np.uint8)


def cloud(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """A smooth random field, float32 (height, width) in 0..1, with about ``cells`` hills along each
    side.
    """
    grid = rng.integers(0, 256, size=(cells + 1, cells + 1, 1), dtype=np.uint8)
    return resampled(grid, height, width)[..., 0].astype(np.float32) * np.float32(1 / 255)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Brightness of ``pixels`` uint8 (h, w, 3 or more): uint8 (h, w)."""
    wide = pixels.astype(np.int64)
    return ((wide[..., 0] * 77 + wide[..., 1] * 150 + wide[..., 2] * 29) >> 8).astype(np.uint8)
