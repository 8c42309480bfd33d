"""Writes a document as a PDF on A4 pages: text that can be searched and copied, an outline, links,
tables whose head is repeated on each page, and drawings as vectors.

Lengths are points (1/72 inch). The same document gives the same bytes.
"""

from __future__ import annotations

import html
import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fpdf import FPDF
from fpdf.outline import OutlineSection
from fpdf.svg import SVGObject
from PIL import Image

from rfdetr_repro.plots.style import (
    BLACK,
    BLUE,
    GREY,
    LIGHT,
    WIDTH_IN,
    drawable,
    figure_bytes,
    shortened,
)
from rfdetr_repro.spec.files import atomic_path

from .blocks import (
    Block,
    Bullets,
    Document,
    Drawing,
    Explorer,
    Facts,
    Grid,
    Heading,
    Paragraph,
    Picture,
    Title,
)
from .pages import FONT, LEADING, MARGIN, Pages
from .pdf_table import draw_table, least_height

SMALLEST = 0.84  # of its height that a drawing may have to stay on a page
MOST_IN_PARAGRAPH = 24  # headings; more are a list with the numbers of their pages
KEPT_TOGETHER = 4  # facts at the end of a list that a page break does not part
NO_DATE = datetime(1980, 1, 1, tzinfo=timezone.utc)  # of a run that tells no date


class _Drawing(SVGObject):
    """A drawing of matplotlib's: its groups are clipped, which fpdf2 does for paths alone."""

    def build_group(self, group: Any, *args: Any, **kwargs: Any) -> Any:
        built: Any = super().build_group(group, *args, **kwargs)
        self.apply_clipping_path(built, group, None)
        return built


def _title(pages: Pages, block: Title) -> None:
    pages.y += 8
    pages.write_lines(block.text, 21, "B")
    pages.y += 3
    if block.subtitle:
        pages.write_lines(block.subtitle, 10.5, color=GREY)
    pages.y += 8
    pages.rule(pages.epw, BLUE, 1.6)
    pages.y += 12


def _contents(pages: Pages, headings: Sequence[tuple[str, int]]) -> None:
    """The headings, each a link to its page: few in one paragraph, many in a list with the numbers
    of their pages.
    """
    if len(headings) > MOST_IN_PARAGRAPH:
        pages.insert_toc_placeholder(_listed_contents, pages=1, allow_extra_pages=True)
        return
    pages.set_font(FONT, size=8.0)
    between = "  ·  "
    for text, link in headings:
        width = pages.get_string_width(text)
        if pages.x > pages.l_margin:
            if pages.x + pages.get_string_width(between) + width > pages.w - pages.r_margin:
                pages.ln(12)
            else:
                pages.color(GREY)
                pages.cell(pages.get_string_width(between), 12, between)
        pages.color(BLUE)
        pages.cell(width, 12, text, link=link)
    pages.ln(20)


def _listed_contents(pages: FPDF, outline: list[OutlineSection]) -> None:
    """One line for each heading of the document: its name, a thin line, its page."""
    entries = [entry for entry in outline if entry.level == 0]
    pages.set_font(FONT, "B", 12.5)
    pages.set_text_color(BLUE)
    pages.set_x(pages.l_margin)
    pages.cell(pages.epw, 24, "Contents", new_x="LMARGIN", new_y="NEXT")
    number_width = 26.0
    for entry in entries:
        link = pages.add_link(page=entry.page_number)
        pages.set_font(FONT, size=8.6)
        pages.set_text_color(BLACK)
        name = _fitted(pages, entry.name, pages.epw - number_width - 6)
        width = pages.get_string_width(name)
        pages.cell(width, 14.6, name, link=link)
        pages.set_draw_color(LIGHT)
        pages.set_line_width(0.6)
        middle = pages.y + 10.4
        pages.line(pages.x + 6, middle, pages.l_margin + pages.epw - number_width, middle)
        pages.set_x(pages.l_margin + pages.epw - number_width)
        number = str(entry.page_number)
        pages.cell(number_width, 14.6, number, align="R", link=link, new_x="LMARGIN", new_y="NEXT")


