"""Large pictures in tiles: where the tiles are, and how the detections of the tiles become the
detections of the picture.

A tile shows an object whole, or cut by the tile's border. The parts of one object are found by what
two overlapping tiles both see: cut to their common area, the boxes of one object agree, or the box
of a cut part lies inside the other. The merged box is that of the best part that shows the object
whole, else the box around all parts. Two objects that one tile tells apart are never merged,
however much they overlap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.data.segmentation import MaskMaps, rle_of_crop
from rfdetr_repro.spec.errors import InputError

Array = np.ndarray[Any, Any]

OVERLAP = 0.2  # of a tile's side
MOST_OVERLAP = 0.5
MOST_TILES = 100_000
AGREE = 0.4  # IoU in the common area of two tiles from which two boxes are one object
COVERED = 0.7  # share of a cut box inside another box from which both are one object
SAME = 0.5  # IoU from which boxes of different tiles are one object, where neither is cut
LEAST_RATIO = 0.1  # of two scores, so that a good detection is not joined to noise
LEAST_SHARE = 0.3  # of the best score, for a part that widens a box
# a box that ends so near to the border of its tile counts as cut: px, and share of the tile's side
NEAR_PX = 2.5
NEAR_BORDER = 0.02
_FORMS = "auto, a number of tiles per side such as 3, or height x width in pixels such as 480x640"


class Window(NamedTuple):
    """A tile in whole pixels of the picture; bottom and right are outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Tiling:
    """How a picture is divided.

    ``how``: None, for tiles as large as the model's input, so that no tile shrinks; a number of
    tiles per side; or (height, width) of a tile in px. ``overlap``: share of a tile's side that the
    next tile shows again, at least; 0 to 0.5. Raises :class:`InputError` for another share.
    """

    how: int | tuple[int, int] | None = None
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise InputError(
                f"tiles that overlap by {self.overlap:g} of their side",
                hint=f"give a share from 0 to {MOST_OVERLAP:g}",
            )

    @classmethod
    def parse(cls, text: str, overlap: float = OVERLAP) -> Tiling:
        """From "auto", "3" or "480x640". Raises ValueError for other text."""
        if text == "auto":
            return cls(None, overlap)
        if re.fullmatch(r"[1-9]\d{0,3}", text):
            return cls(int(text), overlap)
        sides = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
        if sides is None or min(int(sides[1]), int(sides[2])) < 16:
            raise ValueError(
                f"{text!r} is no tiling: write {_FORMS}; a side has at least 16 pixels"
            )
        return cls((int(sides[1]), int(sides[2])), overlap)

    def windows(self, picture_hw: tuple[int, int], input_hw: tuple[int, int]) -> list[Window]:
        """The tiles of a picture of (height, width) px for a model with this input, row by row.

        Raises :class:`InputError` for more than MOST_TILES tiles.
        """
        if isinstance(self.how, int):
            sides = [self._side(length, self.how) for length in picture_hw]
        else:
            sides = list(self.how or input_hw)
        starts = [
            self._starts(length, side) for length, side in zip(picture_hw, sides, strict=True)
        ]
        if len(starts[0]) * len(starts[1]) > MOST_TILES:
            raise InputError(
                f"{len(starts[0]) * len(starts[1])} tiles of {sides[0]}x{sides[1]} pixels are more "
                f"than {MOST_TILES}",
                f"a picture of {picture_hw[0]}x{picture_hw[1]} pixels",
                "choose larger tiles",
            )
        height, width = (min(side, size) for side, size in zip(sides, picture_hw, strict=True))
        return [
            Window(top, left, top + height, left + width) for top in starts[0] for left in starts[1]
        ]

    def _side(self, length: int, count: int) -> int:
        """The side of ``count`` overlapping tiles that cover ``length`` px."""
        return min(length, int(np.ceil(length / (count - (count - 1) * self.overlap))))

    def _starts(self, length: int, side: int) -> list[int]:
        if side >= length:
            return [0]
        step = max(1.0, side * (1 - self.overlap))
        count = int(np.ceil((length - side) / step - 1e-9)) + 1
        return [round(start) for start in np.linspace(0, length - side, count)]


