"""A split in YOLO format (``data.yaml`` and one text file of labels per image) as a COCO document,
which is then read like any other.

A line is ``class cx cy w h`` (a box) or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon), in fractions
of the image as viewers show it (EXIF rotation applied). With ``kpt_shape`` in the file a line is a
box followed by key points, of which only the box is read. Class ids are kept as category ids.
Polygons stay polygons: masks are rasterised one sample at a time.

The entries of a split are folders or text files of image paths. A path is searched below ``path:``
(relative to the file, or absolute), in the folder of the file and, in a list, in the folder of the
list. Without entries the usual folders are searched (supervision writes such files). Labels are
where ``images`` in the path becomes ``labels``, or in the folder of the image.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.data.annotations import HINT
from rfdetr_repro.data.decoding import read_header
from rfdetr_repro.data.image_files import MOST_LIST_BYTES, ImageFinder, is_picture, short
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input, read_input

from .yaml_file import MOST_BYTES, given, read_text_yaml

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")
MOST_FILES = 20_000_000  # a folder with more entries is not a data set, but a whole disk
MOST_LABEL_BYTES = 64 << 20  # of one image
_VAL_KEYS = ("val", "valid", "validation")  # keys and folders of the val split
# fraction of the image by which a coordinate may lie outside, because annotation tools round
_BEYOND = 0.01


def find_yaml(root: Path) -> Path | None:
    """The YOLO data file of a folder, or ``root`` itself if it is a data file, or None."""
    if root.is_file():
        return root if root.suffix.lower() in (".yaml", ".yml", ".data") else None
    return next((path for name in YAML_NAMES if (path := root / name).is_file()), None)


@dataclass(frozen=True)
class YoloSplit:
    """A split as COCO JSON: ``content`` in UTF-8, the folder that its file names start from, and
    the number of rows left out by kind.
    """

    content: bytes
    folder: Path
    dropped: dict[str, int]
    without_label_file: int


def yolo_as_coco(path: Path, split: str, drop_bad: bool = False) -> YoloSplit:
    """One split of the data file at ``path``. Raises :class:`InputError`, which names file and
    line.
    """
    described = _read(path)
    return documents_of(
        _images(described, path, split),
        _names(described, path),
        path.parent,
        _key_points(described, path),
        drop_bad,
    )


def documents_of(
    images: list[Path], names: dict[int, str], root: Path, key_points: int, drop_bad: bool
) -> YoloSplit:
    """``images`` with their label files as a COCO document. ``key_points``: numbers after each box,
    0 for lines of boxes and polygons.
    """
    reader = _LabelReader(names, key_points, drop_bad)
    document: dict[str, Any] = {
        "info": {"name": root.resolve().name},
        "images": [],
        "annotations": [],
    }
    document["categories"] = [{"id": id_, "name": name} for id_, name in sorted(names.items())]
    absent = 0
    for image_id, image in enumerate(images):
        try:
            width, height = read_header(image).shown_wh
        except InputError:
            if not drop_bad:
                raise
            reader.drop("image that cannot be decoded")
            continue
        file_name = os.path.relpath(image, root)
        document["images"].append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
        )
        label_file = _label_file(image)
        if label_file is None:
            absent += 1
            continue
        for row in reader.rows(label_file, width, height):
            document["annotations"].append(
                {"id": len(document["annotations"]) + 1, "image_id": image_id, "iscrowd": 0, **row}
            )
    if absent == len(images):
        expected = " or ".join(str(place) for place in _label_places(images[0])[:2])
        raise InputError(
            f"no label file found for any of {len(images)} images",
            expected,
            "put the label files into this folder",
        )
    return YoloSplit(json.dumps(document).encode(), root, reader.dropped, absent)


def _refuse_odd_paths(described: dict[str, Any], path: Path) -> None:
    """Raises :class:`InputError` for paths that are something else, of any split."""
    for key in ("path", "train", *_VAL_KEYS, "test"):
        value = described.get(key)
        listed = value if isinstance(value, list) and key != "path" else [value]
        usable = all(isinstance(item, str) and "\0" not in item for item in listed)
        if given(value) and not usable:
            hint = "write a folder, or for a split a file or a list"
            raise InputError(f"{key}: {short(value)} is not a path", path, hint)


def names_split(path: Path, split: str) -> bool:
    """Whether ``data.yaml`` has an entry for the split, or a usual folder of the split exists."""
    described = _read(path)
    return _entry(described, split) is not None or bool(_usual_folders(described, path, split))


def _read(path: Path) -> dict[str, Any]:
    """The data file as a mapping: YAML, or darknet's ``key = value`` lines (obj.data; CVAT's "YOLO
    1.1") with a file of names.
    """
    if path.suffix.lower() != ".data":
        described = read_text_yaml(path)
        _refuse_odd_paths(described, path)
        return described
    described = _darknet_pairs(path)
    named = ImageFinder([path.parent]).find(described.get("names", "obj.names"))
    if named is None:
        raise InputError(
            "the file of class names is missing",
            path,
            "write names = obj.names with the path of the file",
        )
    names = read_input(named, MOST_BYTES).decode("utf-8-sig", "replace").splitlines()
    listed = {
        key: described[key] for key in ("train", "val", "valid", "test") if described.get(key)
    }
    return {**listed, "names": [name.strip() for name in names if name.strip()]}


def _darknet_pairs(path: Path) -> dict[str, str]:
    """The ``key = value`` lines of darknet's data file; any other content is an
    :class:`InputError`.
    """
    with open_input(path) as stream:
        content = stream.read(1 << 20)
    pairs = {}
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", path, "write key = value lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]+", key.strip()):
            raise InputError(
                f"line {number} is not key = value: {short(line)}", path, "write names = obj.names"
            )
        pairs[key.strip()] = value.strip()
    if not pairs:
        raise InputError("the file is empty", path, "write train, val and names as key = value")
    return pairs


def names_of_file(path: Path) -> dict[int, str]:
    """Class id -> name, from a data file."""
    return _names(_read(path), path)


def _names(described: dict[str, Any], path: Path) -> dict[int, str]:
    names: Any = described.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    keys = list(names) if isinstance(names, dict) else []
    if not keys or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in keys):
        raise InputError(
            "no class names", path, "names must be a list, or a map from class id to name"
        )
    if wrong := [short(name) for name in names.values() if not isinstance(name, str)]:
        raise InputError(
            f"a class name that is not a text: {wrong[0]}",
            path,
            "write a name, in quotes if it contains punctuation",
        )
    numbers = [int(key) for key in keys]
    if len(set(numbers)) != len(numbers):
        raise InputError("two class names share an id", path, "give each class its own id")
    found = {number: names[key] for number, key in zip(numbers, keys, strict=True)}
    count = described.get("nc")
    if given(count):
        if not isinstance(count, str) or not count.isascii() or not count.strip().isdigit():
            raise InputError(
                f"nc: {short(count)} is not a number",
                path,
                "leave nc out, or write the number of names",
            )
        if int(count[:9]) != len(found):
            raise InputError(
                f"nc states {short(count)} classes, but there are {len(found)} names",
                path,
                "correct nc or the names",
            )
    return found


def _key_points(described: dict[str, Any], path: Path) -> int:
    """Numbers that follow a box in each line: points times values of ``kpt_shape``, 0 without
    it.
    """
    shape: Any = described.get("kpt_shape")
    if not given(shape):
        return 0
    try:
        points, values = (int(value) for value in shape)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"kpt_shape: {short(shape)} is not a pair", path, "write [points, values per point]"
        ) from error
    if not 0 < points <= 10_000 or values not in (2, 3):
        raise InputError(
            f"kpt_shape: {short(shape)}",
            path,
            "values per point are 2 (x, y) or 3 (with visibility)",
        )
    return points * values


def _entry(described: dict[str, Any], split: str) -> Any:
    keys = _VAL_KEYS if split == "val" else (split,)
    return next((described[key] for key in keys if given(described.get(key))), None)


def _images(described: dict[str, Any], path: Path, split: str) -> list[Path]:
    """Image files of a split, sorted, each once; the entry is a folder, a text file of paths, or a
    list of either.
    """
    entry = _entry(described, split)
    items = (
        _usual_folders(described, path, split)
        if entry is None
        else entry
        if isinstance(entry, list)
        else [entry]
    )
    if not items:
        raise InputError(f"no split {split!r}", path, f"add an entry {split}:")
    images: set[Path] = set()
    for item in items:
        where = _resolve(item, described, path)
        images.update(pictures_below(where) if where.is_dir() else _listed(where, described, path))
    if not images:
        raise InputError(f"no images in split {split!r}", path, "check the path of the split")
    return sorted(images)


def _usual_folders(described: dict[str, Any], path: Path, split: str) -> list[str]:
    """For a data file that names no split at all: train/images, images/train or the like, for this
    split.
    """
    if any(_entry(described, name) is not None for name in ("train", "val", "test")):
        return []
    names = _VAL_KEYS if split == "val" else (split,)
    places = [place for name in names for place in (f"{name}/images", f"images/{name}")]
    return [place for place in places if (path.parent / place).is_dir()][:1]


def pictures_below(folder: Path) -> Iterator[Path]:
    """Paths of the pictures in ``folder`` and below. Raises :class:`InputError` for a whole disk, a
    folder of the system, and a folder with more than MOST_FILES files.
    """
    if folder.resolve() == Path(folder.resolve().anchor):
        raise InputError("a whole disk is not a data set", folder, "name the folder of the images")
    seen = 0
    for parent, _, names in os.walk(folder):
        seen += len(names)
        # a disk in memory
        of_system = parent.startswith(("/proc/", "/sys/", "/dev/")) and not parent.startswith(
            "/dev/shm/"
        )
        if seen > MOST_FILES or of_system:
            raise InputError(
                "this folder is not a data set", folder, "name the folder of the images"
            )
        for name in names:
            if is_picture(name) and "__MACOSX" not in parent:
                yield Path(parent, name)


def _listed(where: Path, described: dict[str, Any], path: Path) -> Iterator[Path]:
    """The images that a text file names, one per line."""
    if not where.is_file():
        raise InputError(
            "neither a folder nor a file", short(where), "check the paths in the data file"
        )
    try:
        lines = read_input(where, MOST_LIST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where, "write the list again") from error
    bases = [where.parent, *_bases(described, path)]
    finder = ImageFinder(bases)
    for number, line in enumerate(lines, 1):
        if not (item := line.strip()) or item.startswith("#"):
            continue
        found = finder.find(item.replace("\\", "/")) if "\\" in item else finder.find(item)
        if found is None:
            hint = finder.hint(item)
            raise InputError(
                f"{short(item)} does not exist",
                f"{where}:{number}",
                hint or "check the paths in the list",
            )
        yield Path(os.path.normpath(found))


def _bases(described: dict[str, Any], path: Path) -> list[Path]:
    base = described.get("path")
    return (
        [path.parent / base, path.parent]
        if isinstance(base, str) and given(base)
        else [path.parent]
    )


def _resolve(item: str, described: dict[str, Any], path: Path) -> Path:
    """An entry of the file as a path. Roboflow's exports begin with ``../`` although the folder is
    next to the file.
    """
    text = item.replace("\\", "/")
    if (
        path.suffix.lower() == ".data"
        and (found := ImageFinder([path.parent]).find(text)) is not None
    ):
        return found  # darknet's paths start from a folder that does not exist here
    candidates = [base / text for base in _bases(described, path)] + [
        path.parent / text.removeprefix("../")
    ]
    for candidate in candidates:
        try:
            if candidate.exists():
                return candidate
        except OSError:  # a name that is too long
            break
        except ValueError:  # a zero byte
            break
    raise InputError(f"{short(item)} does not exist", path, "check the paths in the file")


def _label_places(image: Path) -> list[Path]:
    """Possible paths of the label file: ``.../images/a/b.jpg`` -> ``.../labels/a/b.txt``, or in the
    folder of the image.
    """
    places = []
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.append(Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt"))
    return [*places, image.with_suffix(".txt")]


def _label_file(image: Path) -> Path | None:
    """The label file of an image, or None. Raises :class:`InputError` for a broken link, and for
    anything that is not a file.
    """
    places = _label_places(image)
    if not image.name.isascii():
        forms = [
            unicodedata.normalize(form, place.name) for place in places for form in ("NFC", "NFD")
        ]
        places += [place.with_name(form) for place in _label_places(image) for form in forms]
    for place in places:
        if place.is_file():
            return place
        if os.path.lexists(place):
            raise InputError(
                "the label file is a broken link, or not a file",
                place,
                "correct or remove it",
            )
    return None


@dataclass
class _LabelReader:
    """Reads label files; counts the lines that it drops."""

    names: dict[int, str]
    key_points: int
    drop_bad: bool

    def __post_init__(self) -> None:
        self.dropped: dict[str, int] = {}

    def drop(self, kind: str) -> None:
        self.dropped[kind] = self.dropped.get(kind, 0) + 1

    def rows(self, path: Path, width: int, height: int) -> Iterator[dict[str, Any]]:
        """Annotations of one image, without ids."""
        with open_input(path) as stream:
            content = stream.read(MOST_LABEL_BYTES + 1)
        if len(content) > MOST_LABEL_BYTES:
            raise InputError(
                f"a label file of more than {MOST_LABEL_BYTES >> 20} MB",
                path,
                "give one line per object",
            )
        for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
            if not line.strip():
                continue
            fault, row = self._row(line, width, height)
            if row is not None:
                yield row
            elif not self.drop_bad:
                raise InputError(fault[0], f"{path}:{number}", f"{fault[1]}; {HINT}")
            else:
                self.drop(f"label line with {fault[2]}")

    def _row(
        self, line: str, width: int, height: int
    ) -> tuple[tuple[str, str, str], dict[str, Any] | None]:
        """((what, hint, kind), None) for a bad line, else its annotation."""
        nothing = ("", "", "")
        try:
            # Python reads 1_0 and the digits of other scripts as numbers
            if "_" in line or not line.isascii():
                raise ValueError
            values = [float(word) for word in line.split()]
            class_id = int(values[0])
        except (ValueError, OverflowError):
            what = f"a label with a word that is not a number: {line.strip()[:40]!r}"
            return (what, "correct the line", "a word that is not a number"), None
        if class_id != values[0] or class_id not in self.names:
            known = f"ids range from {min(self.names)} to {max(self.names)}"
            return (
                f"class id {values[0]:g} has no name",
                known,
                "a class id that has no name",
            ), None
        if not all(math.isfinite(value) for value in values):
            return (
                "a label with a number that is not finite",
                "correct the line",
                "a number that is not finite",
            ), None
        if self.key_points:
            if len(values) not in (5, 5 + self.key_points):
                wanted = (
                    f"kpt_shape needs 5 numbers (class cx cy w h) and {self.key_points} of key "
                    f"points"
                )
                return (
                    f"a label with {len(values)} numbers",
                    wanted,
                    "a wrong number of values",
                ), None
            values = values[:5]
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            wanted = "a box has 5 (class cx cy w h), a polygon an odd number from 7 on"
            return (f"a label with {len(values)} numbers", wanted, "a wrong number of values"), None
        if min(values[1:]) < -_BEYOND or max(values[1:]) > 1 + _BEYOND:
            hint = "write fractions of the image (pixels divided by its width and height)"
            return (
                f"a label with a coordinate outside 0..1: {line.strip()[:40]!r}",
                hint,
                "a coordinate outside 0..1",
            ), None
        return nothing, {"category_id": class_id, **_shape(values[1:], width, height)}


def _shape(values: list[float], width: int, height: int) -> dict[str, Any]:
    if len(values) == 4:
        cx, cy, w, h = values
        return {"bbox": [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]}
    points = np.array(values).reshape(-1, 2) * (width, height)
    low = points.min(0)
    high = points.max(0)
    return {
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "segmentation": [points.flatten().tolist()],
    }
