"""Finds the layout of a data set, and reads a split of it as COCO JSON. ``docs/data.md`` lists the
layouts.

A layout that names its splits has priority. A folder that names no splits (as labelling tools
export it) is *undivided*: it is read as whatever split is requested, and counts as having a train
split only, so that nothing is validated on training data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rfdetr_repro.data.image_files import short
from rfdetr_repro.data.source import SPLITS, DataSource, ExplicitSplit
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input, parse_json, read_input

from .cvat import cvat_as_coco, subset_of
from .datumaro import datumaro_as_coco, is_datumaro
from .voc import VocFolders, voc_as_coco
from .yolo import documents_of, find_yaml, names_of_file, names_split, pictures_below, yolo_as_coco

# Names under annotations/ (or in the folder itself), S being the split: names of COCO and CVAT, of
# LVIS, of Objects365, and plain names.
_IN_ANNOTATIONS = (
    "instances_{}",
    "instances_{}2017",
    "lvis_v1_{}",
    "lvis_v0.5_{}",
    "zhiyuan_objv2_{}",
    "objects365_{}",
    "{}",
)
# A JSON file and the folder of its images, in a folder that is one split: Roboflow, FiftyOne, Label
# Studio, CVAT, and plain names.
_SINGLE = (
    ("_annotations.coco.json", "."),
    ("labels.json", "data"),
    ("result.json", "images"),
    ("annotations/instances_default.json", "images/default"),
    ("annotations/instances_default.json", "images"),
    ("annotations/default.json", "images/default"),
    ("annotations/default.json", "images"),
    ("annotations.json", "images"),
    ("annotations.json", "data"),
    ("annotations.json", "."),
    ("annotations/annotations.json", "images"),
    ("instances.json", "images"),
    ("labels.json", "images"),
    ("labels.json", "."),
)


@dataclass(frozen=True)
class Found:
    """Where a split is. ``kind``: coco, yolo, labels (YOLO without a data file), voc or cvat."""

    kind: str
    path: Path  # annotation file or folder; named in messages
    folders: tuple[Path, ...]  # of the images
    undivided: bool = False
    listed: Path | None = None  # VOC: the list of the split's images
    others: tuple[Path, ...] = ()  # VOC: the same folder of other splits
    missing: Path | None = None  # a folder of images that is missing
    subset: str | None = None  # CVAT: the subset that is the split; None: all images of the file


@dataclass(frozen=True)
class Content:
    """A split as COCO JSON. ``dropped``: number of rows that the reader left out, by kind."""

    text: bytes
    folders: tuple[Path, ...]
    turned: bool  # where the JSON states no sizes, sizes are those that viewers show
    dropped: dict[str, int] = field(default_factory=dict)
    without_label_file: int = 0


def locate(source: DataSource, split: str) -> Found:
    """Where the split is. Raises :class:`InputError`, which names the expected files, where there
    is no such split.
    """
    if source.explicit:
        if (named := source.split(split)) is None:
            raise InputError(
                f"no annotation file of the {split} split",
                source.root,
                f"name the file with --annotations-{split} FILE",
            )
        file = replace(_explicit(named), undivided=False)
        if file.kind == "cvat" and (subset := subset_of(file.path, _names(split))) is not None:
            own = _existing(*(folder / subset for folder in file.folders))
            file = replace(file, folders=(*own, *file.folders), subset=subset)
        return file
    root = source.root
    if _is_file(root):
        return _file(root)
    if not _is_dir(root):
        raise InputError(
            "no such data folder", short(root), "give a folder in a format of docs/data.md"
        )
    if (found := next(_divided(root, split), None)) is not None:
        if found.missing is not None:
            raise InputError(
                f"the images of split {split!r} are missing",
                found.missing,
                "put the images into this folder",
            )
        return found
    others = [
        name for name in SPLITS if name != split and next(_divided(root, name), None) is not None
    ]
    if not others and (found := next(_undivided(root), None)) is not None:
        return found
    has = (
        f"; it has the split{'s' if len(others) > 1 else ''} {', '.join(others)}" if others else ""
    )
    if (described := find_yaml(root)) is not None:
        raise InputError(
            f"no split {split!r}", described, f"add an entry {split}: to this YOLO data file{has}"
        )
    folder = "valid" if split == "val" else split
    expected = (
        f"it must hold annotations/instances_{split}.json and {split}/, or "
        f"{folder}/_annotations.coco.json"
    )
    raise InputError(
        f"no COCO split {split!r}",
        root,
        f"{expected}, or data.yaml (YOLO), or another form of docs/data.md{has}",
    )


def is_there(source: DataSource, split: str) -> bool:
    """Whether the split exists, usable or broken. An undivided folder has a train split only."""
    if source.explicit:
        return source.split(split) is not None
    if _is_file(source.root) and find_yaml(source.root) is not None:
        return names_split(source.root, split)
    if not _is_dir(source.root):
        return _is_file(source.root) and split == "train"
    if next(_divided(source.root, split), None) is not None:
        return True
    return split == "train" and next(_undivided(source.root), None) is not None


def load(found: Found, split: str, drop_bad: bool) -> Content:
    """The split as COCO JSON; annotations in another format are converted. Raises
    :class:`InputError` for annotations that cannot be used.
    """
    if found.kind == "yolo":
        read = yolo_as_coco(found.path, split, drop_bad)
        return Content(read.content, (read.folder,), True, read.dropped, read.without_label_file)
    if found.kind == "labels":
        names = _class_list(found.path)
        images = sorted(path for folder in found.folders for path in pictures_below(folder))
        if not images:
            raise InputError("no images", found.folders[0], "put images into this folder")
        read = documents_of(images, names, found.path.parent, 0, drop_bad)
        return Content(read.content, (read.folder,), True, read.dropped, read.without_label_file)
    if found.kind == "voc":
        text, dropped = voc_as_coco(
            VocFolders(found.path, found.folders, found.listed, found.others), drop_bad
        )
        return Content(text, found.folders, True, dropped)
    if found.kind == "cvat":
        text, dropped = cvat_as_coco(found.path, found.subset, drop_bad)
        return Content(text, found.folders, True, dropped)
    text = _json_text(found.path)
    return (
        _from_datumaro(text, found) if b'"items"' in text else Content(text, found.folders, False)
    )


def _json_text(path: Path) -> bytes:
    """The bytes of a JSON file; for a file that does not begin like JSON, which may be of any size,
    only the beginning.
    """
    with open_input(path) as stream:
        head = stream.read(1 << 16)
        if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
            return head
        stream.seek(0)
        try:
            return stream.read()
        except MemoryError as error:
            raise InputError(
                "the annotation file does not fit into memory", path, "divide the data set"
            ) from error


def _from_datumaro(text: bytes, found: Found) -> Content:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return Content(text, found.folders, False)  # the reader of COCO reports what is wrong
    if not is_datumaro(document):
        return Content(text, found.folders, False)
    try:
        parse_json(text)
    except ValueError as error:
        raise InputError(
            f"not usable JSON ({error})", found.path, "export the data again"
        ) from error
    converted, dropped = datumaro_as_coco(document)
    return Content(json.dumps(converted).encode(), found.folders, False, dropped)


def _names(split: str) -> tuple[str, ...]:
    return ("val", "valid", "validation") if split == "val" else (split,)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _existing(*folders: Path) -> tuple[Path, ...]:
    return tuple(folder for folder in folders if _is_dir(folder))


def _divided(root: Path, split: str) -> Iterator[Found]:
    """Places of a split in layouts that name their splits, the likeliest first."""
    for name in _names(split):
        for pattern in _IN_ANNOTATIONS:
            for path in (
                root / "annotations" / f"{pattern.format(name)}.json",
                root / f"{pattern.format(name)}.json",
            ):
                if path.is_file():
                    folders = _coco_folders(root, name)
                    anywhere = len(folders) > 1 or bool(
                        _existing(root / "train2017", root / "val2017")
                    )
                    yield Found("coco", path, folders, missing=None if anywhere else root / name)
    for name in _names(split):
        yield from _single(root / name, undivided=False)
    if (described := find_yaml(root)) is not None and names_split(described, split):
        yield Found("yolo", described, (root,))
    for name in _names(split):
        yield from _voc(root, name)
    xml = root / "annotations.xml"
    if _is_cvat(xml) and (subset := subset_of(xml, _names(split))) is not None:
        folders = (*_existing(root / "images" / subset, root / "images"), root)
        yield Found("cvat", xml, folders, subset=subset)


def _coco_folders(root: Path, name: str) -> tuple[Path, ...]:
    """Folders that the file names may start from, with the set's own folder last (LVIS names images
    of two splits).
    """
    names = (name, f"{name}2017", f"images/{name}", f"images/{name}2017", "images", "data")
    return (*_existing(*(root / candidate for candidate in names)), root)


def _single(folder: Path, undivided: bool) -> Iterator[Found]:
    """A folder that is one split."""
    for name, images in _SINGLE:
        if (folder / name).is_file() and (folder / images).is_dir():
            yield Found("coco", folder / name, (folder / images, folder), undivided)
    if (folder / "classes.txt").is_file() and (folder / "images").is_dir():
        yield Found("labels", folder / "classes.txt", (folder / "images",), undivided)
    for place in ("Annotations", "annotations", "."):
        if (
            _is_dir(folder / place)
            and any((folder / place).glob("*.xml"))
            and not (folder / "annotations.xml").is_file()
        ):
            pictures = _existing(folder / "JPEGImages", folder / "images", folder)
            siblings = [
                folder.parent / name / place
                for split in SPLITS
                for name in _names(split)
                if name != folder.name
            ]
            yield Found(
                "voc",
                folder / place,
                pictures,
                undivided,
                others=() if undivided else _existing(*siblings),
            )
    if _is_cvat(folder / "annotations.xml"):
        pictures = _existing(folder / "images", folder)
        yield Found("cvat", folder / "annotations.xml", pictures, undivided)


def _undivided(root: Path) -> Iterator[Found]:
    yield from _single(root, undivided=True)
    if (described := find_yaml(root)) is not None and (root / "images").is_dir():
        yield Found("labels", described, (root / "images",), undivided=True)


def _voc(root: Path, name: str) -> Iterator[Found]:
    """The folders of the VOC devkit, in ``root`` or in VOCdevkit/VOC2007 and the like, with a list
    of the split's images.
    """
    for folder in (
        root,
        *sorted(root.glob("VOC[0-9]*")),
        *sorted(root.glob("VOCdevkit/VOC[0-9]*")),
    ):
        listed = folder / "ImageSets" / "Main" / f"{name}.txt"
        if os.path.lexists(listed) and not _is_file(listed):
            raise InputError(
                "the list of images is a broken link, or not a file",
                listed,
                "correct or remove it",
            )
        if listed.is_file() and (folder / "Annotations").is_dir():
            yield Found(
                "voc",
                folder / "Annotations",
                _existing(folder / "JPEGImages", folder / "images", folder),
                listed=listed,
            )


def _is_cvat(path: Path) -> bool:
    """Whether this is CVAT's own XML."""
    if not _is_file(path):
        return False
    with open_input(path) as stream:
        return b"<annotations" in stream.read(1024)


