"""One scene of the embedded set: background, sprites standing on the ground, shadows, and occlusion
by painting order.

The ground truth (masks, boxes, areas) is read from the map of visible pixels, never from a pasted
rectangle.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter

from .variation import recoloured, reshaped

T = TypeVar("T")

PACK = Path(__file__).resolve().parent / "pack"
# (share of objects, longest side as a fraction of the image side): "pico mix" of
# docs/method/pico.md
SIZES = ((0.15, 0.10, 0.16), (0.45, 0.18, 0.36), (0.40, 0.36, 0.72))
MIN_VISIBLE = 0.25
MIN_PIXELS = 12
TRIES = 6  # positions tried before a barely visible object is accepted as clutter


@dataclass(frozen=True)
class Sprite:
    """A rendered view of an object."""

    rgba: np.ndarray  # uint8 (h, w, 4)
    category_id: int  # 0 = clutter without a label


@dataclass(frozen=True)
class Assets:
    """The content of one part of the pack: class -> model -> views, clutter models, backgrounds."""

    classes: tuple[tuple[tuple[Sprite, ...], ...], ...]
    clutter: tuple[tuple[Sprite, ...], ...]
    # uint8 (h, w, 3); whether objects stand on a floor
    backgrounds: tuple[tuple[np.ndarray, bool], ...]
    categories: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Scene:
    """A composed image with its ground truth."""

    image: np.ndarray  # uint8 (side, side, 3)
    masks: np.ndarray  # bool (n, side, side), visible pixels
    category_ids: tuple[int, ...]
    jpeg_quality: int


@dataclass(frozen=True)
class Placed:
    """A sprite at its final size; ``rgba`` is float32 premultiplied, 0..1, and (x, y) its upper
    left corner, which may be outside the image.
    """

    rgba: np.ndarray
    category_id: int
    x: int
    y: int
    area: int  # pixels with alpha >= 0.5, inside or outside the image

    @property
    def bottom(self) -> int:
        """Row below the sprite's last row; sprites are painted in this order."""
        return self.y + self.rgba.shape[0]


def pack_categories() -> tuple[tuple[int, str], ...]:
    """(COCO category id, name) of the 18 classes of the pack, by id. Decodes no picture."""
    labelled = {
        (int(row["coco_category_id"]), row["class"])
        for row in _catalog()
        if row["class"] != "distractor"
    }
    return tuple(sorted(labelled))