def _fitted(pages: FPDF, text: str, width: float) -> str:
    while text and pages.get_string_width(text) > width:
        text = f"{text[: int(0.95 * len(text)) - 1]}…"
    return text


def _heading(pages: Pages, block: Heading) -> None:
    pages.y += 0 if pages.fresh else 12
    pages.start_section(drawable(block.text))
    pages.write_lines(block.text, 12.5, "B", BLUE)
    pages.y += 4


def _paragraph(pages: Pages, block: Paragraph) -> None:
    pages.write_lines(
        block.text,
        8.0 if block.quiet else 9.2,
        "B" if block.strong else "",
        GREY if block.quiet else BLACK,
    )
    pages.y += 6


def _bullets(pages: Pages, block: Bullets) -> None:
    for item in block.items:
        pages.need(min(pages.height_of(item, 9.0, pages.epw - 12), 5 * 13.1))
        pages.set_font(FONT, size=9.0)
        pages.color(BLUE)
        pages.cell(12, 9.0 * LEADING, "•")
        with _indented(pages, 12):
            pages.write_lines(item, 9.0)
    pages.y += 6


def _facts(pages: Pages, block: Facts) -> None:
    if not block.pairs:
        return
    pages.set_font(FONT, size=9.0)
    names = [shortened(drawable(name), 80) for name, _ in block.pairs]
    column = min(0.45 * pages.epw, 14 + max(map(pages.get_string_width, names)))
    heights = [
        max(
            pages.height_of(name, 9.0, column - 10),
            min(pages.height_of(value, 9.0, pages.epw - column), 5 * 13.1),
        )
        for name, (_, value) in zip(names, block.pairs, strict=True)
    ]
    together = max(0, len(names) - KEPT_TOGETHER)
    for place, (name, (_, value)) in enumerate(zip(names, block.pairs, strict=True)):
        pages.need(sum(heights[place:]) if place == together else heights[place])
        page, top = pages.page, pages.y
        margin = pages.r_margin
        pages.set_right_margin(pages.w - pages.l_margin - column + 10)
        pages.write_lines(name, 9.0, color=GREY)
        pages.set_right_margin(margin)
        bottom = pages.y
        pages.set_xy(pages.l_margin, top)
        with _indented(pages, column):
            pages.write_lines(value, 9.0)
        if pages.page == page:
            pages.y = max(pages.y, bottom)
    pages.y += 6


@contextmanager
def _indented(pages: Pages, by: float) -> Iterator[None]:
    pages.set_left_margin(MARGIN + by)
    pages.set_x(MARGIN + by)
    try:
        yield
    finally:
        pages.set_left_margin(MARGIN)
        pages.set_x(MARGIN)


def _grid(pages: Pages, block: Grid) -> None:
    draw_table(pages, block.table, block.short)


def _drawing_height(pages: Pages, block: Drawing) -> float:
    """Height of a drawing: its own, or a little less where that keeps it on this page."""
    height = min(block.height_in * 72, pages.page_break_trigger - MARGIN)
    return pages.left if SMALLEST * height <= pages.left < height else height


def _drawing(pages: Pages, block: Drawing) -> None:
    height = _drawing_height(pages, block)
    pages.need(height)
    scale = height / (block.height_in * 72)
    width = scale * WIDTH_IN * 72
    if block.crowded:
        pages.image(io.BytesIO(block.png), MARGIN, pages.y, width, height, alt_text=block.alt)
    else:
        _Drawing(_svg(pages, block, scale)).draw_to_page(pages, MARGIN, pages.y)
    pages.y += height + 6


def _explorer(pages: Pages, block: Explorer) -> None:
    if block.static is not None:
        _drawing(pages, block.static)


