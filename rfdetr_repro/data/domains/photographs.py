"""Domains made of the pack's cut-outs over its photographs: plain, crowded, large, warm objects in
a thermal picture, and a street at night.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rfdetr_repro.data.embedded.compose import Scene, load_assets

from .domain import Domain, Share
from .exact import (
    between,
    blurred,
    chance,
    choose,
    cloud,
    luminance,
    noise,
    resampled,
    smeared,
    weighted,
    whole,
)
from .picture import Picture

TRIES = 8  # places that are tried for an object before the object is left out
CLUTTER = 1 / 6  # of the objects
_SHADOW = 0.45  # darkest part
# brightness of the body in a thermal picture, of 255
_WARMTH = {"person": 205, "car": 130, "motorcycle": 150, "truck": 120}


@dataclass(frozen=True)
class Cutout:
    """A cut-out at its final size with the row of its lower edge."""

    cover: np.ndarray  # float32 (h, w) in 0..1
    colour: np.ndarray  # uint8 (h, w, 3)
    category: int  # COCO id; 0 is clutter
    bottom: int


def draw_photograph(domain: Domain, part: str, rng: np.random.Generator) -> Scene:
    """Objects that stand on the ground of a photograph."""
    picture = Picture(_background(domain, part, rng).astype(np.float32) * _light(rng))
    _stand(picture, _cutouts(domain, part, rng), rng)
    return picture.scene(rng, between(rng, 0.0, 5.0))


def draw_thermal(domain: Domain, part: str, rng: np.random.Generator) -> Scene:
    """Warm, bright objects before cool, dark surroundings, in grey, by a coarse sensor."""
    shape = (domain.height, domain.width)
    grey = luminance(blurred(_background(domain, part, rng), 3)).astype(np.float32)
    warmer_below = np.arange(domain.height, dtype=np.float32)[:, None] * (30 / domain.height)
    cool = between(rng, 15, 35) + grey * 0.22 + warmer_below + 12 * cloud(rng, *shape, 5)
    picture = Picture(_grey(cool))
    warm = [_warmed(item, rng) for item in _cutouts(domain, part, rng, clutter=0.0)]
    _stand(picture, warm, rng, shadows=False)
    picture.canvas = blurred(picture.pixels(), 1).astype(np.float32)
    columns = noise(rng, (1, domain.width), between(rng, 0.5, 2.5))
    grain = noise(rng, shape, between(rng, 2.0, 6.0))
    picture.canvas += (columns + grain)[..., None]
    return picture.scene(rng, 0.0)


def draw_night(domain: Domain, part: str, rng: np.random.Generator) -> Scene:
    """A dark street with a few lamps, taken by a moving camera.

    The masks are those of the middle of the exposure.
    """
    picture = Picture(_background(domain, part, rng))
    _stand(picture, _cutouts(domain, part, rng), rng, shadows=False)
    picture.canvas *= _lamplight(domain, rng)
    picture.canvas = smeared(picture.pixels(), _shake(rng)).astype(np.float32)
    return picture.scene(rng, between(rng, 4.0, 9.0), quality=(65, 90))


def _light(rng: np.random.Generator) -> np.float32:
    return np.float32(between(rng, 0.85, 1.12))


def _grey(values: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3)."""
    return np.repeat(values[..., None], 3, axis=2)


def _background(domain: Domain, part: str, rng: np.random.Generator) -> np.ndarray:
    """A crop of a photograph of the pack at the size of the picture, uint8 (h, w, 3)."""
    photo, floor = choose(rng, load_assets(part).backgrounds)
    height, width = photo.shape[:2]
    largest = min(height / domain.height, width / domain.width) * between(rng, 0.7, 1.0)
    rows = int(domain.height * largest)
    columns = int(domain.width * largest)
    left = whole(rng, 0, width - columns)
    top = height - rows if floor else whole(rng, 0, height - rows)
    crop = photo[top : top + rows, left : left + columns]
    if chance(rng, 0.5):
        crop = crop[:, ::-1]
    small = resampled(crop, domain.height, domain.width)
    return blurred(small, whole(rng, 1, 2)) if chance(rng, 0.4) else small


def _cutouts(
    domain: Domain, part: str, rng: np.random.Generator, clutter: float = CLUTTER
) -> list[Cutout]:
    """The objects of a picture, far objects first: these stand higher in the picture."""
    assets = load_assets(part)
    models = {
        number: views
        for (number, name), views in zip(assets.categories, assets.classes, strict=True)
        if name in domain.classes
    }
    drawn = []
    for _ in range(whole(rng, *domain.objects)):
        category = 0 if chance(rng, clutter) else choose(rng, tuple(models))
        views = choose(rng, models[category] if category else assets.clutter)
        share = domain.mix[weighted(rng, [row.weight for row in domain.mix])]
        drawn.append(_cutout(choose(rng, views).rgba, category, share, domain, rng))
    return sorted(drawn, key=lambda item: item.bottom)