class Crop(NamedTuple):
    """The part of a mask that is not empty: ``inside`` bool (h, w), at (top, left) px of the
    picture.
    """

    top: int
    left: int
    inside: Array

    @classmethod
    def of(cls, mask: Array, window: Window) -> Crop:
        """From the mask of a whole tile, bool (height, width)."""
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(window.top, window.left, np.zeros((0, 0), dtype=bool))
        inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
        return cls(window.top + int(rows[0]), window.left + int(columns[0]), inside)

    @classmethod
    def union(cls, crops: Iterable[Crop]) -> Crop:
        """The pixels that are in any of ``crops``."""
        some = [crop for crop in crops if crop.inside.size]
        if len(some) < 2:
            return some[0] if some else cls(0, 0, np.zeros((0, 0), dtype=bool))
        top = min(crop.top for crop in some)
        left = min(crop.left for crop in some)
        bottom = max(crop.top + crop.inside.shape[0] for crop in some)
        right = max(crop.left + crop.inside.shape[1] for crop in some)
        inside = np.zeros((bottom - top, right - left), dtype=bool)
        for crop in some:
            height, width = crop.inside.shape
            rows = slice(crop.top - top, crop.top - top + height)
            inside[rows, crop.left - left : crop.left - left + width] |= crop.inside
        return cls(top, left, inside)


class Crops:
    """Masks of one picture as :class:`Crop`: a sequence like
    :class:`~rfdetr_repro.data.segmentation.MaskMaps`, whose whole bitmaps are made on demand.
    """

    def __init__(self, crops: Sequence[Crop], size_hw: tuple[int, int]) -> None:
        """``size_hw``: (height, width) of the picture in px."""
        self.crops = list(crops)
        self.size_hw = size_hw

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows: Any) -> Any:
        """The bitmap bool (height, width) of a row, or the masks of a list or array of rows."""
        if isinstance(rows, (int, np.integer)):
            whole = np.zeros(self.size_hw, dtype=bool)
            top, left, inside = self.crops[rows]
            whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
            return whole
        chosen = np.asarray(rows, dtype=np.int64)
        return Crops([self.crops[row] for row in chosen.tolist()], self.size_hw)

    def __iter__(self) -> Iterator[Array]:
        return (self[row] for row in range(len(self)))

    def rles(self) -> list[dict[str, Any]]:
        """COCO's compressed RLE of each mask, with ``counts`` as text."""
        return [rle_of_crop(inside, top, left, self.size_hw) for top, left, inside in self.crops]


class Part(NamedTuple):
    """The detections of one tile, in pixels of the tile, in any order."""

    boxes_xyxy: Array  # float (n, 4)
    scores: Array  # float (n,)
    labels: Array  # int (n,)
    # n of bool (height, width) of the tile, or their crops in pixels of the picture
    masks: Sequence[Array | Crop] | MaskMaps | None = None


class Merged(NamedTuple):
    """The detections of the picture, best first."""

    boxes_xyxy: Array  # float32 (n, 4) px
    scores: Array  # float32 (n,)
    labels: Array  # int64 (n,)
    masks: Crops | None


class _Pieces(NamedTuple):
    """The detections of all tiles, in pixels of the picture."""

    boxes: Array  # float64 (n, 4)
    scores: Array  # float64 (n,)
    labels: Array  # int64 (n,)
    tiles: Array  # int64 (n,)
    cut: Array  # bool (n, 4): left, top, right, bottom end at a border inside the picture
    masks: list[Crop] | None


