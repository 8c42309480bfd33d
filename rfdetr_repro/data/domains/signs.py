"""Flat signs over photographs: eight shapes in five patterns are forty classes; the same pictures
with the shapes in three groups have three.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rfdetr_repro.data.embedded.compose import Scene, load_assets

from .domain import Domain
from .exact import between, blurred, chance, choose, resampled, weighted, whole
from .picture import Picture
from .shapes import local, soft

TRIES = 10  # places that are tried for a sign before the sign is left out
_SLANT = 0.70710678
_STEEP = 0.89442719  # the outward direction of a triangle's long side
_FLAT = 0.4472136


def _circle(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    return half - np.sqrt(u * u + v * v)


def _half_circle(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    low = v + half * 0.5
    return np.minimum(half - np.sqrt(u * u + low * low), low)


def _octagon(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    slanted = (abs(u) + abs(v)) * np.float32(_SLANT)
    return half * 0.92 - np.maximum(np.maximum(abs(u), abs(v)), slanted)


def _square(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    return half * 0.85 - np.maximum(abs(u), abs(v))


def _diamond(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    return (half - abs(u) - abs(v)) * np.float32(_SLANT)


def _triangle(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    """Point upwards, as high as wide."""
    sides = half * _FLAT + v * np.float32(_FLAT) - abs(u) * np.float32(_STEEP)
    return np.minimum(sides, half - v)


def _cross(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    upright = np.minimum(half * 0.34 - abs(u), half - abs(v))
    level = np.minimum(half - abs(u), half * 0.34 - abs(v))
    return np.maximum(upright, level)


def _bar(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    return np.minimum(half - abs(u), half * 0.38 - abs(v))


Shape = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
# name -> (group, pixels inside the edge); v points downwards
SHAPES: dict[str, tuple[str, Shape]] = {
    "circle": ("round", _circle),
    "half circle": ("round", _half_circle),
    "octagon": ("round", _octagon),
    "square": ("angular", _square),
    "diamond": ("angular", _diamond),
    "triangle": ("angular", _triangle),
    "cross": ("barred", _cross),
    "bar": ("barred", _bar),
}
PATTERNS = ("plain", "rimmed", "striped", "dotted", "halved")
GROUPS = tuple(dict.fromkeys(group for group, _ in SHAPES.values()))
FORTY = tuple(f"{pattern} {shape}" for shape in SHAPES for pattern in PATTERNS)
PAINTS = (
    (196, 38, 40),
    (36, 82, 170),
    (30, 130, 72),
    (232, 186, 38),
    (226, 112, 32),
    (118, 54, 140),
    (40, 40, 44),
)


def draw_signs(domain: Domain, part: str, rng: np.random.Generator) -> Scene:
    """Signs at random places, upright, seldom overlapping.

    The label is the sign of :data:`FORTY`, or the group of its shape where the domain has the
    classes :data:`GROUPS`.
    """
    picture = Picture(_wall(domain, part, rng))
    for _ in range(whole(rng, *domain.objects)):
        sign = whole(rng, 0, len(FORTY) - 1)
        shape, pattern = divmod(sign, len(PATTERNS))
        group, inside = tuple(SHAPES.values())[shape]
        share = domain.mix[weighted(rng, [row.weight for row in domain.mix])]
        half = between(rng, share.low, share.high) * min(domain.height, domain.width) / 2
        cover, colour = _sign(inside, PATTERNS[pattern], half, rng)
        number = GROUPS.index(group) if domain.classes == GROUPS else sign
        side = len(cover)
        for _ in range(TRIES):
            top = whole(rng, -side // 6, domain.height - side + side // 6)
            left = whole(rng, -side // 6, domain.width - side + side // 6)
            crowded = picture.touches(cover, top, left) and not chance(rng, 0.15)
            if not crowded and picture.has_room(cover, top, left):
                picture.add(cover, colour, top, left, number + 1)
                break
    return picture.scene(rng, between(rng, 1.0, 5.0))


def _wall(domain: Domain, part: str, rng: np.random.Generator) -> np.ndarray:
    photo, _ = choose(rng, load_assets(part).backgrounds)
    side = whole(rng, min(photo.shape[:2]) // 2, min(photo.shape[:2]))
    top = whole(rng, 0, photo.shape[0] - side)
    left = whole(rng, 0, photo.shape[1] - side)
    crop = photo[top : top + side, left : left + side]
    small = blurred(resampled(crop, domain.height, domain.width), whole(rng, 0, 2))
    return small.astype(np.float32) * np.float32(between(rng, 0.8, 1.1))


def _sign(
    shape: Shape, pattern: str, half: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cover and colours of a sign; the paints are random and say nothing about the class."""
    u, v = local(int(half) + 2)
    inside = shape(u, v, half)
    first, second = _two_paints(rng)
    marked = _marked(pattern, u, v, inside, half)[..., None]
    return soft(inside), first * (1 - marked) + second * marked


def _two_paints(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A strong paint and a light paint, in any order."""
    strong = np.array(choose(rng, PAINTS), dtype=np.float32) * np.float32(between(rng, 0.8, 1.1))
    light = np.full(3, between(rng, 215, 245), dtype=np.float32)
    return (strong, light) if chance(rng, 0.6) else (light, strong)


def _marked(
    pattern: str, u: np.ndarray, v: np.ndarray, inside: np.ndarray, half: float
) -> np.ndarray:
    """Where the second paint is, 0..1."""
    if pattern == "rimmed":
        return soft(half * 0.24 - inside)
    if pattern == "striped":
        period = half * 0.62
        phase = (u + v) / period
        return soft((abs(phase - np.floor(phase) - 0.5) - 0.25) * period)
    if pattern == "dotted":
        pitch = half * 0.6
        right = u / pitch - np.floor(u / pitch + np.float32(0.5))
        down = v / pitch - np.floor(v / pitch + np.float32(0.5))
        return soft((0.3 - np.sqrt(right * right + down * down)) * pitch)
    if pattern == "halved":
        return soft(u) * np.ones_like(inside)
    return np.zeros_like(inside)
