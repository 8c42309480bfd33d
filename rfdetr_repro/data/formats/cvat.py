"""CVAT's own XML ("CVAT for images") as a COCO document: boxes, polygons and masks. Other shapes
are counted and left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.data.annotations import HINT
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input

from .xml_file import Element, numbers_of, read_xml

_BAD_SHAPE = "CVAT shape that is malformed"
_NO_SUBSET = "CVAT image that is in no subset"
_SUBSET = re.compile(rb"""<image\b[^>]*\ssubset=["']([\w. -]{1,100})["']""")
_LEFT_OUT = ("polyline", "points", "cuboid", "skeleton", "ellipse", "tag")


def subset_of(path: Path, names: Sequence[str]) -> str | None:
    """The subset that has one of ``names``, in upper or lower case (CVAT offers Train, Test and
    Validation), as the file writes it; None where the file has no such subset.
    """
    with open_input(path) as stream:
        written = {match.decode() for match in _SUBSET.findall(stream.read())}
    return next((name for name in sorted(written) if name.lower() in names), None)


def cvat_as_coco(
    path: Path, subset: str | None, drop_bad: bool = False
) -> tuple[bytes, dict[str, int]]:
    """COCO JSON as UTF-8, and the number of shapes left out by kind. ``subset`` keeps only the
    images of that subset; images of no subset are then in no split, and are counted.

    Raises :class:`InputError` for a shape that is malformed, has a label that the file does not
    list, or is a rotated box; with ``drop_bad`` such shapes are left out and counted.
    """
    root = read_xml(path, "annotations")
    names = _names(root)
    if not names:
        raise InputError("no labels", path, "export the task again")
    number = {name: index for index, name in enumerate(names, 1)}
    document: dict[str, Any] = {"images": [], "annotations": []}
    document["categories"] = [{"id": id_, "name": name} for name, id_ in number.items()]
    left_out: dict[str, int] = {}
    for image_id, image in enumerate(root.iter("image"), 1):
        if subset is not None and image.get("subset") != subset:
            if not image.get("subset"):
                left_out[_NO_SUBSET] = left_out.get(_NO_SUBSET, 0) + 1
            continue
        entry = {"id": image_id, "file_name": image.get("name", "")}
        sides = [image.get(side, "") for side in ("width", "height")]
        if all(side.isascii() and side.isdigit() for side in sides):
            entry |= {"width": int(sides[0][:9]), "height": int(sides[1][:9])}
        document["images"].append(entry)
        for shape in image:
            if shape.tag in _LEFT_OUT:
                kind = f"CVAT shape of the kind {shape.tag}"
                left_out[kind] = left_out.get(kind, 0) + 1
                continue
            try:
                row = _row(shape, number, entry, path)
            except InputError:
                if not drop_bad:
                    raise
                left_out[_BAD_SHAPE] = left_out.get(_BAD_SHAPE, 0) + 1
                continue
            document["annotations"].append(
                {"id": len(document["annotations"]) + 1, "image_id": image_id, "iscrowd": 0, **row}
            )
    return json.dumps(document).encode(), left_out


def _names(root: Element) -> list[str]:
    """The labels that the file lists, else those of its shapes."""
    listed = (name.strip() for entry in root.iter("label") if (name := entry.findtext("name")))
    if names := list(dict.fromkeys(listed)):
        return names
    used = {shape.get("label", "") for image in root.iter("image") for shape in image}
    return sorted(used - {""})


def _row(
    shape: Element, number: dict[str, int], image: dict[str, Any], path: Path
) -> dict[str, Any]:
    where = f"a {shape.tag[:20]} of image {image['file_name']}"
    if (label := shape.get("label")) not in number:
        raise InputError(f"{where} has the label {label!r}, which is not listed", path, HINT)
    category = {"category_id": number[label]}
    if shape.tag == "box":
        if numbers_of([shape.get("rotation", "0")], path, where)[0] % 360:
            raise InputError(
                f"{where} is rotated",
                path,
                "RF-DETR finds upright boxes: draw the box upright, or " + HINT,
            )
        left, top, right, bottom = numbers_of(
            [shape.get(side) for side in ("xtl", "ytl", "xbr", "ybr")], path, where
        )
        return {**category, "bbox": [left, top, right - left, bottom - top]}
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        points = numbers_of([value for pair in pairs for value in pair], path, where)
        if len(points) < 6 or len(points) % 2:
            raise InputError(f"{where} has fewer than three points", path, HINT)
        xs = points[::2]
        ys = points[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return {**category, "bbox": box, "segmentation": [points]}
    if shape.tag == "mask":
        return {**category, **_mask(shape, image, path, where)}
    raise InputError(f"{where} is of an unknown kind", path, HINT)


def _mask(shape: Element, image: dict[str, Any], path: Path, where: str) -> dict[str, Any]:
    """CVAT's runs go along the rows of the mask's own box, starting outside; COCO's runs go down
    the columns of the whole image.
    """
    sides = [shape.get(key) for key in ("left", "top", "width", "height")]
    left, top, width, height = (int(value) for value in numbers_of(sides, path, where))
    runs = [int(value) for value in numbers_of(list(shape.get("rle", "").split(",")), path, where)]
    if "width" not in image:
        raise InputError(f"image {image['file_name']} has a mask but no size", path, HINT)
    if min(left, top, *runs) < 0 or min(width, height) < 1 or sum(runs) != width * height:
        raise InputError(f"{where} does not fill its box", path, HINT)
    if left + width > image["width"] or top + height > image["height"]:
        raise InputError(f"{where} lies outside the image", path, HINT)
    inside = np.zeros(len(runs), dtype=bool)
    inside[1::2] = True
    whole = np.zeros((image["height"], image["width"]), dtype=bool)
    whole[top : top + height, left : left + width] = np.repeat(inside, runs).reshape(height, width)
    flat = whole.T.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    counts = ([0] if flat[0] else []) + np.diff(edges).tolist()
    segmentation = {"size": list(whole.shape), "counts": counts}
    return {
        "bbox": [left, top, width, height],
        "area": int(whole.sum()),
        "segmentation": segmentation,
    }