def _catalog() -> list[dict[str, str]]:
    with (PACK / "catalog.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@lru_cache(maxsize=2)
def load_assets(part: str) -> Assets:
    """Decodes one part ("train" or "val") of the pack."""
    rows = _catalog()
    categories = pack_categories()
    models: dict[int, dict[str, list[Sprite]]] = {}
    for row in rows:
        if row["split"] == part:
            number = int(row["coco_category_id"])
            rgba = np.asarray(Image.open(PACK / row["file"]).convert("RGBA"))
            models.setdefault(number, {}).setdefault(row["model_id"], []).append(
                Sprite(rgba, number)
            )
    grouped = {
        number: tuple(tuple(views) for views in by_model.values())
        for number, by_model in models.items()
    }
    with (PACK / "backgrounds.csv").open(newline="", encoding="utf-8") as stream:
        pictures = [row for row in csv.DictReader(stream) if row["split"] == part]
    backgrounds = tuple(
        (np.asarray(Image.open(PACK / row["file"]).convert("RGB")), "scene_" in row["file"])
        for row in pictures
    )
    return Assets(
        tuple(grouped[number] for number, _ in categories),
        grouped[0],
        backgrounds,
        categories,
    )


def compose_scene(
    assets: Assets, side: int, rng: np.random.Generator, varied: float = 0.0
) -> Scene:
    """A square scene of ``side`` pixels; all randomness comes from ``rng``.

    ``varied``: share of the objects, and of the backgrounds, whose shape and colours are changed.
    """
    canvas = _background(assets, side, rng)
    if _drawn(varied, rng):
        canvas = recoloured(canvas, rng)
    objects = _objects(assets, side, rng, varied)
    owner = np.full((side, side), -1, dtype=np.int16)
    for index, placed in enumerate(objects):  # far objects, which are higher in the image, first
        _shadow(canvas, placed)
        _paint(canvas, owner, placed, index)
    visible = _visible(owner, objects)
    kept = [index for index, placed in enumerate(objects) if placed.category_id and visible[index]]
    masks = (
        np.stack([owner == index for index in kept])
        if kept
        else np.zeros((0, side, side), dtype=bool)
    )
    return Scene(
        _finish(canvas, rng),
        masks,
        tuple(objects[index].category_id for index in kept),
        int(rng.integers(80, 96)),
    )


def _drawn(share: float, rng: np.random.Generator) -> bool:
    """Whether a thing is among the ``share`` of things; draws nothing where the share is 0."""
    return share > 0 and bool(rng.random() < share)


def _choose(items: tuple[T, ...], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _background(assets: Assets, side: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (side, side, 3) in 0..1."""
    picture, floor = _choose(assets.backgrounds, rng)
    height, width = picture.shape[:2]
    crop = int(min(height, width) * rng.uniform(0.7, 1.0))
    x = int(rng.integers(width - crop + 1))
    y = height - crop if floor else int(rng.integers(height - crop + 1))
    image = Image.fromarray(picture).resize(
        (side, side), Image.Resampling.BILINEAR, box=(x, y, x + crop, y + crop)
    )
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.6) * side / 320))
    return np.asarray(image, dtype=np.float32) / 255 * np.float32(rng.uniform(0.85, 1.12))


def _objects(assets: Assets, side: int, rng: np.random.Generator, varied: float) -> list[Placed]:
    """2 to 7 objects in painting order; positions that would hide an object, or an earlier object,
    are drawn again.
    """
    placed: list[Placed] = []
    for _ in range(int(rng.integers(2, 8))):
        models = assets.clutter if rng.random() < 1 / 6 else _choose(assets.classes, rng)
        sprite = _choose(_choose(models, rng), rng)
        changed = _drawn(varied, rng)
        if changed:
            sprite = replace(sprite, rgba=reshaped(sprite.rgba, rng))
        rgba, category_id = _scaled(sprite, side, rng)
        if changed:
            rgba = _premultiplied(recoloured(_straight(rgba), rng), rgba[..., 3:])
        for _ in range(TRIES):
            candidate = _position(rgba, category_id, side, rng)
            order = sorted([*placed, candidate], key=lambda item: item.bottom)
            if _all_visible(order, side):
                placed.append(candidate)
                break
    return sorted(placed, key=lambda item: item.bottom)


def _scaled(sprite: Sprite, side: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Premultiplied float RGBA at the drawn size, mirrored and colour-jittered."""
    _, low, high = SIZES[int(rng.choice(len(SIZES), p=[row[0] for row in SIZES]))]
    longest = rng.uniform(low, high) * side
    height, width = sprite.rgba.shape[:2]
    scale = longest / max(height, width)
    size = max(2, round(width * scale)), max(2, round(height * scale))
    pixels = sprite.rgba.astype(np.float32) / 255
    # premultiplied: straight resizing leaves dark or bright rims
    pixels[..., :3] *= pixels[..., 3:]
    bands = [
        Image.fromarray(pixels[..., band]).resize(size, Image.Resampling.BILINEAR)
        for band in range(4)
    ]
    rgba = np.stack([np.asarray(band) for band in bands], axis=-1)
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    colour = rng.uniform(0.82, 1.15) * rng.uniform(0.95, 1.05, size=3)
    rgba = rgba * np.array([*colour, 1.0], dtype=np.float32)
    rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])
    return rgba, sprite.category_id


def _straight(rgba: np.ndarray) -> np.ndarray:
    """The colours (h, w, 3) of premultiplied ``rgba``; 0 where nothing is seen."""
    return rgba[..., :3] / np.maximum(rgba[..., 3:], np.float32(1 / 255))


def _premultiplied(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb * alpha, alpha], axis=-1)