def _file(path: Path) -> Found:
    """A file given as the data set: data.yaml, or the annotation file of an undivided data set."""
    if find_yaml(path) is not None:
        return Found("yolo", path, (path.parent,))
    return _explicit(ExplicitSplit(path))


def _explicit(named: ExplicitSplit) -> Found:
    """A split whose annotation file (or folder of VOC files) and images are named explicitly."""
    path = named.annotations
    images = named.images
    if images is not None and not _is_dir(images):
        raise InputError("no such folder of images", short(images), "check the path")
    folder = path.parent
    folders: tuple[Path, ...]
    if images is not None:
        folders = (images,)
    else:
        folders = (
            *_existing(folder / "images", folder / "data", folder.parent / "images"),
            folder,
            folder.parent,
        )
    if _is_dir(path):
        if not any(path.glob("*.xml")):
            raise InputError(
                "a folder without XML files",
                path,
                "name an annotation file, or a folder of Pascal VOC files",
            )
        return Found(
            "voc",
            path,
            (images,)
            if images
            else _existing(path.parent / "JPEGImages", path.parent / "images", path),
            True,
        )
    if not _is_file(path):
        raise InputError("no such annotation file", short(path), "check the path")
    if path.suffix.lower() in (".yaml", ".yml"):
        return Found("yolo", path, (folder,))
    if path.suffix.lower() == ".xml":
        return Found("cvat", path, folders, True)
    return Found("coco", path, folders, True)


def _class_list(path: Path) -> dict[int, str]:
    """Names in a ``classes.txt``, one per line, or in a data file."""
    if path.suffix != ".txt":
        return names_of_file(path)
    lines = read_input(path, 4 << 20).decode("utf-8-sig", "replace").splitlines()
    names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    if not names:
        raise InputError("no class names", path, "write one name per line")
    return names
