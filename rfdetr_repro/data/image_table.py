"""The images of a COCO file: each is found on the disk with its size; none is decoded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfdetr_repro.spec.errors import InputError

from .coco_document import ImageKey, image_key, whole
from .decoding import LARGEST_SIDE, read_header
from .image_files import ImageFinder, short

MOST_PIXELS = 2**31 - 1  # run lengths of masks are 32-bit numbers
_SAME_ID = "images whose id another image has"


@dataclass(frozen=True)
class ImageInfo:
    """An image of a split."""

    id: ImageKey
    path: Path
    width: int  # px, as the JSON states; checked when the file is decoded
    height: int


@dataclass(frozen=True)
class ImageTable:
    """Images of a split in the file's order, with counts of what was found."""

    images: tuple[ImageInfo, ...]
    sizes_from_files: int = 0  # the file states no width and height
    repeated_entries: int = 0  # entries that repeat the id and file of another
    same_file: int = 0  # entries whose picture another entry names under another id
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_ids: frozenset[ImageKey] = frozenset()


def parse_images(
    entries: list[dict[str, Any]],
    path: Path,
    folders: Sequence[Path],
    *,
    drop_bad: bool = False,
    turned: bool = False,
) -> ImageTable:
    """All images, in the file's order. Each file must exist; folders are listed once.

    Headers are read only where the JSON states no size, and with ``drop_bad``. ``turned`` takes the
    size that viewers show (EXIF) where none is stated. Raises :class:`InputError` for a bad entry,
    or with ``drop_bad`` leaves the entry out and counts it.
    """
    finder = ImageFinder(folders)
    reader = _ImageReader(path, turned, open_all=drop_bad)
    images: dict[ImageKey, ImageInfo] = {}
    repeated = 0
    faults = []
    dropped_ids = set()
    # two images with one id: annotations may belong to either, so both are bad
    ambiguous: set[ImageKey] = set()
    for number, entry in enumerate(entries):
        fault, info = reader.read(number, entry, finder)
        if info is None:
            faults.append(fault)
            dropped_ids.add(image_key(entry.get("id")))
        elif info.id not in images:
            images[info.id] = info
        elif images[info.id].path == info.path:
            repeated += 1
        else:
            what = f"image id {short(info.id)} occurs 2 times"
            faults.append((_SAME_ID, what, path, "ids must be unique: give each image its own id"))
            ambiguous.add(info.id)
    if faults and not drop_bad:
        kind, what, where, hint = faults[0]
        others = f"; {len(faults)} of {len(entries)} images are bad" if len(faults) > 1 else ""
        raise InputError(what, where, f"{hint}, or add --drop-bad to leave the image out{others}")
    for key in ambiguous:
        del images[key]
        faults.append((_SAME_ID, "", path, ""))
        dropped_ids.add(key)
    if not images:
        hint = (
            f"all {len(faults)} are bad: {faults[0][1]}" if faults else "give a split with images"
        )
        raise InputError("no images", path, hint)
    counts: dict[str, int] = {}
    for kind, *_ in faults:
        counts[kind] = counts.get(kind, 0) + 1
    found = tuple(images.values())
    ids = frozenset(key for key in dropped_ids if key is not None and key not in images)
    same_file = len(found) - len({info.path for info in found})
    return ImageTable(found, reader.sizes_from_files, repeated, same_file, counts, ids)


class _ImageReader:
    """Turns entries of ``images`` into :class:`ImageInfo`; counts sizes that come from the
    files.
    """

    def __init__(self, path: Path, turned: bool, open_all: bool) -> None:
        self.path = path
        self.turned = turned
        self.open_all = open_all  # to find and leave out pictures that cannot be decoded
        self.sizes_from_files = 0

    def read(
        self, number: int, entry: dict[str, Any], finder: ImageFinder
    ) -> tuple[Any, ImageInfo | None]:
        """((kind, what, where, hint), None) for a bad entry, else (None, its ImageInfo)."""
        key = image_key(entry.get("id"))
        name = next(
            (
                entry[word]
                for word in ("file_name", "coco_url", "path")
                if isinstance(entry.get(word), str)
            ),
            None,
        )
        sides = [entry.get("width"), entry.get("height")]
        if (
            key is None
            or not name
            or any(side is not None and whole(side) is None for side in sides)
        ):
            what = f"images[{number}] needs id, file_name, width and height ({short(entry)})"
            return ("images that are malformed", what, self.path, "add what is missing"), None
        width, height = (None if side is None else whole(side) for side in sides)
        if width is not None and height is not None and not _possible(width, height):
            what = f"image id {short(key)} has size {short(width)} x {short(height)}"
            return ("images of an impossible size", what, self.path, "write its real size"), None
        found = finder.find(name)
        if found is None:
            hint = finder.hint(name)
            where = f"{finder.folders[0]}/{short(name)}"
            hint = (
                f"{hint}; rename one of the two"
                if hint
                else "add the file, or remove the image from the JSON"
            )
            return (
                "images whose file is missing",
                f"image file missing (image id {short(key)})",
                where,
                hint,
            ), None
        if width is None or height is None or self.open_all:
            try:
                header = read_header(found)
            except InputError as error:
                return ("images that cannot be decoded", str(error), "", "replace the file"), None
            if width is None or height is None:
                width, height = header.shown_wh if self.turned else header.stored_wh
                self.sizes_from_files += 1
            elif (width, height) not in (header.stored_wh, header.shown_wh):
                what = f"image id {short(key)} is not {width} x {height} as stated"
                return (
                    "images of another size than stated",
                    what,
                    found,
                    "write its real size",
                ), None
        return None, ImageInfo(key, found, width, height)


def _possible(width: int, height: int) -> bool:
    """Whether this can be the size of a picture."""
    longest = max(width, height)
    return min(width, height) >= 1 and longest <= LARGEST_SIDE and width * height <= MOST_PIXELS
