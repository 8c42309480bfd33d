"""A settlement from above: roads with traffic, houses, trees and pools, drawn without
photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfdetr_repro.data.embedded.compose import Scene

from .domain import Domain
from .exact import between, chance, choose, cloud, direction, noise, weighted, whole
from .picture import Picture
from .shapes import box, ellipse, local, turned

TRIES = 12  # places that are tried for an object before the object is left out
GROUNDS = ((92, 112, 62), (122, 114, 80), (104, 106, 92), (74, 98, 58))
ROOFS = ((152, 78, 58), (112, 104, 100), (170, 128, 92), (88, 92, 104), (186, 176, 164))
PAINTS = (
    (225, 225, 228),
    (40, 42, 48),
    (150, 152, 158),
    (168, 40, 38),
    (44, 72, 140),
    (196, 186, 150),
)
SHADE = np.array([22, 24, 30], dtype=np.float32)
_ORDER = ("pool", "house", "car", "truck", "tree")  # later objects cover earlier objects


@dataclass(frozen=True)
class Road:
    """A straight road: the line through (row, column) along a direction."""

    row: int
    column: int
    cosine: float
    sine: float
    half_width: float  # px

    def across(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Distance of places from the middle of the road, with a sign."""
        return turned(columns - self.column, rows - self.row, self.cosine, self.sine)[1]


def draw_aerial(domain: Domain, part: str, rng: np.random.Generator) -> Scene:
    """A scene from above. ``part`` is not used: everything is drawn anew."""
    picture = Picture(_ground(domain, rng))
    roads = _roads(domain, rng)
    for road in roads:
        _pave(picture, road, rng)
    names = [
        domain.mix[weighted(rng, [share.weight for share in domain.mix])].name
        for _ in range(whole(rng, *domain.objects))
    ]
    light = choose(rng, ((2, 2), (2, -2), (3, 1)))  # where shadows fall
    for name in sorted(names, key=_ORDER.index):
        share = domain.share_of(name)
        longest = between(rng, share.low, share.high) * min(domain.height, domain.width)
        _settle(picture, roads, name, longest, domain.classes.index(name) + 1, light, rng)
    return picture.scene(rng, between(rng, 1.0, 4.0))


def _ground(domain: Domain, rng: np.random.Generator) -> np.ndarray:
    shape = (domain.height, domain.width)
    base = np.array(choose(rng, GROUNDS), dtype=np.float32)
    tone = 0.75 + 0.35 * cloud(rng, *shape, 4) + 0.15 * cloud(rng, *shape, 40)
    return base * tone[..., None]


def _roads(domain: Domain, rng: np.random.Generator) -> list[Road]:
    """One road, or two that cross at a right angle."""
    cosine, sine = direction(rng)
    row = int(between(rng, 0.3, 0.7) * domain.height)
    column = int(between(rng, 0.3, 0.7) * domain.width)
    roads = [Road(row, column, cosine, sine, between(rng, 7.0, 9.0))]
    if chance(rng, 0.6):
        roads.append(Road(row, column, -sine, cosine, between(rng, 5.5, 7.5)))
    return roads


def _pave(picture: Picture, road: Road, rng: np.random.Generator) -> None:
    rows = np.arange(picture.height, dtype=np.float32)[:, None]
    columns = np.arange(picture.width, dtype=np.float32)[None, :]
    along, across = turned(columns - road.column, rows - road.row, road.cosine, road.sine)
    long = float(picture.height + picture.width)
    grey = between(rng, 84, 112)
    asphalt = grey + noise(rng, along.shape, 3.0)
    colour = np.repeat(asphalt[..., None], 3, axis=2)
    picture.stain(box(along, across, long, road.half_width), colour, 0, 0)
    dashes = np.floor(along / 6) % 2 == 0
    line = box(along, across, long, 0.6) * dashes
    picture.stain(line * np.float32(0.8), np.full(3, 225, dtype=np.float32), 0, 0)


