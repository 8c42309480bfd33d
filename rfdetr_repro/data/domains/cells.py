"""Stained nuclei on a dark field, as a fluorescence microscope shows them: irregular blobs that
touch and overlap.
"""

from __future__ import annotations

import numpy as np

from rfdetr_repro.data.embedded.compose import Scene

from .domain import Domain
from .exact import between, blurred, choose, cloud, direction, weighted, whole
from .picture import Picture
from .shapes import local

TRIES = 6  # places that are tried for a blob before the blob is left out
STAINS = ((0.55, 0.65, 1.0), (0.5, 1.0, 0.6), (1.0, 1.0, 1.0), (1.0, 0.55, 0.5))


def draw_cells(domain: Domain, part: str, rng: np.random.Generator) -> Scene:
    """A field of nuclei. ``part`` is not used: everything is drawn anew."""
    shape = (domain.height, domain.width)
    stain = np.array(choose(rng, STAINS), dtype=np.float32)
    haze = between(rng, 8, 22) + 18 * cloud(rng, *shape, 3)
    picture = Picture(haze[..., None] * stain)
    exposure = between(rng, 0.7, 1.15)
    # nuclei gather: a place is kept with the density of the tissue there
    tissue = cloud(rng, *shape, 4)
    for _ in range(whole(rng, *domain.objects)):
        share = domain.mix[weighted(rng, [row.weight for row in domain.mix])]
        longest = between(rng, share.low, share.high) * min(shape)
        cover, light = _BLOBS[share.name](longest, rng)
        colour = (light * np.float32(exposure))[..., None] * stain
        for _ in range(TRIES):
            row = whole(rng, 0, domain.height - 1)
            column = whole(rng, 0, domain.width - 1)
            top, left = row - cover.shape[0] // 2, column - cover.shape[1] // 2
            dense = float(tissue[row, column]) > between(rng, 0.1, 0.7)
            if dense and picture.has_room(cover, top, left):
                number = domain.classes.index(share.name) + 1
                picture.add(cover, colour, top, left, number)
                break
    picture.canvas = blurred(picture.pixels(), whole(rng, 1, 2)).astype(np.float32)
    return picture.scene(rng, between(rng, 2.0, 6.0))


def _blob(
    half_length: float, half_width: float, ragged: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cover and inner distance (0 at the edge, 1 in the middle) of an irregular ellipse."""
    reach = int(half_length * (1 + ragged)) + 2
    along, across = local(reach, *direction(rng))
    side = 2 * reach + 1
    along, across = along / half_length, across / half_width
    bumps = ragged * (2 * cloud(rng, side, side, 3) - 1)
    inner = 1 + bumps - np.sqrt(along * along + across * across)
    return np.clip(inner * min(half_length, half_width) + np.float32(0.5), 0, 1), inner


def _nucleus(longest: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    half = longest / 2
    cover, inner = _blob(half, half * between(rng, 0.6, 0.95), 0.18, rng)
    grain = cloud(rng, cover.shape[0], cover.shape[1], 7)
    light = between(rng, 85, 190) * (0.6 + 0.35 * inner.clip(0, 0.6) + 0.4 * grain)
    return cover, light.astype(np.float32)


def _dividing(longest: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two bright plates of chromosomes that face each other, joined by a faint bridge."""
    half = longest / 2
    along, across = local(int(half * 1.4) + 2, *direction(rng))
    apart = half * between(rng, 0.45, 0.6)
    ends = (abs(along) - apart) / (half * 0.36)
    wide = across / (half * between(rng, 0.6, 0.8))
    plates = 1 - np.sqrt(ends * ends + wide * wide)
    bridge = np.minimum((apart - abs(along)) / half, 0.28 - abs(across) / half)
    cover = np.clip(np.maximum(plates * 0.36, bridge) * half + np.float32(0.5), 0, 1)
    light = between(rng, 215, 255) * np.where(plates > 0, 1.0, 0.5)
    return cover, light.astype(np.float32)


def _debris(longest: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    half = longest / 2
    cover, _ = _blob(half, half * between(rng, 0.4, 0.9), 0.4, rng)
    return cover, np.full(cover.shape, between(rng, 70, 255), dtype=np.float32)


_BLOBS = {"nucleus": _nucleus, "dividing": _dividing, "debris": _debris}
