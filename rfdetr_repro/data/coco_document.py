"""A COCO file as JSON, parsed in one pass without the text of its segmentations; its ids and
classes.
"""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import DuplicateKeyError, without_duplicates
from rfdetr_repro.spec.ranges import is_text

from .image_files import short
from .segmentation import SPAN_KEY, cut_segmentations

ImageKey = int | str  # a whole number of any size, or text, as in the file


@dataclass(frozen=True)
class ClassMap:
    """Contiguous label (0..n-1) <-> category id and name.

    Taken from the train split and kept with the checkpoint.
    """

    category_ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.category_ids)


def parse_document(content: bytes, path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The COCO document without the text of its segmentations, and the spans of that text in
    ``content``, int64 (k, 2).

    Raises :class:`InputError` for anything that is not a COCO file.
    """
    slim, spans = cut_segmentations(content)
    try:
        try:
            document = json.loads(slim.decode("utf-8-sig"), object_pairs_hook=_entry)
        except ValueError:  # for the right line, column and key
            document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_entry)
            spans = spans[:0]
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path, "write the file again") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON ({error.msg})",
            f"{path}:{error.lineno}:{error.colno}",
            "write the file again",
        ) from error
    except RecursionError as error:
        raise InputError(
            "not a COCO file: it is nested too deeply", path, "export the data in COCO format"
        ) from error
    except DuplicateKeyError as error:
        raise InputError(f"not a COCO file: {error}", path, "keep one of the two values") from error
    except ValueError as error:  # a number of more than 4,300 digits
        raise InputError(
            "not a COCO file: it holds a number of thousands of digits",
            path,
            "write the file again",
        ) from error
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(
                f"not a COCO file: no list of objects {key!r}",
                path,
                "export the data in COCO format",
            )
    return document, spans


def _entry(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the document without duplicate keys; the text of a segmentation may be cut out
    under another key.
    """
    found = without_duplicates(pairs)
    if SPAN_KEY in found and "segmentation" in found:
        raise DuplicateKeyError("key 'segmentation' occurs twice")
    return found


def refuse_endless_numbers(document: dict[str, Any], path: Path) -> None:
    """Raises :class:`InputError` for NaN and infinite numbers, which JSON does not have, outside
    images and annotations, whose rows are checked by value.
    """
    for key, part in document.items():
        if key not in ("images", "annotations") and not _finite_numbers(part):
            what = f"not JSON: {short(repr(key))} has a NaN or an infinite number"
            raise InputError(what, path, "write null where a value is unknown")


def _finite_numbers(value: Any) -> bool:
    """Whether parsed JSON has neither NaN nor an infinite number."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return False
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return True


def parse_classes(document: dict[str, Any], path: Path, classes: ClassMap | None) -> ClassMap:
    """The file's own categories in order of id, or ``classes`` after a check that the file agrees.

    Roboflow adds a category that only names the project (supercategory "none", parent of the other
    categories, never used); this category is not a class. Raises :class:`InputError` for categories
    that are malformed or contradict ``classes``.
    """
    names: dict[int, str] = {}
    for entry in document["categories"]:
        number = category_key(entry.get("id"))
        name = entry.get("name")
        if number is None or isinstance(name, bool) or not isinstance(name, (str, int)):
            hint = 'a category needs a whole number as id (3, not "3"), and a name'
            raise InputError("a category without id or name", path, hint)
        if number in names:
            raise InputError("two categories share an id", path, "give each category its own id")
        names[number] = unicodedata.normalize("NFC", str(name))
        if not is_text(names[number]):
            what = f"category id {short(number)} has the name {short(repr(name))}"
            raise InputError(what, path, "write a name of printable characters")
    if classes is not None:
        for category_id, name in zip(classes.category_ids, classes.names, strict=True):
            if names.get(category_id, name) not in (name, unicodedata.normalize("NFC", name)):
                what = (
                    f"category id {category_id} is {short(repr(names[category_id]))} here but "
                    f"{name!r} in the train split"
                )
                raise InputError(what, path, "use the same ids")
        return classes
    parents = {str(entry.get("supercategory")) for entry in document["categories"]}
    unnamed = [
        entry
        for entry in document["categories"]
        if entry.get("supercategory") == "none" and str(entry["name"]) in parents
    ]
    placeholders = {whole(entry["id"]) for entry in unnamed}
    placeholders -= (
        {whole(entry.get("category_id")) for entry in document["annotations"]}
        if placeholders
        else set()
    )
    kept = sorted(set(names) - placeholders)
    if not kept:
        raise InputError("no categories", path, "export the data in COCO format")
    return ClassMap(tuple(kept), tuple(names[category_id] for category_id in kept))


def whole(value: object) -> int | None:
    """A whole number of any size from an int, an integral float, or decimal text; None for anything
    else, including a bool.
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if (
        isinstance(value, str)
        and len(value) < 100
        and value.isascii()
        and value.strip().removeprefix("-").isdigit()
    ):
        return int(value)
    return None


def category_key(value: object) -> int | None:
    """A category id from a whole number (an integral float counts); None for anything else,
    including text.
    """
    return None if isinstance(value, str) else whole(value)


def image_key(value: object) -> ImageKey | None:
    """An image id from a whole number (an integral float counts), or text, which is kept as it is;
    None for anything else.
    """
    if isinstance(value, str):
        return value or None
    return whole(value)
