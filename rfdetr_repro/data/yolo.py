"""A split in YOLO form (``data.yaml`` and one text file of labels per image) as a COCO document, which then is read as any other.

A line is ``class cx cy w h`` (a box) or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon), in parts of the image. Class ids are kept as
category ids. Polygons stay polygons: masks are rasterised one sample at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ..errors import InputError
from ..files import open_input

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_yaml(root: Path) -> Path | None:
    """``data.yaml`` or ``data.yml`` of a YOLO folder, or None."""
    return next((path for name in ("data.yaml", "data.yml") if (path := root / name).is_file()), None)


def yolo_as_coco(path: Path, split: str) -> tuple[bytes, Path]:
    """(COCO JSON of one split as UTF-8, the folder of its file names). Raises :class:`InputError` naming file and line."""
    described = _read_yaml(path)
    names = described.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) for key in names):
        raise InputError("no class names", path, "names must be a list, or a map from class id to name")
    root = path.parent
    document: dict[str, Any] = {"info": {"name": root.resolve().name}, "images": [], "annotations": []}
    document["categories"] = [{"id": id_, "name": str(name)} for id_, name in sorted(names.items())]
    for image_id, image in enumerate(_images(described, path, split)):
        width, height = _size(image)
        file_name = str(image.relative_to(root)) if image.is_relative_to(root) else str(image)
        document["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for row in _labels(_label_file(image), names, width, height):
            document["annotations"].append({"id": len(document["annotations"]) + 1, "image_id": image_id, "iscrowd": 0, **row})
    return json.dumps(document).encode(), root


def _read_yaml(path: Path) -> dict[str, Any]:
    with open_input(path) as stream:
        try:
            described = yaml.safe_load(stream)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"not YAML ({str(error).splitlines()[0]})", path, "write the file again") from error
    if not isinstance(described, dict):
        raise InputError("not a YOLO data file", path, "it needs names, train and val")
    return described


def names_split(path: Path, split: str) -> bool:
    """Whether ``data.yaml`` has an entry for the split."""
    return _entry(_read_yaml(path), split) is not None


def _entry(described: dict[str, Any], split: str) -> Any:
    keys = ("val", "valid", "validation") if split == "val" else (split,)
    return next((described[key] for key in keys if described.get(key)), None)


def _images(described: dict[str, Any], path: Path, split: str) -> list[Path]:
    """Image files of a split, sorted; the entry is a folder, a text file of paths, or a list of either."""
    entry = _entry(described, split)
    if entry is None:
        raise InputError(f"no split {split!r}", path, f"add an entry {split}:")
    images: list[Path] = []
    for item in entry if isinstance(entry, list) else [entry]:
        where = _resolve(str(item), described, path)
        if where.is_dir():
            images += [file for file in where.rglob("*") if file.suffix.lower() in SUFFIXES]
        else:
            with open_input(where) as stream:
                listed = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines()]
            images += [_resolve(line, described, path) for line in listed if line]
    if not images:
        raise InputError(f"no images in split {split!r}", path, "check its path")
    return sorted(images)


def _resolve(item: str, described: dict[str, Any], path: Path) -> Path:
    """An entry of the file as a path; Roboflow's exports begin with ``../`` although the folder lies beside the file."""
    base = path.parent / str(described.get("path") or "")
    candidates = [base / item, path.parent / item, path.parent / item.removeprefix("../")]
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is None:
        raise InputError(f"{item} does not exist", path, "check the paths in the file")
    return found


def _size(path: Path) -> tuple[int, int]:
    """(width, height) from the header."""
    with open_input(path) as stream:
        try:
            with Image.open(stream) as picture:
                return picture.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"cannot decode the image: {error}", path, "replace the file") from error


def _label_file(image: Path) -> Path:
    """``.../images/a/b.jpg`` -> ``.../labels/a/b.txt``; beside the image where no folder is called images."""
    parts = list(image.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _labels(path: Path, names: dict[int, str], width: int, height: int) -> list[dict[str, Any]]:
    """Annotations of one image, without ids; none if the file is absent."""
    if not path.is_file():
        return []
    rows = []
    with open_input(path) as stream:
        lines = stream.read().decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = [float(word) for word in line.split()]
            class_id = int(values[0])
        except (ValueError, OverflowError) as error:
            raise InputError(f"a label with a word that is no number: {line.strip()[:40]!r}", where, "mend the line") from error
        if class_id != values[0] or class_id not in names:
            raise InputError(f"class id {values[0]:g} has no name", where, f"ids go from {min(names)} to {max(names)}")
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            what = f"a label with {len(values)} numbers"
            raise InputError(what, where, "a box has 5 (class cx cy w h), a polygon an odd number from 7 on")
        rows.append({"category_id": class_id, **_shape(values[1:], width, height)})
    return rows


def _shape(values: list[float], width: int, height: int) -> dict[str, Any]:
    if len(values) == 4:
        cx, cy, w, h = values
        return {"bbox": [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]}
    points = np.array(values).reshape(-1, 2) * (width, height)
    low, high = points.min(0), points.max(0)
    return {"bbox": [*low.tolist(), *(high - low).tolist()], "segmentation": [points.flatten().tolist()]}