def detect_in_tiles(
    windows: Sequence[Window],
    detect: Callable[[Window], Part],
    picture_hw: tuple[int, int],
    shown: Iterable[Window] | None = None,
) -> Merged:
    """Runs ``detect`` on each tile and merges what it finds; see the description of the module.

    ``shown``: the same tiles behind a progress bar. Masks of a tile are made small before the next
    tile is looked at.
    """
    parts = [_small(detect(window), window) for window in (windows if shown is None else shown)]
    return merge(windows, parts, picture_hw)


def _small(part: Part, window: Window) -> Part:
    if part.masks is None:
        return part
    return part._replace(masks=[_crop(mask, window) for mask in part.masks])


def _crop(mask: Array | Crop, window: Window) -> Crop:
    return mask if isinstance(mask, Crop) else Crop.of(np.asarray(mask, dtype=bool), window)


def merge(windows: Sequence[Window], parts: Sequence[Part], picture_hw: tuple[int, int]) -> Merged:
    """The detections of a picture of (height, width) px from those of its tiles, class by class.

    Scores of merged detections are the highest score of their parts. Masks: those of the parts that
    show the whole object, the best first, else the union of all parts.
    """
    pieces = _pieces(windows, parts, picture_hw)
    groups = _groups(pieces, windows)
    boxes = np.array([_box(pieces, rows) for rows in groups]).reshape(-1, 4)
    still_cut = np.array([pieces.cut[rows].any(axis=1).all() for rows in groups], dtype=bool)
    scores = np.array([pieces.scores[rows].max() for rows in groups])
    labels = np.array([pieces.labels[rows[0]] for rows in groups], dtype=np.int64)
    found = _Found(boxes, scores, labels, still_cut, [set(pieces.tiles[rows]) for rows in groups])
    kept = _without_repetitions(found, windows)
    order = kept[np.argsort(-scores[kept], kind="stable")]
    masks = None
    if pieces.masks is not None:
        unions = [_mask(pieces, pieces.masks, groups[row]) for row in order.tolist()]
        masks = Crops(unions, picture_hw)
    return Merged(
        boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order], masks
    )


def _pieces(
    windows: Sequence[Window], parts: Sequence[Part], picture_hw: tuple[int, int]
) -> _Pieces:
    height, width = picture_hw
    boxes, cuts, tiles = [np.zeros((0, 4))], [np.zeros((0, 4), dtype=bool)], []
    crops: list[Crop] = []
    with_masks = any(part.masks is not None for part in parts)
    for number, (window, part) in enumerate(zip(windows, parts, strict=True)):
        corner = np.array([window.left, window.top] * 2)
        placed = np.asarray(part.boxes_xyxy, dtype=np.float64).reshape(-1, 4) + corner
        sides = np.array([window.left, window.top, window.right, window.bottom])
        inner = sides != np.array([0, 0, width, height])
        near = np.maximum(NEAR_PX, NEAR_BORDER * np.array([*window.hw[::-1]] * 2))
        boxes.append(placed)
        cuts.append((np.abs(placed - sides) <= near) & inner)
        tiles += [number] * len(placed)
        if with_masks and part.masks is not None:
            crops += [_crop(mask, window) for mask in part.masks]
    return _Pieces(
        np.concatenate(boxes),
        np.concatenate([np.zeros(0), *(np.asarray(part.scores, np.float64) for part in parts)]),
        np.concatenate(
            [np.zeros(0, np.int64), *(np.asarray(part.labels, np.int64) for part in parts)]
        ),
        np.array(tiles, dtype=np.int64),
        np.concatenate(cuts),
        crops if with_masks else None,
    )


def _pairs(windows: Sequence[Window]) -> Iterator[tuple[int, int]]:
    """Every two tiles that overlap or touch."""
    edges = np.array(windows, dtype=np.int64).reshape(-1, 4)
    for first in range(len(edges)):
        top, left, bottom, right = edges[first]
        rest = edges[first + 1 :]
        meet = ((rest[:, 0] <= bottom) & (rest[:, 2] >= top) & (rest[:, 1] <= right)) & (
            rest[:, 3] >= left
        )
        for second in np.flatnonzero(meet).tolist():
            yield first, first + 1 + second


