"""The same document as one self-contained HTML page; pictures are inlined."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable
from html import escape as escape_markup
from itertools import groupby
from pathlib import Path

from rfdetr_repro.plots.style import png_bytes
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.tables.format import Table

from .blocks import (
    Block,
    Bullets,
    Document,
    Drawing,
    Facts,
    Grid,
    Heading,
    Paragraph,
    Picture,
    Title,
)

_STYLE = """
body{font:15px/1.5 "DejaVu Sans",Verdana,sans-serif;color:#222;
max-width:60rem;margin:2rem auto;padding:0 1rem 4rem}
body{word-wrap:break-word;overflow-wrap:anywhere}
h1{font-size:1.9rem;margin:0 0 .2rem}h2{font-size:1.15rem;color:#0072B2;margin:2.2rem 0 .6rem}
.subtitle,.quiet,.notes,figcaption{color:#6f6f6f;font-size:.85rem}
.rule{border:0;border-top:3px solid #0072B2}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:.78rem;white-space:nowrap}
caption{text-align:left;font-weight:bold;padding-bottom:.3rem}
th,td{padding:.12rem .5rem;text-align:left}thead tr:last-child th{border-bottom:1px solid #6f6f6f}
td.r,th.r{text-align:right;font-variant-numeric:tabular-nums}
th.g{text-align:center;color:#6f6f6f;border-bottom:1px solid #e3e3e3}
td.s{color:#6f6f6f;font-weight:bold}tbody tr:last-child td{border-bottom:1px solid #6f6f6f}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1.2rem;margin:.4rem 0}
dt{color:#6f6f6f}
dd{margin:0;overflow-wrap:anywhere}
img{max-width:100%}figure{margin:1rem 0}
footer{position:fixed;left:0;right:0;bottom:0;background:#fff;border-top:1px solid #e3e3e3}
footer{color:#6f6f6f;font-size:.8rem;text-align:center}
"""


def escape(text: str) -> str:
    """Text as HTML shows it: no markup, no control characters, which no page may hold."""
    kept = (
        letter
        for letter in text
        if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs")
    )
    return escape_markup("".join(kept))


def _png(content: bytes, alt: str) -> str:
    return (
        f'<img alt="{escape(alt)}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
    )


def _table(table: Table) -> str:
    head = ""
    if any(column.group for column in table.columns):
        spans = [
            (group, len(list(run)))
            for group, run in groupby(table.columns, key=lambda column: column.group)
        ]
        head += (
            "<tr>"
            + "".join(
                f'<th class="g" colspan="{span}">{escape(group)}</th>' for group, span in spans
            )
            + "</tr>"
        )
    classes = ["r" if column.right else "l" for column in table.columns]
    labels = zip(classes, table.columns, strict=True)
    head += (
        "<tr>"
        + "".join(f'<th class="{c}">{escape(column.label)}</th>' for c, column in labels)
        + "</tr>"
    )
    body = ""
    before = ""
    for row, section in zip(table.rows, table.sections, strict=True):
        if section and section != before:
            body += f'<tr><td class="s" colspan="{len(classes)}">{escape(section)}</td></tr>'
        before = section
        cells = zip(classes, table.line(row), strict=True)
        body += (
            "<tr>"
            + "".join(f'<td class="{c}" dir="auto">{escape(text)}</td>' for c, text in cells)
            + "</tr>\n"
        )
    notes = "".join(f"<div>{escape(note)}</div>" for note in table.notes)
    inner = f"<caption>{escape(table.title)}</caption><thead>{head}</thead><tbody>\n{body}</tbody>"
    return f'<div class="table"><table>{inner}</table></div><div class="notes">{notes}</div>'


def _title(block: Title) -> str:
    return (
        f'<h1 dir="auto">{escape(block.text)}</h1><div '
        f'class="subtitle">{escape(block.subtitle)}</div><hr class="rule">'
    )


def _paragraph(block: Paragraph) -> str:
    text = f"<strong>{escape(block.text)}</strong>" if block.strong else escape(block.text)
    return f'<p class="quiet">{text}</p>' if block.quiet else f"<p>{text}</p>"


def _drawing(block: Drawing) -> str:
    return f"<figure>{_png(png_bytes(block.draw, block.height_in, dpi=144), block.alt)}</figure>"


def _picture(block: Picture) -> str:
    image = _png(block.path.read_bytes(), block.caption or block.path.stem)
    return f'<figure>{image}<figcaption dir="auto">{escape(block.caption)}</figcaption></figure>'


def _facts(block: Facts) -> str:
    pairs = (
        f'<dt dir="auto">{escape(name)}</dt><dd dir="auto">{escape(value)}</dd>'
        for name, value in block.pairs
    )
    return f"<dl>{''.join(pairs)}</dl>"


_WRITERS: dict[type, Callable[..., str]] = {
    Title: _title,
    Heading: lambda block: f"<h2>{escape(block.text)}</h2>",
    Paragraph: _paragraph,
    Bullets: lambda block: (
        "<ul>" + "".join(f'<li dir="auto">{escape(item)}</li>' for item in block.items) + "</ul>"
    ),
    Facts: _facts,
    Grid: lambda block: _table(block.table),
    Drawing: _drawing,
    Picture: _picture,
}


def _block(block: Block) -> str:
    return _WRITERS[type(block)](block)


def write_html(document: Document, path: str | Path) -> Path:
    """Writes the document to ``path``, whole or not at all, and returns it."""
    path = Path(path)
    body = "\n".join(map(_block, document.blocks))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<head>{meta}<title>{escape(document.title)}</title><style>{_STYLE}</style></head>"
    page = (
        f'<!doctype html>\n<html lang="en">{head}<body>\n{body}\n'
        f"<footer>{escape(document.footer)}</footer>\n</body></html>\n"
    )
    write_atomic(path, page)
    return path
