"""Annotation rows of a COCO file as columns: checked, and sorted by image.

Checks are vectorised (COCO train: 118k images, 860k annotations). Only when a check fails are the
rows searched one by one, so that the message can name the image id and the annotation id. Rows are
of three kinds:

- usable, including rows whose box crosses the border (clipped), is smaller than a pixel or repeats
  another row, and rows without area (taken from the box) or box (taken from the mask);
- without content: a box of zero width or height; left out and counted, since COCO's own train file
  has two;
- bad: rows that cannot be meant (not finite, negative, outside the image, of an unknown image or
  category, malformed). Refused, or with ``drop_bad`` left out and counted by kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.spec.errors import InputError

from .coco_document import ClassMap, category_key, image_key, whole
from .image_files import short
from .image_table import MOST_PIXELS, ImageInfo, ImageTable
from .segmentation import Segmentations, gather_segmentations, rle_bounds

# a box is clipped without being counted up to this distance beyond the border, because annotation
# tools round
BORDER_PX = 1.0
LARGEST_COORDINATE = 1e9  # px; arithmetic on larger boxes would overflow
HINT = "correct or remove them, or add --drop-bad to leave them out"


@dataclass(frozen=True)
class AnnotationTable:
    """Annotations of a split, sorted by image; those of image ``i`` are rows ``first[i]:first[i +
    1]``.
    """

    ids: np.ndarray  # object (n,): as in the file, None where the file has no id
    boxes_xywh: np.ndarray  # float64 (n, 4) px, as written in the file
    boxes_xyxy: np.ndarray  # float64 (n, 4) px, clipped to the image
    labels: np.ndarray  # int64 (n,) contiguous
    crowd: np.ndarray  # bool (n,)
    area: np.ndarray  # float64 (n,) px^2
    segmentations: Segmentations
    first: np.ndarray  # int64 (num_images + 1,)
    clipped_boxes: int  # beyond the border by more than BORDER_PX
    empty_boxes: int  # of zero width or height: left out
    boxes_from_masks: int  # boxes that the file lacks
    areas_from_boxes: int  # areas that the file lacks
    dropped: dict[str, int]  # number of bad rows that were left out, by kind


@dataclass
class _Rows:
    """Annotation rows as columns; ``malformed`` rows hold harmless values."""

    ids: np.ndarray  # object (n,)
    image_ids: list[Any]
    category_ids: list[Any]
    crowd: np.ndarray  # bool (n,)
    boxes: np.ndarray  # float64 (n, 4)
    area: np.ndarray  # float64 (n,), -1 where absent
    malformed: np.ndarray  # bool (n,)
    boxes_from_masks: int = 0


def parse_annotations(
    annotations: list[dict[str, Any]],
    path: Path,
    images: ImageTable | tuple[ImageInfo, ...],
    classes: ClassMap,
    text: tuple[bytes, np.ndarray],
    *,
    drop_bad: bool = False,
) -> AnnotationTable:
    """Checks all annotations and sorts them by image. Raises :class:`InputError`, which names image
    id and annotation id, for a bad row.

    ``text``: the file's bytes and the spans of its segmentations, from :func:`parse_document`.
    """
    table = images if isinstance(images, ImageTable) else ImageTable(images)
    segmentations = gather_segmentations(*text, annotations)
    rows = _columns(annotations, segmentations)
    image_index = _positions(rows.image_ids, [info.id for info in table.images])
    labels = _positions(rows.category_ids, classes.category_ids, category_key)
    boxes = rows.boxes
    finite = np.isfinite(boxes).all(axis=1) & (np.abs(boxes) <= LARGEST_COORDINATE).all(axis=1)
    safe = np.where(finite[:, None], boxes, 0.0)
    xyxy = np.concatenate([safe[:, :2], safe[:, :2] + safe[:, 2:]], axis=1)
    # (n, 2)
    sizes = np.array([(info.width, info.height) for info in table.images], dtype=np.float64)[
        image_index
    ]
    clipped = np.clip(xyxy, 0.0, np.tile(sizes, 2))
    empty = finite & ((safe[:, 2:] == 0).any(axis=1) & (safe[:, 2:] >= 0).all(axis=1))
    outside = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    inside = (xyxy[:, 2:] > 0).all(axis=1) & (xyxy[:, :2] < sizes).all(axis=1)
    # so thin that the box has no area left in float64
    empty |= finite & outside & inside & (safe[:, 2:] > 0).all(axis=1)
    of_dropped = np.zeros(len(annotations), dtype=bool)
    if table.dropped_ids:
        of_dropped |= np.array(
            [image_key(key) in table.dropped_ids for key in rows.image_ids], dtype=bool
        ) & (image_index < 0)
    faults = {
        "is malformed": rows.malformed,
        "belongs to an image that is left out": of_dropped,
        "belongs to an image that is not listed": image_index < 0,
        "has a category id that is unknown": labels < 0,
        "has a box that is not finite": ~finite,
        "has a box of negative size": (safe[:, 2:] < 0).any(axis=1),
        "has a box outside the image": outside & ~empty,
        "has the id of an earlier annotation": _repeats(rows.ids),
    }
    bad, dropped = _sort_out(faults, rows, annotations, path, drop_bad)
    _refuse_normalised(xyxy[~bad & ~empty], sizes[~bad & ~empty], path)
    kept = np.flatnonzero(~bad & ~empty)
    order = kept[np.argsort(image_index[kept], kind="stable")]
    beyond = np.abs(clipped - xyxy).max(axis=1, initial=0.0) > BORDER_PX
    no_area = rows.area < 0
    return AnnotationTable(
        ids=rows.ids[order],
        boxes_xywh=boxes[order],
        boxes_xyxy=clipped[order],
        labels=labels[order],
        crowd=rows.crowd[order],
        area=np.where(no_area, safe[:, 2] * safe[:, 3], rows.area)[order],
        segmentations=segmentations.pick(order),
        first=np.searchsorted(image_index[order], np.arange(len(table.images) + 1)),
        clipped_boxes=int(beyond[order].sum()),
        empty_boxes=int((empty & ~bad).sum()),
        boxes_from_masks=rows.boxes_from_masks,
        areas_from_boxes=int(no_area[order].sum()),
        dropped=dropped,
    )


def _sort_out(
    faults: dict[str, np.ndarray],
    rows: _Rows,
    entries: list[dict[str, Any]],
    path: Path,
    drop_bad: bool,
) -> tuple[np.ndarray, dict[str, int]]:
    """Bad rows, bool (n,), and their number by kind. Raises :class:`InputError` for the first fault
    unless bad rows are dropped.
    """
    bad = np.zeros(len(entries), dtype=bool)
    counts = {}
    for fault, where in faults.items():
        new = where & ~bad
        bad |= where
        if not new.any():
            continue
        if not drop_bad:
            row = int(np.argmax(new))
            key = short(entries[row].get("id"))
            image = short(entries[row].get("image_id"))
            what = f"annotation id {key} of image id {image} {fault}"
            detail = (
                f"category id {short(entries[row].get('category_id'))}, box "
                f"{short(entries[row].get('bbox'))}"
            )
            if fault == "is malformed":
                what = f"annotations[{row}] (id {key}, image id {image}) is malformed"
                detail += (
                    "; it needs image_id, category_id, bbox [x, y, width, height] and numbers in "
                    "them"
                )
            raise InputError(f"{what} ({detail})", path, f"{int(new.sum())} such; {HINT}")
        counts[f"annotation that {fault}"] = int(new.sum())
    return bad, counts


def _refuse_normalised(xyxy: np.ndarray, sizes: np.ndarray, path: Path) -> None:
    """Refuses boxes that all lie within 0..1: they are fractions of the image, since nobody labels
    only its first pixel.
    """
    if len(xyxy) and xyxy.max() <= 1.0 + 1e-6 and sizes.min() > 2:
        what = f"all {len(xyxy)} boxes lie within 0..1: they are fractions of the image, not pixels"
        raise InputError(
            what,
            path,
            "COCO's boxes are [x, y, width, height] in pixels: multiply them by the image's size",
        )


def _columns(entries: list[dict[str, Any]], segmentations: Segmentations) -> _Rows:
    count = len(entries)
    rows = _Rows(
        ids=np.empty(count, dtype=object),
        image_ids=[entry.get("image_id") for entry in entries],
        category_ids=[entry.get("category_id") for entry in entries],
        crowd=np.zeros(count, dtype=bool),
        boxes=np.zeros((count, 4)),
        area=np.full(count, -1.0),
        malformed=np.zeros(count, dtype=bool),
    )
    rows.malformed |= _not_keys(rows.image_ids, image_key) | _not_keys(
        rows.category_ids, category_key
    )
    ids = [entry.get("id") for entry in entries]
    rows.ids[:] = [key if type(key) is int or isinstance(key, str) else whole(key) for key in ids]
    rows.malformed |= np.array(
        [key is None and given is not None for key, given in zip(rows.ids, ids, strict=True)],
        dtype=bool,
    )
    flags = [entry.get("iscrowd", 0) for entry in entries]
    crowd = np.fromiter(map(_flag, flags), np.int8, count)
    rows.crowd[:] = crowd > 0
    areas = [entry.get("area") for entry in entries]
    plain = set(map(type, areas)) <= {float}
    area = (
        np.array(areas, dtype=np.float64)
        if plain
        else np.fromiter(map(_area, areas), np.float64, count)
    )
    area = np.where(np.abs(area) <= MOST_PIXELS, np.maximum(area, -1.0), np.nan)
    rows.area[:] = np.where(np.isnan(area) | (area < 0), -1.0, area)
    rows.malformed |= (crowd < 0) | np.isnan(area)
    boxes = _plain_boxes(entries)
    if boxes is not None:
        rows.boxes[:] = boxes
        return rows
    for row, entry in enumerate(entries):
        box = _box(entry.get("bbox"))
        if box is None and entry.get("bbox") in (None, []):
            box = _box_of_mask(segmentations, row)
            rows.boxes_from_masks += box is not None
        if box is None:
            rows.malformed[row] = True
            box = (0.0, 0.0, 1.0, 1.0)
        rows.boxes[row] = box
    return rows


def _not_keys(values: list[Any], read: Callable[[object], Any]) -> np.ndarray:
    """bool (n,): whether each value is not an id."""
    if set(map(type, values)) <= {int}:
        return np.zeros(len(values), dtype=bool)
    return np.array(
        [type(value) is not int and read(value) is None for value in values], dtype=bool
    )


def _plain_boxes(entries: list[dict[str, Any]]) -> np.ndarray | None:
    """float64 (n, 4), or None if any box is not four numbers."""
    try:
        listed = [entry["bbox"] for entry in entries]
        if not set(map(type, chain.from_iterable(listed))) <= {int, float}:
            return None
        boxes = np.array(listed)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    if not entries:
        return np.zeros((0, 4))
    return (
        boxes.astype(np.float64)
        if boxes.shape == (len(entries), 4) and boxes.dtype.kind in "iuf"
        else None
    )


def _number(value: object) -> float | None:
    """A real number as float, infinite where it is too large for a float; None for anything
    else.
    """
    if type(value) not in (int, float):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


def _box(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    sides = [_number(side) for side in value]
    return None if None in sides else tuple(side for side in sides if side is not None)


def _box_of_mask(segmentations: Segmentations, row: int) -> tuple[float, ...] | None:
    """x, y, width, height of a segmentation, or None where the row has no segmentation."""
    try:
        value = segmentations[row]
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        polygons = [
            polygon
            for polygon in value
            if isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        ]
        numbers = [_number(part) for polygon in polygons for part in polygon]
        if not numbers or None in numbers:
            return None
        points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
        left, top = points.min(0).tolist()
        right, bottom = points.max(0).tolist()
        return left, top, right - left, bottom - top
    return rle_bounds(value)


def _flag(value: object) -> int:
    """1 or 0 for 1, 0, true, false and null (0), -1 for anything else."""
    if value is None:
        return 0
    return int(bool(value)) if isinstance(value, (int, float)) and value in (0, 1) else -1


def _area(value: object) -> float:
    """px^2; -1 where missing or negative, NaN for anything that is not a finite number."""
    if value is None:
        return -1.0
    number = _number(value)
    if number is None or not math.isfinite(number):
        return math.nan
    return number if number >= 0 else -1.0


def _positions(
    values: Iterable[Any], keys: Iterable[Any], read: Callable[[object], Any] = image_key
) -> np.ndarray:
    """Index of each value in ``keys``, -1 where the value is absent; int64 (n,)."""
    place = {key: index for index, key in enumerate(keys)}
    listed = list(values)
    if set(map(type, listed)) <= {int}:
        return np.fromiter((place.get(value, -1) for value in listed), np.int64, len(listed))
    return np.fromiter(_looked_up(listed, place, read), np.int64, len(listed))


def _looked_up(
    values: Iterable[Any], place: dict[Any, int], read: Callable[[object], Any]
) -> Iterator[int]:
    for value in values:
        if type(value) is int:
            yield place.get(value, -1)
        else:
            key = read(value)
            yield -1 if key is None else place.get(key, -1)


def _repeats(ids: np.ndarray) -> np.ndarray:
    """bool (n,): rows whose id an earlier row has; a missing id repeats nothing."""
    values = ids.tolist()
    if len(set(values)) == len(values):
        return np.zeros(len(values), dtype=bool)
    seen: set[Any] = set()
    repeated = []
    for value in values:
        repeated.append(value is not None and value in seen)
        seen.add(value)
    return np.array(repeated, dtype=bool)
