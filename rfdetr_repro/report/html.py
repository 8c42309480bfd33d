"""Writes a document as one self-contained HTML page by the templates in ``templates/``."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader

from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.tables.format import Column, Table

from .blocks import Block, Document, Drawing, Explorer, Grid, Heading, Picture

_SOURCES = Path(__file__).with_name("explorer")
_SCRIPTS = ("data.js", "chart.js", "explorer.js", "page.js")


@dataclass(frozen=True)
class _Rows:
    """A table as its template reads it: groups with their spans, and rows with their sections."""

    table: Table
    groups: list[tuple[str, int]]
    lines: list[tuple[str, list[tuple[Column, str]]]]


@dataclass(frozen=True)
class _Explored:
    """The explorer as its template reads it: the Records as JSON, and the static picture."""

    data: str  # JSON that may stand in a script element
    static: Drawing | None


def write_html(document: Document, path: str | Path) -> Path:
    """Writes the document to ``path``, whole or not at all, and returns it."""
    path = Path(path)
    anchors = document.anchors()
    parts = [
        (type(block).__name__, _readable(block), anchors.get(id(block), ""))
        for block in document.blocks
    ]
    headings = [
        (block.text, anchors[id(block)]) for block in document.blocks if isinstance(block, Heading)
    ]
    template = _environment().get_template("report.html")
    script = _script()
    page = template.render(
        document=document,
        parts=parts,
        headings=headings,
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_atomic(path, f"{page}\n")
    return path


def _readable(block: Block) -> Any:
    """A block as its template reads it."""
    if isinstance(block, Grid):
        return _rows(block.table)
    if isinstance(block, Explorer):
        return _Explored(block.json(), block.static)
    return block


def _script() -> str:
    """The program of the page, in a scope of its own."""
    sources = [_SOURCES.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return "\n".join(["(() => {", '"use strict";', *sources, "})();", ""])


def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("rfdetr_repro.report"),
                PackageLoader("rfdetr_repro.report", "explorer"),
            ]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["png"] = _png
    return environment


def _shown(value: Any) -> Any:
    """Text as a page may hold it: without control characters and halves of letters."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(
        letter
        for letter in value
        if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs")
    )


def _png(block: Block) -> str:
    """The picture of a block as an address that holds its bytes."""
    assert isinstance(block, Drawing | Picture)
    content = block.png if isinstance(block, Drawing) else block.path.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _rows(table: Table) -> _Rows:
    groups = [
        (group, len(list(run)))
        for group, run in groupby(table.columns, key=lambda column: column.group)
    ]
    lines = []
    before = ""
    for row, section in zip(table.rows, table.sections, strict=True):
        cells = list(zip(table.columns, table.line(row), strict=True))
        lines.append((section if section != before else "", cells))
        before = section
    return _Rows(table, groups if any(group for group, _ in groups) else [], lines)