def _settle(
    picture: Picture,
    roads: list[Road],
    name: str,
    longest: float,
    category: int,
    light: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    """Draws one object at a place where it can be: vehicles on a road in its direction or, more
    rarely, parked on the ground; everything else beside the roads.
    """
    for _ in range(TRIES):
        on_road = name in ("car", "truck") and chance(rng, 0.75)
        row, column, cosine, sine = (
            _on_road(picture, choose(rng, roads), rng) if on_road else _anywhere(picture, rng)
        )
        cover, colour = _DRAWERS[name](longest, cosine, sine, rng)
        top, left = row - cover.shape[0] // 2, column - cover.shape[1] // 2
        free = on_road or all(
            abs(float(road.across(np.float32(row), np.float32(column))))
            > road.half_width + longest / 2
            for road in roads
        )
        allowed = picture.has_room(cover, top, left) and (
            name == "tree" or not picture.touches(cover, top, left)
        )
        if free and allowed:
            if name != "pool":
                picture.stain(cover * np.float32(0.5), SHADE, top + light[0], left + light[1])
            picture.add(cover, colour, top, left, category)
            return


def _on_road(
    picture: Picture, road: Road, rng: np.random.Generator
) -> tuple[int, int, float, float]:
    """A place in one of the two lanes."""
    along = between(rng, -0.6, 0.6) * max(picture.height, picture.width)
    lane = road.half_width / 2 * (1 if chance(rng, 0.5) else -1)
    column = road.column + road.cosine * along - road.sine * lane
    row = road.row + road.sine * along + road.cosine * lane
    return int(row), int(column), road.cosine, road.sine


def _anywhere(picture: Picture, rng: np.random.Generator) -> tuple[int, int, float, float]:
    row = whole(rng, 0, picture.height - 1)
    return row, whole(rng, 0, picture.width - 1), *direction(rng)


def _painted(layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Colours (h, w, 3) of layers (cover, colour), later layers on top."""
    first = layers[0][0]
    colour = np.zeros((*first.shape, 3), dtype=np.float32)
    for cover, paint in layers:
        part = np.broadcast_to(cover, first.shape)[..., None]
        colour = colour * (1 - part) + paint * part
    return colour


def _plain(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], dtype=np.float32)


def _vehicle(
    longest: float, cosine: float, sine: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A car: a box with rounded ends, dark windscreens before and behind the roof."""
    half = longest / 2
    wide = half * between(rng, 0.42, 0.5)
    along, across = local(int(half + wide) + 2, cosine, sine)
    cover = box(along, across, half, wide)
    paint = _plain(*choose(rng, PAINTS))
    glass = box(abs(along) - half * 0.42, across, half * 0.16, wide * 0.8)
    everywhere = np.ones_like(cover)
    return cover, _painted([(everywhere, paint), (glass, _plain(28, 32, 38))])


def _truck(
    longest: float, cosine: float, sine: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A truck: a long, light load behind a coloured cab."""
    half = longest / 2
    wide = half * between(rng, 0.3, 0.36)
    along, across = local(int(half + wide) + 2, cosine, sine)
    cover = box(along, across, half, wide)
    load = between(rng, 175, 235)
    cab = box(along - half * 0.75, across, half * 0.27, wide)
    gap = box(along - half * 0.45, across, 0.5, wide)
    layers = [
        (np.ones_like(cover), _plain(load, load, load - 6)),
        (cab, _plain(*choose(rng, PAINTS))),
        (gap, _plain(30, 30, 32)),
    ]
    return cover, _painted(layers)


def _house(
    longest: float, cosine: float, sine: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A gabled roof: two slopes of different light, a ridge, and sometimes a chimney."""
    half = longest / 2
    wide = half * between(rng, 0.55, 0.85)
    along, across = local(int(half + wide) + 2, cosine, sine)
    cover = box(along, across, half, wide)
    roof = _plain(*choose(rng, ROOFS)) * np.float32(between(rng, 0.85, 1.1))
    tiles = 1 + 0.08 * (np.floor(across / 2) % 2)
    lit = np.ones_like(cover)[..., None] * roof * tiles[..., None].astype(np.float32)
    dark = box(along, across + wide / 2, half, wide / 2) * np.float32(0.4)
    ridge = box(along, across, half, 0.5) * np.float32(0.6)
    layers = [(np.ones_like(cover), lit), (dark, SHADE), (ridge, roof * np.float32(1.3))]
    if chance(rng, 0.5):
        chimney = box(along - half * 0.4, across - wide * 0.4, 1.5, 1.5)
        layers.append((chimney, _plain(70, 55, 50)))
    return cover, _painted(layers)


def _tree(
    longest: float, cosine: float, sine: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A crown: a ragged disc, brighter on one side."""
    half = longest / 2
    reach = int(half * 1.3) + 2
    along, across = local(reach, cosine, sine)
    side = 2 * reach + 1
    rags = cloud(rng, side, side, 5) - np.float32(0.5)
    radius = np.sqrt(along * along + across * across)
    cover = np.clip(half * (1 + 0.45 * rags) - radius + np.float32(0.5), 0, 1)
    leaves = 0.7 + 0.6 * cloud(rng, side, side, 6) + 0.25 * along / half
    base = _plain(between(rng, 38, 70), between(rng, 78, 108), between(rng, 34, 52))
    return cover, base * leaves[..., None].astype(np.float32)


def _pool(
    longest: float, cosine: float, sine: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Water with a light rim, as a rectangle or an ellipse."""
    half = longest / 2
    wide = half * between(rng, 0.45, 0.75)
    along, across = local(int(half + wide) + 2, cosine, sine)
    shape = ellipse if chance(rng, 0.4) else box
    cover = shape(along, across, half, wide)
    water = shape(along, across, half - 1.2, wide - 1.2)
    blue = _plain(between(rng, 60, 96), between(rng, 160, 190), between(rng, 190, 220))
    return cover, _painted([(np.ones_like(cover), _plain(222, 218, 205)), (water, blue)])


_DRAWERS = {
    "car": _vehicle,
    "truck": _truck,
    "house": _house,
    "tree": _tree,
    "pool": _pool,
}
