"""Changes of shape and colour that make many objects of the few in the pack.

A model that sees every object in its own colours and proportions learns these objects, not their
class. Each change is small enough to leave the class recognisable: proportions, a view from a
little to the side, hue, saturation, brightness, the direction of the light, and stains.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

STRETCH = 1.35  # most that height grows against width, or width against height
TILT = 0.12  # most that a corner moves inwards, as a fraction of the side
GAMMA = 1.7  # strongest change of brightness: value ** GAMMA, or value ** (1 / GAMMA)
SATURATION = (0.3, 1.5)
GREY = 0.08  # share of objects without colour
LIGHT = 0.35  # most that the far side is darker than the near side
STAINS = 0.35  # largest change of brightness by stains
STAIN_GRID = (3, 9)  # cells of the coarse noise along a side, least and one more than most
# luma and the two colour axes of YIQ (NTSC), in which a rotation of the axes turns the hue
TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=np.float32
)
FROM_YIQ = np.linalg.inv(TO_YIQ).astype(np.float32)


def reshaped(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sprite uint8 (h, w, 4) with other proportions, seen from a little to the side; uint8, of
    another size.
    """
    height, width = rgba.shape[:2]
    stretch = STRETCH ** rng.uniform(-0.5, 0.5)
    size = max(2, round(width * stretch)), max(2, round(height / stretch))
    inward = rng.uniform(0, TILT, size=(4, 2)) * (width, height)
    # upper left, lower left, lower right, upper right: the order that PIL expects
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], dtype=np.float64)
    outwards = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
    # corners of the source that lie outside the sprite shrink the sprite at this corner
    quad = tuple((corners + outwards * inward).ravel())
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    moved = premultiplied.transform(size, Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)
    return np.asarray(moved.convert("RGBA"))


def recoloured(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 (h, w, 3) in 0..1 with another hue, saturation and brightness, lit from a side and
    stained.
    """
    colours = np.maximum(rgb, 0) ** np.float32(GAMMA ** rng.uniform(-1, 1))
    saturation = 0.0 if rng.random() < GREY else rng.uniform(*SATURATION)
    angle = rng.uniform(0, 2 * np.pi)
    turn = saturation * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float32
    )
    change = np.eye(3, dtype=np.float32)
    change[1:, 1:] = turn
    colours = colours @ (FROM_YIQ @ change @ TO_YIQ).T
    return (colours * _light(rgb.shape[:2], rng)[..., None]).clip(0, 1).astype(np.float32)


def _light(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """float32 factors of ``shape``: a ramp across the object times smooth stains."""
    height, width = shape
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    along = np.cos(angle) * columns / max(1, width - 1) + np.sin(angle) * rows / max(1, height - 1)
    span = max(float(along.max() - along.min()), 1e-6)
    ramp = 1 - rng.uniform(0, LIGHT) * (along - along.min()) / span
    cells = int(rng.integers(*STAIN_GRID))
    coarse = rng.uniform(-1, 1, size=(cells, cells)).astype(np.float32)
    stains = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(ramp * (1 + rng.uniform(0, STAINS) * np.asarray(stains)), dtype=np.float32)