class _Groups:
    """Rows joined to objects. Two groups are joined only if no tile shows a part of both."""

    def __init__(self, tiles: Array) -> None:
        """``tiles``: the tile of each row."""
        self.of_row = list(range(len(tiles)))
        self.rows = {row: [row] for row in self.of_row}
        self.tiles = {row: {int(tiles[row])} for row in self.of_row}

    def join(self, row: int, other: int) -> None:
        """Joins the groups of two rows where that is allowed."""
        first, second = self.of_row[row], self.of_row[other]
        if first == second or self.tiles[first] & self.tiles[second]:
            return
        for moved in self.rows[second]:
            self.of_row[moved] = first
        self.rows[first] += self.rows.pop(second)
        self.tiles[first] |= self.tiles.pop(second)


def _groups(pieces: _Pieces, windows: Sequence[Window]) -> list[Array]:
    """The rows of each object: pieces that agree are joined, the most similar first; then cut
    pieces that lie inside another piece.
    """
    of_tile = [np.flatnonzero(pieces.tiles == number) for number in range(len(windows))]
    similar: list[tuple[float, int, int]] = []
    inside: list[tuple[float, int, int]] = []
    for one, two in _pairs(windows):
        rows, others = of_tile[one], of_tile[two]
        if not (len(rows) and len(others)):
            continue
        agreement, share = _agreement(pieces, rows, others, windows[one], windows[two])
        for found, matrix, least in ((similar, agreement, AGREE), (inside, share, COVERED)):
            for i, j in np.argwhere(matrix >= least).tolist():
                found.append((float(matrix[i, j]), int(rows[i]), int(others[j])))
    groups = _Groups(pieces.tiles)
    for pairs in (similar, inside):
        for _, row, other in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            groups.join(row, other)
    return [np.array(sorted(rows), dtype=np.int64) for rows in groups.rows.values()]


def _agreement(
    pieces: _Pieces, rows: Array, others: Array, one: Window, two: Window
) -> tuple[Array, Array]:
    """Two float (rows, others), 0 for different classes: the IoU of two pieces in what both tiles
    show, and the share of a cut piece there that lies inside the other piece.
    """
    top, left = max(one.top, two.top), max(one.left, two.left)
    bottom, right = min(one.bottom, two.bottom), min(one.right, two.right)
    same = pieces.labels[rows][:, None] == pieces.labels[others][None]
    a_score, b_score = pieces.scores[rows][:, None], pieces.scores[others][None]
    same &= np.minimum(a_score, b_score) >= LEAST_RATIO * np.maximum(a_score, b_score)
    if bottom > top and right > left:
        common = np.array([left, top, right, bottom])
        a, b = (_clipped(pieces.boxes[chosen], common) for chosen in (rows, others))
        inner = _intersection(a, b)
        cut, other_cut = (np.asarray(pieces.cut[chosen].any(axis=1)) for chosen in (rows, others))
        shares = np.maximum(
            inner / np.maximum(_area(a), 1e-9)[:, None] * cut[:, None],
            inner / np.maximum(_area(b), 1e-9)[None] * other_cut[None],
        )
        return np.where(same, _iou(a, b), 0), np.where(same, shares, 0)
    if bottom == top and right == left:  # tiles that touch at a corner
        return np.zeros(same.shape), np.zeros(same.shape)
    across = bottom == top  # the common line runs across the picture, or down
    touching: list[Array] = []
    ends: list[Array] = []
    for chosen in (rows, others):
        edges = pieces.boxes[chosen][:, [1, 3] if across else [0, 2]]
        distances = np.abs(edges - (top if across else left)).min(axis=1)
        touching.append(np.asarray(distances <= _near(one, across)))
        ends.append(pieces.boxes[chosen][:, [0, 2] if across else [1, 3]])
    a, b = ends
    inner = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    outer = np.maximum(a[:, None, 1], b[None, :, 1]) - np.minimum(a[:, None, 0], b[None, :, 0])
    least = np.minimum((a[:, 1] - a[:, 0])[:, None], (b[:, 1] - b[:, 0])[None])
    both = same & touching[0][:, None] & touching[1][None]
    inner = np.where(both, np.clip(inner, 0, None), 0)
    return inner / np.maximum(outer, 1e-9), inner / np.maximum(least, 1e-9)


