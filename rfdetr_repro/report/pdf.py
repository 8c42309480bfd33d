"""Sets a document on A4 pages with matplotlib: text flow, wrapping by measured widths, tables,
vector drawings.

Lengths are points (1/72 inch) from the top left corner of the text area. The same document gives
the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.image import imread
from matplotlib.lines import Line2D

from rfdetr_repro.plots.style import BLACK, BLUE, GREY, LIGHT, style
from rfdetr_repro.spec.files import atomic_path

from .blocks import Bullets, Document, Drawing, Facts, Grid, Heading, Paragraph, Picture, Title
from .pages import BOTTOM_PT, MARGIN_PT, PAGE_IN, WIDTH_PT, Pages, text_width_pt, wrap
from .pdf_table import draw_table


def _title(pages: Pages, block: Title) -> None:
    pages.y_pt += 46
    pages.lines(wrap(block.text, WIDTH_PT, 21, "bold"), 21, weight="bold")
    pages.y_pt += 3
    if block.subtitle:
        pages.lines(wrap(block.subtitle, WIDTH_PT, 10.5), 10.5, color=GREY)
    pages.y_pt += 8
    pages.rule(0, WIDTH_PT, BLUE, 1.6)
    pages.y_pt += 18


def _heading(pages: Pages, block: Heading) -> None:
    if block.new_page and not pages.fresh:
        pages.new_page()
    pages.need(90)  # never a heading alone at the foot of a page
    pages.y_pt += 0 if pages.fresh else 12
    pages.lines(wrap(block.text, WIDTH_PT, 12.5, "bold"), 12.5, weight="bold", color=BLUE)
    pages.y_pt += 4


def _paragraph(pages: Pages, block: Paragraph) -> None:
    size = 8.0 if block.quiet else 9.2
    weight = "bold" if block.strong else "normal"
    pages.lines(
        wrap(block.text, WIDTH_PT, size, weight),
        size,
        weight=weight,
        color=GREY if block.quiet else BLACK,
    )
    pages.y_pt += 6


def _bullets(pages: Pages, block: Bullets) -> None:
    for item in block.items:
        lines = wrap(item, WIDTH_PT - 12, 9.0)
        pages.need(len(lines) * 13.1 if len(lines) < 6 else 13.1)
        pages.text(1, "•", 9.0, color=BLUE)
        pages.lines(lines, 9.0, x_pt=12)
    pages.y_pt += 6


def _facts(pages: Pages, block: Facts) -> None:
    if not block.pairs:
        return
    column = min(0.45 * WIDTH_PT, 14 + max(text_width_pt(name, 9.0) for name, _ in block.pairs))
    for name, value in block.pairs:
        names = wrap(name, column - 10, 9.0)
        values = wrap(value, WIDTH_PT - column, 9.0)
        pages.need(13.1 * max(len(names), len(values)))
        for index in range(max(len(names), len(values))):
            pages.need(13.1)
            pages.text(0, names[index] if index < len(names) else "", 9.0, color=GREY)
            pages.text(column, values[index] if index < len(values) else "", 9.0)
            pages.y_pt += 13.1
    pages.y_pt += 6


def _drawing(pages: Pages, block: Drawing) -> None:
    height_pt = min(block.height_in * 72, PAGE_IN[1] * 72 - MARGIN_PT - BOTTOM_PT)
    pages.need(height_pt)
    left, bottom, width, height = pages.area(height_pt)
    figure = pages.figures[-1]
    grid = figure.add_gridspec(
        3,
        3,
        left=0,
        right=1,
        bottom=0,
        top=1,
        wspace=0,
        hspace=0,
        width_ratios=(left, width, 1 - left - width),
        height_ratios=(1 - bottom - height, height, bottom),
    )
    block.draw(figure.add_subfigure(grid[1, 1]))
    pages.y_pt += height_pt + 6


def _picture(pages: Pages, block: Picture) -> None:
    pixels = imread(block.path)
    height_pt = min(WIDTH_PT * pixels.shape[0] / pixels.shape[1], 0.55 * PAGE_IN[1] * 72)
    width_pt = height_pt * pixels.shape[1] / pixels.shape[0]
    pages.need(height_pt + 18)
    axes = pages.figures[-1].add_axes(pages.area(height_pt, width_pt))
    axes.imshow(pixels, aspect="auto", interpolation="none")
    axes.axis("off")
    pages.y_pt += height_pt + 3
    if block.caption:
        pages.lines(wrap(block.caption, WIDTH_PT, 8.0), 8.0, color=GREY)
    pages.y_pt += 8


def _grid(pages: Pages, block: Grid) -> None:
    draw_table(pages, block.table, WIDTH_PT, text_width_pt, wrap)


_WRITERS: dict[type, Callable[..., None]] = {
    Title: _title,
    Heading: _heading,
    Paragraph: _paragraph,
    Bullets: _bullets,
    Facts: _facts,
    Grid: _grid,
    Drawing: _drawing,
    Picture: _picture,
}


def write_pdf(document: Document, path: str | Path) -> Path:
    """Writes the document to ``path``, whole or not at all, and returns it."""
    path = Path(path)
    metadata = {
        "Title": document.title,
        "Creator": "rfdetr_repro",
        "Producer": "matplotlib",
        "CreationDate": None,
    }
    with style(), atomic_path(path) as temporary:
        pages = Pages()
        for block, following in zip(document.blocks, [*document.blocks[1:], None], strict=True):
            # never a heading apart from its figure
            if isinstance(block, Heading) and isinstance(following, Drawing):
                pages.need(following.height_in * 72 + 48)
            _WRITERS[type(block)](pages, block)
        _footers(pages, document.footer)
        with PdfPages(temporary, metadata=metadata) as pdf:
            for figure in pages.figures:
                pdf.savefig(figure)
    return path


def _footers(pages: Pages, footer: str) -> None:
    page_pt = (PAGE_IN[0] * 72, PAGE_IN[1] * 72)
    for number, figure in enumerate(pages.figures, 1):
        y = 38 / page_pt[1]
        xs = [MARGIN_PT / page_pt[0], 1 - MARGIN_PT / page_pt[0]]
        figure.add_artist(Line2D(xs, [y + 13 / page_pt[1]] * 2, color=LIGHT, linewidth=0.8))
        figure.text(xs[0], y, _first_line(footer), fontsize=6.8, color=GREY)
        figure.text(
            xs[1], y, f"{number} / {len(pages.figures)}", fontsize=6.8, color=GREY, ha="right"
        )


def _first_line(footer: str) -> str:
    """What of the footer fits beside the page number."""
    first, *rest = wrap(footer, WIDTH_PT - 40, 6.8)
    return f"{first} …" if rest else first
