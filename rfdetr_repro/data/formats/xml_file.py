"""XML of annotation tools, read without document types, whose entities may expand without limit or
read other files.
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input

MOST_BYTES = 1 << 30
Element = ElementTree.Element


def read_xml(path: Path, root: str) -> Element:
    """The root element, which must be called ``root``. Raises :class:`InputError` for anything
    else.
    """
    with open_input(path) as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(
            f"an XML file of more than {MOST_BYTES >> 30} GB", path, "export the data in parts"
        )
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content or b"\0" in content:
        raise InputError(
            "XML with a document type, or not UTF-8",
            path,
            "write the file again without a document type",
        )
    try:
        found = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"not XML ({error})", path, "write the file again") from error
    if found.tag != root:
        raise InputError(
            f"the XML's root is <{found.tag[:40]}>, not <{root}>", path, "export the data again"
        )
    return found


def numbers_of(texts: list[str | None], path: Path, where: str) -> list[float]:
    """Finite numbers of ``texts``. Raises :class:`InputError`, which names ``where`` in the file,
    for anything else.
    """
    try:
        values = [
            float(text if text and text.isascii() and "_" not in text else "none") for text in texts
        ]
    except ValueError as error:
        raise InputError(
            f"{where} has a coordinate that is not a number", path, "correct the file"
        ) from error
    if not all(math.isfinite(value) for value in values):
        raise InputError(f"{where} has a coordinate that is not finite", path, "correct the file")
    return values