def _cutout(
    rgba: np.ndarray, category: int, share: Share, domain: Domain, rng: np.random.Generator
) -> Cutout:
    shorter = min(domain.height, domain.width)
    longest = between(rng, share.low, share.high) * shorter
    scale = longest / max(rgba.shape[:2])
    height = max(2, int(rgba.shape[0] * scale + 0.5))
    width = max(2, int(rgba.shape[1] * scale + 0.5))
    # multiplied by its opacity: straight scaling leaves dark or bright rims
    small = resampled(_premultiplied(rgba), height, width)
    if chance(rng, 0.5):
        small = small[:, ::-1]
    opacity = small[..., 3:].astype(np.float32)
    colour = small[..., :3].astype(np.float32) * 255 / np.maximum(opacity, 1)
    brightness = between(rng, 0.82, 1.15)
    tint = np.array([brightness * between(rng, 0.95, 1.05) for _ in range(3)], dtype=np.float32)
    bottom = int(between(rng, 0.47, 1.0) * domain.height)
    if height > 0.6 * domain.height:  # a large object stands near the camera
        bottom = int(between(rng, 0.85, 1.2) * domain.height)
    elif chance(rng, 1 / 16):
        bottom = domain.height + int(height * between(rng, 0.2, 0.6))
    return Cutout(
        opacity[..., 0] * np.float32(1 / 255),
        (colour * tint).clip(0, 255).astype(np.uint8),
        category,
        max(bottom, height - height // 4),
    )


def _premultiplied(rgba: np.ndarray) -> np.ndarray:
    """Colours multiplied by the opacity, uint8 (h, w, 4)."""
    wide = rgba.astype(np.uint16)  # 255 * 255 + 127 < 2**16
    wide[..., :3] = (wide[..., :3] * wide[..., 3:] + 127) // 255
    return wide.astype(np.uint8)


def _stand(
    picture: Picture, items: list[Cutout], rng: np.random.Generator, shadows: bool = True
) -> None:
    """Puts the objects side by side on the ground, near objects before far objects, where none
    hides another.
    """
    for item in items:
        height, width = item.cover.shape
        top = item.bottom - height
        for _ in range(TRIES):
            left = _left(picture.width, width, rng)
            if picture.has_room(item.cover, top, left):
                if shadows:
                    _shadow(picture, item, left)
                picture.add(item.cover, item.colour, top, left, item.category)
                break


def _left(picture_width: int, width: int, rng: np.random.Generator) -> int:
    """A left edge within the picture; one object in twelve crosses the side of the picture."""
    if chance(rng, 1 / 12):
        hidden = int(width * between(rng, 0.2, 0.6))
        return -hidden if chance(rng, 0.5) else picture_width - (width - hidden)
    free = picture_width - width
    return whole(rng, min(0, free), max(0, free))


def _shadow(picture: Picture, item: Cutout, left: int) -> None:
    """A soft, dark ellipse at the foot of an object."""
    width = item.cover.shape[1]
    flat = max(2, width // 8)
    cover = _soft_ellipse(2 * flat, width + width // 5)
    shift = (cover.shape[1] - width) // 2
    black = np.zeros(3, dtype=np.float32)
    picture.stain(cover, black, item.bottom - flat - flat // 2, left - shift)


@lru_cache(maxsize=256)
def _soft_ellipse(height: int, width: int) -> np.ndarray:
    ys = (2 * np.arange(height, dtype=np.float32)[:, None] + 1) / height - 1
    xs = (2 * np.arange(width, dtype=np.float32)[None, :] + 1) / width - 1
    inside = np.clip(1 - (xs * xs + ys * ys), 0, 1)
    return inside * (2 - inside) * np.float32(_SHADOW)


def _warmed(item: Cutout, rng: np.random.Generator) -> Cutout:
    """The object as a thermal camera shows it: its class and its kind of surface count, its
    colours hardly do.
    """
    names = {number: name for number, name in load_assets("train").categories}
    body = _WARMTH[names[item.category]] * between(rng, 0.85, 1.15)
    surface = luminance(item.colour).astype(np.float32)
    height = item.cover.shape[0]
    down = np.arange(height, dtype=np.float32)[:, None] / height
    # vehicles are hot below, at engine and wheels; people at the head
    slope = -25 if names[item.category] == "person" else 60
    heat = body + slope * (down - 0.5) + 0.25 * (surface - 128)
    colour = _grey(heat.clip(0, 255)).astype(np.uint8)
    return Cutout(item.cover, colour, item.category, item.bottom)


def _lamplight(domain: Domain, rng: np.random.Generator) -> np.ndarray:
    """The part of the daylight that reaches each pixel, by colour: float32 (h, w, 3)."""
    ys = np.arange(domain.height, dtype=np.float32)[:, None]
    xs = np.arange(domain.width, dtype=np.float32)[None, :]
    moon = between(rng, 0.08, 0.18)
    light = np.zeros((domain.height, domain.width, 3), dtype=np.float32)
    light += np.array([0.8 * moon, 0.9 * moon, 1.25 * moon], dtype=np.float32)
    for _ in range(whole(rng, 1, 3)):
        down = ys - between(rng, 0.1, 0.9) * domain.height
        right = xs - between(rng, 0.0, 1.0) * domain.width
        reach = between(rng, 0.12, 0.3) * domain.width
        pool = between(rng, 0.3, 0.8) / (1 + (down * down + right * right) / (reach * reach))
        light += pool[..., None] * np.array([1.0, 0.82, 0.55], dtype=np.float32)
    return light


def _shake(rng: np.random.Generator) -> list[tuple[int, int]]:
    """The places of the camera during the exposure, around the middle: up to 5 px each way."""
    half = whole(rng, 0, 5)
    rise = between(rng, -0.6, 0.6)
    return [(int(rise * step), step) for step in range(-half, half + 1)]
