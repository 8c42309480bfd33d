"""A COCO annotation file as columns: parsed in one pass, checked, sorted by image; no image is opened here.

Checks are vectorised (COCO train: 118k images, 860k annotations); only when one fails is the culprit looked for one by one,
so that the message can name the image id and the annotation id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .segmentation import Segmentations, cut_segmentations, gather_segmentations

# The two empty boxes among the 860,001 of instances_train2017.json, {annotation id: image id}; left out and counted.
EMPTY_BOXES_OF_COCO = {918: 200365, 2206849: 550395}
ImageKey = int | str  # a whole number of any size, or text, as the file has it
BORDER_PX = 1.0  # annotation tools round; up to here a box beyond the border is clipped without being counted


@dataclass(frozen=True)
class ClassMap:
    """Contiguous label (0..n-1) <-> category id and name. Taken from the train split and kept with the checkpoint."""

    category_ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.category_ids)


@dataclass(frozen=True)
class ImageInfo:
    id: ImageKey
    path: Path
    width: int  # px, as the JSON says; checked against the file when it is decoded
    height: int


@dataclass(frozen=True)
class AnnotationTable:
    """Annotations of a split, sorted by image; those of image ``i`` are rows ``first[i]:first[i + 1]``."""

    ids: np.ndarray  # int64 (n,)
    boxes_xywh: np.ndarray  # float64 (n, 4) px, as written in the file
    boxes_xyxy: np.ndarray  # float64 (n, 4) px, clipped to the image
    labels: np.ndarray  # int64 (n,) contiguous
    crowd: np.ndarray  # bool (n,)
    area: np.ndarray  # float64 (n,) px^2
    segmentations: Segmentations
    first: np.ndarray  # int64 (num_images + 1,)
    clipped_boxes: int
    dropped_boxes: int


@dataclass(frozen=True)
class SplitFiles:
    annotations: Path
    images: Path  # folder


def has_coco_split(data_dir: str | Path, split: str) -> bool:
    """Whether the folder holds an annotation file of ``split``, sound or broken."""
    root = Path(data_dir)
    names = [root / "annotations" / f"instances_{name}.json" for name in (split, f"{split}2017")]
    names += [root / name / "_annotations.coco.json" for name in _roboflow_names(split)]
    return any(path.is_file() for path in names)


def _roboflow_names(split: str) -> tuple[str, ...]:
    return ("val", "valid") if split == "val" else (split,)


def find_split(data_dir: str | Path, split: str) -> SplitFiles:
    """Finds ``annotations/instances_NAME.json`` with ``NAME/`` (ours, COCO's) or ``NAME/_annotations.coco.json`` (Roboflow's)."""
    root = Path(data_dir)
    if not root.is_dir():
        raise InputError("no such data folder", root, "give a folder in COCO format")
    for name in (split, f"{split}2017"):
        if (path := root / "annotations" / f"instances_{name}.json").is_file():
            if not (root / name).is_dir():
                raise InputError(f"the images of split {split!r} are missing", root / name, "put them there")
            return SplitFiles(path, root / name)
    for name in _roboflow_names(split):
        if (path := root / name / "_annotations.coco.json").is_file():
            return SplitFiles(path, root / name)
    folder = "valid" if split == "val" else split
    expected = f"it must hold annotations/instances_{split}.json and {split}/, or {folder}/_annotations.coco.json"
    raise InputError(f"no COCO split {split!r}", root, f"{expected}, or data.yaml (YOLO)")


def parse_document(content: bytes, path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """(COCO document without the text of its segmentations, their spans int64 (k, 2) in ``content``)."""
    slim, spans = cut_segmentations(content)
    try:
        try:
            document = json.loads(slim)
        except json.JSONDecodeError:
            document, spans = json.loads(content), spans[:0]  # for the right line and column
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path, "write the file again") from error
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg})", f"{path}:{error.lineno}:{error.colno}", "write the file again") from error
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"not a COCO file: no list of objects {key!r}", path, "export the data in COCO format")
    return document, spans


def parse_classes(document: dict[str, Any], path: Path, classes: ClassMap | None) -> ClassMap:
    """The file's own categories in order of id, or ``classes`` after a check that the file agrees with it.

    Roboflow adds a category that only names the project (supercategory "none", parent of the others, never used): it is no class.
    """
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in document["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a category without id or name", path, "export the data in COCO format") from error
    if len(names) != len(document["categories"]):
        raise InputError("two categories share one id", path, "give each its own")
    if classes is not None:
        for category_id, name in zip(classes.category_ids, classes.names, strict=True):
            if names.get(category_id, name) != name:
                what = f"category id {category_id} is {names[category_id]!r} here but {name!r} in the train split"
                raise InputError(what, path, "use the same ids")
        return classes
    parents = {str(entry.get("supercategory")) for entry in document["categories"]}
    categories = document["categories"]
    unnamed = [entry for entry in categories if entry.get("supercategory") == "none" and str(entry["name"]) in parents]
    placeholders = {int(entry["id"]) for entry in unnamed}
    placeholders -= {entry.get("category_id") for entry in document["annotations"]} if placeholders else set()
    kept = sorted(set(names) - placeholders)
    if not kept:
        raise InputError("no categories", path, "export the data in COCO format")
    return ClassMap(tuple(kept), tuple(names[category_id] for category_id in kept))


def parse_images(document: dict[str, Any], path: Path, folder: Path) -> tuple[ImageInfo, ...]:
    """All images, in the file's order; each must exist (folders are listed once, files are not opened)."""
    images, listings = [], {}
    for number, entry in enumerate(document["images"]):
        try:
            info = ImageInfo(int(entry["id"]), folder / entry["file_name"], int(entry["width"]), int(entry["height"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"images[{number}] needs id, file_name, width and height ({error!r})", path, "add them") from error
        if info.width < 1 or info.height < 1:
            raise InputError(f"image id {info.id} has size {info.width} x {info.height}", path, "write its real size")
        parent, name = os.path.split(info.path)
        if parent not in listings:
            listings[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in listings[parent]:
            raise InputError(f"image file missing (image id {info.id})", info.path, "add it or remove it from the JSON")
        images.append(info)
    if not images:
        raise InputError("no images", path, "give a split with images")
    _refuse_duplicates("image", (info.id for info in images), path)
    return tuple(images)


def parse_annotations(
    annotations: list[dict[str, Any]],
    path: Path,
    images: tuple[ImageInfo, ...],
    classes: ClassMap,
    text: tuple[bytes, np.ndarray],
) -> AnnotationTable:
    """Checks all annotations and sorts them by image. Raises :class:`InputError` naming image id and annotation id.

    ``text``: the file's bytes and the spans of its segmentations, from :func:`parse_document`.
    """
    entries, dropped = _without_known_empty(annotations)
    ids, image_ids, category_ids, crowd, boxes, area = _columns(entries, path)
    _refuse_duplicates("annotation", ids.tolist(), path)
    image_index = _positions(image_ids, [info.id for info in images])
    labels = _positions(category_ids, classes.category_ids)
    xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    sizes = np.array([(info.width, info.height) for info in images], dtype=np.float64)[image_index]  # (n, 2)
    clipped = np.clip(xyxy, 0.0, np.tile(sizes, 2))
    faults = {
        "belongs to an image that is not listed": image_index < 0,
        "has a category id that is unknown": labels < 0,
        "has a box that is not finite": ~np.isfinite(boxes).all(axis=1),
        "has a box of zero or negative size": (boxes[:, 2:] <= 0).any(axis=1),
        "has a box outside the image": (clipped[:, 2:] <= clipped[:, :2]).any(axis=1),
    }
    _refuse_faults(faults, (ids, image_ids, category_ids, boxes), path)
    order = np.argsort(image_index, kind="stable")
    return AnnotationTable(
        ids=ids[order],
        boxes_xywh=boxes[order],
        boxes_xyxy=clipped[order],
        labels=labels[order],
        crowd=crowd[order],
        area=np.where(area < 0, boxes[:, 2] * boxes[:, 3], area)[order],
        segmentations=gather_segmentations(*text, [entries[row] for row in order.tolist()]),
        first=np.searchsorted(image_index[order], np.arange(len(images) + 1)),
        clipped_boxes=int((np.abs(clipped - xyxy).max(axis=1, initial=0.0) > BORDER_PX).sum()),
        dropped_boxes=dropped,
    )


def _refuse_faults(faults: dict[str, np.ndarray], columns: tuple[np.ndarray, ...], path: Path) -> None:
    """Raises for the first fault that any row has; ``columns``: ids, image ids, category ids, boxes."""
    ids, image_ids, category_ids, boxes = columns
    for fault, where in faults.items():
        if where.any():
            row = int(np.argmax(where))
            what = f"annotation id {ids[row]} of image id {image_ids[row]} {fault}"
            detail = f"category id {category_ids[row]}, box {boxes[row].tolist()}"
            raise InputError(f"{what} ({detail})", path, f"{where.sum()} such; mend or remove")


def _without_known_empty(entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    known = EMPTY_BOXES_OF_COCO.items()
    kept = [entry for entry in entries if entry.get("area") != 0 or (entry.get("id"), entry.get("image_id")) not in known]
    return kept, len(entries) - len(kept)


def _columns(entries: list[dict[str, Any]], path: Path) -> tuple[np.ndarray, ...]:
    """ids, image ids, category ids int64 (n,); crowd bool (n,); boxes_xywh float64 (n, 4); area float64 (n,), -1 where absent."""
    count = len(entries)
    try:
        ids, image_ids, category_ids = (
            np.fromiter((entry[key] for entry in entries), np.int64, count) for key in ("id", "image_id", "category_id")
        )
        crowd = np.fromiter((bool(entry.get("iscrowd", 0)) for entry in entries), bool, count)
        area = np.fromiter((entry.get("area", -1.0) for entry in entries), np.float64, count)
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
        if len(boxes) == count and np.isfinite(area).all():
            return ids, image_ids, category_ids, crowd, boxes, area
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    for number, entry in enumerate(entries):  # something is wrong: find it
        try:
            int(entry["id"]), int(entry["image_id"]), int(entry["category_id"])
            well_formed = len([float(side) for side in entry["bbox"]]) == 4 and np.isfinite(float(entry.get("area", 0)))
        except (KeyError, TypeError, ValueError, OverflowError):
            well_formed = False
        if not well_formed:
            what = f"annotations[{number}] (id {entry.get('id')}, image id {entry.get('image_id')}) is malformed"
            raise InputError(what, path, "it needs integer id, image_id, category_id and bbox [x, y, width, height]")
    raise InputError("annotations that cannot be read as numbers", path, "export the data in COCO format")


def _positions(values: np.ndarray, keys: Iterable[int]) -> np.ndarray:
    """Index of each value in ``keys``, -1 where it is absent; int64 (n,)."""
    key_array = np.asarray(list(keys), dtype=np.int64)
    order = np.argsort(key_array)
    place = np.searchsorted(key_array, values, sorter=order).clip(max=len(key_array) - 1)
    index = order[place]
    return np.where(key_array[index] == values, index, -1)


def _refuse_duplicates(kind: str, ids: Iterable[int], path: Path) -> None:
    values, counts = np.unique(np.fromiter(ids, np.int64), return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{kind} id {values[np.argmax(counts > 1)]} occurs {counts.max()} times", path, "ids must be unique")