def _svg(pages: Pages, block: Drawing, scale: float) -> str:
    """The drawing as fpdf2 reads it: in points; text in rare letters as outlines."""
    svg = _scaled(block.svg.decode(), scale)
    words = "".join(re.findall(r"<text[^>]*>([^<]*)", svg))
    if not pages.plain(html.unescape(words)):
        outlines = figure_bytes(block.figure, ".svg", dpi=72, outlines=True)
        return _scaled(outlines.decode(), scale)
    svg = re.sub(r"font-size: ([0-9.]+)px", r"font-size: \1pt", svg)
    return re.sub(r"font-family: [^;\"]+", f"font-family: '{FONT}'", svg)


def _scaled(svg: str, scale: float) -> str:
    """The drawing in another size: the first two lengths are those of the whole."""
    return re.sub(
        r'(width|height)="([0-9.]+)pt"',
        lambda found: f'{found[1]}="{scale * float(found[2]):g}pt"',
        svg,
        count=2,
    )


def _picture_size(pages: Pages, block: Picture) -> tuple[float, float]:
    with Image.open(block.path) as image:
        width, height = image.size
    scale = min(pages.epw / width, 0.55 * pages.h / height)
    return width * scale, height * scale


def _picture(pages: Pages, block: Picture) -> None:
    width, height = _picture_size(pages, block)
    pages.need(_least(pages, block))
    pages.image(block.path, MARGIN, pages.y, width, height, alt_text=block.caption or "picture")
    pages.y += height + 3
    if block.caption:
        pages.write_lines(block.caption, 8.0, color=GREY)
    pages.y += 8


_WRITERS: dict[type, Callable[..., None]] = {
    Title: _title,
    Heading: _heading,
    Paragraph: _paragraph,
    Bullets: _bullets,
    Facts: _facts,
    Grid: _grid,
    Drawing: _drawing,
    Picture: _picture,
    Explorer: _explorer,
}


def _least(pages: Pages, block: Block | None) -> float:
    """Height of what of a block must be on one page, with its caption or below its heading."""
    if isinstance(block, Explorer):
        return 0.0 if block.static is None else _drawing_height(pages, block.static)
    if isinstance(block, Drawing):
        return _drawing_height(pages, block)
    if isinstance(block, Picture):
        caption = pages.height_of(block.caption, 8.0, pages.epw) if block.caption else 0.0
        return _picture_size(pages, block)[1] + 3 + min(caption, 0.3 * pages.h)
    if isinstance(block, Grid):
        return least_height(block.table)
    return 40.0


def _least_below(pages: Pages, following: Sequence[Block]) -> float:
    """Height of what must stand on the same page as a heading: the next block, and after a
    paragraph the block that the paragraph is about.
    """
    height = _least(pages, following[0]) if following else 40.0
    if len(following) > 1 and isinstance(following[0], Paragraph):
        height += _least(pages, following[1])
    return height


def write_pdf(document: Document, path: str | Path) -> Path:
    """Writes the document to ``path``, whole or not at all, and returns it."""
    path = Path(path)
    pages = Pages(document.footer)
    pages.set_title(drawable(document.title))
    pages.set_lang("en")
    pages.set_creator("rfdetr_repro")
    pages.set_producer("fpdf2")
    pages.set_creation_date(document.date or NO_DATE)
    headings = [block for block in document.blocks if isinstance(block, Heading)]
    links = {id(block): pages.add_link() for block in headings}
    with _quiet():
        for number, block in enumerate(document.blocks):
            if isinstance(block, Heading):
                if block.new_page and not pages.fresh:
                    pages.add_page()
                pages.need(40 + _least_below(pages, document.blocks[number + 1 : number + 3]))
                pages.set_link(links[id(block)], y=pages.y, page=pages.page)
            _WRITERS[type(block)](pages, block)
            if isinstance(block, Title):
                _contents(pages, [(drawable(each.text), links[id(each)]) for each in headings])
    with _quiet(), atomic_path(path) as temporary:
        pages.output(str(temporary))
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the words of fpdf2 and fontTools on what of a drawing or a font they leave out."""
    loggers = [logging.getLogger(name) for name in ("fpdf", "fontTools")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
