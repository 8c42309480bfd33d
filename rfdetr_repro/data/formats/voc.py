"""Pascal VOC XML (one file per image) as a COCO document.

Coordinates are read as the VOC devkit defines them: whole pixels counted from 1, including the
last, so a box extends from ``xmin - 1`` to ``xmax``. Objects marked as difficult count like any
other. Class names are sorted and numbered from 1, over all files of the data set, not only those of
the split.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_repro.data.annotations import HINT
from rfdetr_repro.data.image_files import MOST_LIST_BYTES, SUFFIXES, ImageFinder, short
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_input

from .xml_file import Element, numbers_of, read_xml

_BAD_OBJECT = "XML object without a name or a box of numbers"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocFolders:
    """Where a split's files are.

    ``listed``: the ImageSets file that names its images; None: every XML file belongs to the split.
    """

    annotations: Path
    images: tuple[Path, ...]
    listed: Path | None = None
    named_in: tuple[Path, ...] = ()  # folders of the other splits, whose class names count too


def voc_as_coco(folders: VocFolders, drop_bad: bool = False) -> tuple[bytes, dict[str, int]]:
    """COCO JSON as UTF-8, and the number of rows left out by kind. File names start from the first
    folder of images.

    Raises :class:`InputError` for a listed image without an XML file, and for a malformed object;
    with ``drop_bad`` malformed objects are left out and counted.
    """
    files = _xml_files(folders.annotations)
    wanted = _listed(folders.listed) if folders.listed else {path.stem: None for path in files}
    known = {path.stem: path for path in files}
    if absent := sorted(set(wanted) - set(known)):
        what = (
            f"{len(absent)} of {len(wanted)} listed images have no XML file, first "
            f"{short(absent[0])}"
        )
        raise InputError(
            what, folders.annotations, "add the file, or remove the name from the list"
        )
    finder = ImageFinder(folders.images)
    dropped = dict[str, int]()
    read = {stem: read_xml(path, "annotation") for stem, path in known.items()}
    others = (
        read_xml(path, "annotation") for folder in folders.named_in for path in _xml_files(folder)
    )
    names = sorted(
        {
            _text(entry, "name")
            for root in (*read.values(), *others)
            for entry in root.findall("object")
        }
        - {""}
    )
    if not names:
        raise InputError(
            "no XML file has an object with a name", folders.annotations, "label the images"
        )
    number = {name: index for index, name in enumerate(names, 1)}
    document: dict[str, Any] = {"images": [], "annotations": []}
    document["categories"] = [{"id": id_, "name": name} for name, id_ in number.items()]
    for image_id, stem in enumerate(sorted(wanted), 1):
        document["images"].append({"id": image_id, **_image(read[stem], known[stem], finder)})
        for place, entry in enumerate(read[stem].findall("object"), 1):
            try:
                category_id = number[_name(entry, known[stem], place)]
                row = {"category_id": category_id, **_shape(entry, known[stem], place)}
            except InputError:
                if not drop_bad:
                    raise
                dropped[_BAD_OBJECT] = dropped.get(_BAD_OBJECT, 0) + 1
                continue
            document["annotations"].append(
                {"id": len(document["annotations"]) + 1, "image_id": image_id, "iscrowd": 0, **row}
            )
    return json.dumps(document).encode(), dropped


def _xml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.xml") if not path.name.startswith("._"))


def _listed(path: Path) -> dict[str, None]:
    """Names of a file of ImageSets/Main: the first word of each line, once."""
    lines = read_input(path, MOST_LIST_BYTES).decode("utf-8-sig", "replace").splitlines()
    return {line.split()[0]: None for line in lines if line.strip()}


def _text(entry: Element, name: str) -> str:
    return (entry.findtext(name) or "").strip()


def _name(entry: Element, path: Path, place: int) -> str:
    if not (name := _text(entry, "name")):
        raise InputError(f"object {place} has no name", path, HINT)
    return name


def _image(root: Element, path: Path, finder: ImageFinder) -> dict[str, Any]:
    """File name and, where stated, size.

    Some tools leave the suffix out or write a wrong suffix: then the stem decides.
    """
    stated = _text(root, "filename") or _text(root, "path") or path.stem
    candidates = [stated, *(path.stem + suffix for suffix in sorted(SUFFIXES))]
    found = next((hit for name in candidates if (hit := finder.find(name))), None)
    entry: dict[str, Any] = {
        "file_name": os.path.relpath(found, finder.folders[0]) if found else stated
    }
    sides = [_text(root, f"size/{side}") for side in ("width", "height")]
    if all(side.isascii() and side.isdigit() and 0 < int(side[:9]) for side in sides):
        entry |= {"width": int(sides[0][:9]), "height": int(sides[1][:9])}
    return entry


def _shape(entry: Element, path: Path, place: int) -> dict[str, Any]:
    """[x, y, width, height] in px from 0, and the polygon if the object has a polygon (x1, y1, x2,
    y2, ...; Roboflow, supervision).
    """
    if (box := entry.find("bndbox")) is None:
        raise InputError(f"object {place} has no bndbox", path, HINT)
    left, top, right, bottom = numbers_of(
        [_text(box, side) for side in _SIDES], path, f"object {place}"
    )
    row: dict[str, Any] = {"bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1]}
    if (polygon := entry.find("polygon")) is not None:
        texts = [
            polygon.findtext(f"{axis}{number}")
            for number in range(1, len(polygon) // 2 + 1)
            for axis in ("x", "y")
        ]
        row["segmentation"] = [[value - 1 for value in numbers_of(texts, path, f"object {place}")]]
    return row