def _position(rgba: np.ndarray, category_id: int, side: int, rng: np.random.Generator) -> Placed:
    """A position on the ground; one sprite in eight crosses a side or the lower border of the
    picture.
    """
    height, width = rgba.shape[:2]
    bottom = int(rng.uniform(0.47, 1.0) * side)
    x = int(rng.uniform(0, max(1, side - width)))
    if rng.random() < 1 / 8:
        where = rng.integers(3)
        part = rng.uniform(0.2, 0.6)
        if where == 2:
            bottom = side + int(height * part)
        else:
            x = -int(width * part) if where == 0 else side - int(width * (1 - part))
    return Placed(
        rgba, category_id, x, max(bottom - height, -height // 4), int((rgba[..., 3] >= 0.5).sum())
    )


def _window(placed: Placed, side: int) -> tuple[slice, slice, slice, slice]:
    """(rows, columns) of the image and of the sprite where they overlap."""
    height, width = placed.rgba.shape[:2]
    y0 = max(0, placed.y)
    y1 = min(side, placed.y + height)
    x0 = max(0, placed.x)
    x1 = min(side, placed.x + width)
    y1, x1 = max(y0, y1), max(x0, x1)
    return (
        slice(y0, y1),
        slice(x0, x1),
        slice(y0 - placed.y, y1 - placed.y),
        slice(x0 - placed.x, x1 - placed.x),
    )


def _paint(canvas: np.ndarray | None, owner: np.ndarray, placed: Placed, index: int) -> None:
    rows, columns, own_rows, own_columns = _window(placed, len(owner))
    part = placed.rgba[own_rows, own_columns]
    if canvas is not None:
        canvas[rows, columns] = canvas[rows, columns] * (1 - part[..., 3:]) + part[..., :3]
    owner[rows, columns][part[..., 3] >= 0.5] = index


def _visible(owner: np.ndarray, order: list[Placed]) -> list[bool]:
    """Whether enough of each object, in painting order, remains in the map of visible pixels."""
    pixels = np.bincount(owner.ravel() + 1, minlength=len(order) + 1)[1:]
    return [
        count >= max(MIN_PIXELS, MIN_VISIBLE * placed.area)
        for count, placed in zip(pixels.tolist(), order, strict=True)
    ]


def _all_visible(order: list[Placed], side: int) -> bool:
    owner = np.full((side, side), -1, dtype=np.int16)
    for index, placed in enumerate(order):
        _paint(None, owner, placed, index)
    return all(_visible(owner, order))


def _shadow(canvas: np.ndarray, placed: Placed) -> None:
    """Darkens a soft ellipse at the foot of a sprite, by up to 45 %."""
    side = len(canvas)
    width = placed.rgba.shape[1]
    half_x = max(1.0, 0.45 * width)
    half_y = max(1.0, 0.065 * width)
    soft = max(0.5, 0.035 * width)
    cx = placed.x + width / 2
    cy = placed.bottom - half_y
    y0, y1 = (
        int(np.clip(value, 0, side))
        for value in (cy - half_y - 3 * soft, cy + half_y + 3 * soft + 1)
    )
    x0, x1 = (
        int(np.clip(value, 0, side))
        for value in (cx - half_x - 3 * soft, cx + half_x + 3 * soft + 1)
    )
    if y1 <= y0 or x1 <= x0:
        return
    ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    radius = np.hypot((xs - cx) / half_x, (ys - cy) / half_y)
    strength = 1 / (1 + np.exp((radius - 1) * half_y / soft * 2))
    canvas[y0:y1, x0:x1] *= (1 - 0.45 * strength)[..., None]


def _finish(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes the contrast and adds noise; uint8."""
    contrast = rng.uniform(0.9, 1.1)
    noisy = (
        (canvas - 0.5) * contrast + 0.5 + rng.normal(0, rng.uniform(0.0, 0.02), size=canvas.shape)
    )
    return (noisy.clip(0, 1) * 255 + 0.5).astype(np.uint8)