def _near(window: Window, across: bool) -> float:
    return max(NEAR_PX, NEAR_BORDER * window.hw[0 if across else 1])


def _clipped(boxes: Array, common: Array) -> Array:
    low = np.maximum(boxes[:, :2], common[:2])
    return np.concatenate([low, np.maximum(np.minimum(boxes[:, 2:], common[2:]), low)], axis=1)


def _iou(a: Array, b: Array) -> Array:
    """float (n, m) of boxes (n, 4) and (m, 4)."""
    inner = _intersection(a, b)
    return inner / np.maximum(_area(a)[:, None] + _area(b)[None] - inner, 1e-9)


def _intersection(a: Array, b: Array) -> Array:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=2)


def _area(boxes: Array) -> Array:
    return np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)


def _chosen(pieces: _Pieces, rows: Array) -> Array:
    """The best piece that shows the object whole; where none does, all but the least certain."""
    whole = rows[~pieces.cut[rows].any(axis=1)]
    if len(whole):
        return whole[[int(np.argmax(pieces.scores[whole]))]]
    scores = pieces.scores[rows]
    return rows[scores >= LEAST_SHARE * scores.max()]


def _box(pieces: _Pieces, rows: Array) -> Array:
    boxes = pieces.boxes[_chosen(pieces, rows)]
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _mask(pieces: _Pieces, masks: Sequence[Crop], rows: Array) -> Crop:
    return Crop.union(masks[row] for row in _chosen(pieces, rows).tolist())


class _Found(NamedTuple):
    boxes: Array
    scores: Array
    labels: Array
    still_cut: Array  # bool: no part shows the object whole
    tiles: list[set[int]]

    def replaces(self, better: int, other: int) -> bool:
        """Whether ``other`` is a repetition of ``better``; both are of one class and of different
        tiles.
        """
        a, b = self.boxes[[better]], self.boxes[[other]]
        if self.still_cut[other] and not self.still_cut[better]:
            inner = _intersection(b, a)[0, 0]
            return bool(inner >= COVERED * max(_area(b)[0], 1e-9))
        return bool(_iou(a, b)[0, 0] >= SAME)


def _without_repetitions(found: _Found, windows: Sequence[Window]) -> Array:
    """Rows that are kept. A group repeats another group of the same class only if no tile shows
    both, because a tile's own detections are different objects.
    """
    of_tile: dict[int, list[int]] = {}
    for row, tiles in enumerate(found.tiles):
        for tile in tiles:
            of_tile.setdefault(tile, []).append(row)
    dropped: set[int] = set()
    pairs = set()
    for one, two in _pairs(windows):
        rows, others = np.array(of_tile.get(one, [])), np.array(of_tile.get(two, []))
        if not (len(rows) and len(others)):
            continue
        meet = _intersection(found.boxes[rows], found.boxes[others]) > 0
        meet &= found.labels[rows][:, None] == found.labels[others][None]
        for i, j in np.argwhere(meet).tolist():
            pairs.add((int(min(rows[i], others[j])), int(max(rows[i], others[j]))))
    count = len(found.scores)
    rank = [(bool(found.still_cut[row]), -float(found.scores[row])) for row in range(count)]
    for one, two in sorted(pairs, key=lambda pair: min(rank[pair[0]], rank[pair[1]])):
        better, other = sorted((one, two), key=lambda row: rank[row])
        if better in dropped or found.tiles[one] & found.tiles[two]:
            continue
        if found.replaces(better, other):
            dropped.add(other)
    return np.array([row for row in range(count) if row not in dropped], dtype=np.int64)
