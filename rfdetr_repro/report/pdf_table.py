"""Tables on PDF pages: column widths from measured text, smaller type before wrapping, and a head
that is repeated on every page.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from fpdf.enums import TableBordersLayout, TableBorderStyle, TableCellStyle
from fpdf.fonts import FontFace

from rfdetr_repro.plots.style import BLACK, GREY, LIGHT, drawable, rgb, shortened
from rfdetr_repro.tables.format import Table

from .pages import Pages

GAP = 0.5  # free space at each side of a cell, in type sizes
SIZES = (8.0, 7.5, 7.0, 6.5, 6.0, 5.6)
LETTER = 0.65  # width of a letter in type sizes, rather too wide
MOST_LINES = 40  # of a cell
MOST_LETTERS = 400  # of a cell; the HTML page holds the whole text


def least_height(table: Table) -> float:
    """Height of the title, the head and the first rows, which are not set apart."""
    return 110.0 if len(table.rows) > 2 else 80.0


def draw_table(pages: Pages, table: Table, short: str = "") -> None:
    """Title, head, rows and notes at the cursor. ``short``: what a table without a title is called.

    A table that does not fit at the smallest size is cut between groups of columns; what then still
    does not fit is wrapped.
    """
    for piece in parts(table, pages.epw, natural_widths(pages, table), short):
        _draw_piece(pages, piece)


def natural_widths(pages: Pages, table: Table) -> list[float]:
    """Widths of the columns at a type size of one point: the widest cell or the longest word of the
    label, and padding.
    """
    lines = [list(map(_text, table.line(row))) for row in table.rows]
    pages.set_font(pages.font_family, "B", 10)
    heads = []
    for column in table.columns:
        words = [pages.get_string_width(word) for word in drawable(column.label).split()]
        neighbours = sum(other.group == column.group for other in table.columns)
        group = pages.get_string_width(drawable(column.group)) / neighbours
        heads.append(max([group, *words]))
    pages.set_font(pages.font_family, "", 10)
    cells = [dict.fromkeys(column) for column in zip(*lines, strict=True)] or [{}] * len(heads)
    widths = []
    for head, texts in zip(heads, cells, strict=True):
        with pages.script(*texts):
            widths.append(max([head, *map(pages.get_string_width, texts)]) / 10 + 2 * GAP + 0.05)
    return widths


def _text(text: str) -> str:
    return drawable(shortened(text, MOST_LETTERS))


def _in_column(text: str, width: float, size: float, lines: int) -> str:
    """The text, shortened so that its cell is no higher than about so many lines."""
    most = max(4, int(lines * (width - 2 * GAP * size) / (LETTER * size)))
    return drawable(shortened(text, min(most, MOST_LETTERS)))


def parts(table: Table, width: float, natural: Sequence[float], short: str = "") -> list[Table]:
    """The table itself where it fits; else tables of as many of its column groups as fit, each with
    the leading columns.

    ``natural`` holds the widths of the columns at one point.
    """
    widths = [SIZES[-1] * each for each in natural]
    if sum(widths) <= width:
        return [table]
    runs = [
        [index for index, _ in run]
        for _, run in groupby(enumerate(table.columns), key=lambda item: item[1].group)
    ]
    lead = runs[0] if runs and not table.columns[runs[0][0]].group else []
    rest = runs[1:] if lead else runs
    chosen: list[list[int]] = []
    for run in rest:
        if chosen and sum(widths[index] for index in [*lead, *chosen[-1], *run]) <= width:
            chosen[-1] = [*chosen[-1], *run]
        else:
            chosen.append(list(run))
    if len(chosen) < 2:
        return [table]
    pieces = []
    for number, own in enumerate(chosen):
        title = table.title if number == 0 else _continued(table.title or short)
        notes = table.notes if number == len(chosen) - 1 else []
        columns = [table.columns[index] for index in [*lead, *own]]
        pieces.append(Table(table.name, title, columns, table.rows, table.sections, notes))
    return pieces


def _continued(title: str) -> str:
    return f"{title}, continued" if title else "Continued"


def fit(natural: Sequence[float], width: float) -> tuple[float, list[float]]:
    """The largest type size at which the columns fit, and their widths; at the smallest, the widest
    columns give way.
    """
    for size in SIZES:
        widths = [size * each for each in natural]
        if sum(widths) <= width:
            return size, widths
    return size, _narrowed(widths, width)


def _narrowed(widths: Sequence[float], width: float) -> list[float]:
    """The widths, none above the one limit at which they fit."""
    low, high = 0.0, max(widths)
    while high - low > 0.01:
        limit = (low + high) / 2
        if sum(min(limit, each) for each in widths) <= width:
            low = limit
        else:
            high = limit
    return [min(low, each) for each in widths]


class _Rules(TableBordersLayout):
    """Lines above and below the head, below each group of columns, and below the last row."""

    def __init__(self, groups: Sequence[str]) -> None:
        self.groups = groups

    def cell_style_getter(
        self,
        row_idx: int,
        col_idx: int,
        col_pos: int,
        num_heading_rows: int,
        num_rows: int,
        num_col_idx: int,
        num_col_pos: int,
    ) -> TableCellStyle:
        line = TableBorderStyle(thickness=0.6, color=rgb(GREY))
        bottom: bool | TableBorderStyle = False
        if row_idx in (num_heading_rows - 1, num_rows - 1):
            bottom = line
        elif row_idx < num_heading_rows and self.groups[col_pos]:
            bottom = TableBorderStyle(thickness=0.8, color=rgb(LIGHT))
        return TableCellStyle(top=line if row_idx == 0 else False, bottom=bottom)


def _draw_piece(pages: Pages, table: Table) -> None:
    size, widths = fit(natural_widths(pages, table), pages.epw)
    pages.need(least_height(table))
    if table.title:
        pages.start_section(drawable(table.title), level=1, strict=False)
        pages.write_lines(table.title, 8.6, "B")
        pages.y += 3
    lines = [
        [_in_column(text, width, size, MOST_LINES) for text, width in zip(row, widths, strict=True)]
        for row in map(table.line, table.rows)
    ]
    heads = [
        _in_column(column.label, width, size, MOST_LINES // 2)
        for column, width in zip(table.columns, widths, strict=True)
    ]
    groups = [drawable(column.group) for column in table.columns]
    align = ["R" if column.right else "L" for column in table.columns]
    pages.set_font(pages.font_family, "", size)
    pages.color(BLACK)
    grouped = any(groups)
    pad = (0.16 * size, GAP * size, 0.04 * size, GAP * size)
    with (
        pages.script(*heads, *groups, *table.sections, *(text for line in lines for text in line)),
        pages.table(
            align="L",
            v_align="T",
            width=sum(widths),
            col_widths=widths,
            borders_layout=_Rules(groups),
            headings_style=FontFace(emphasis="B"),
            line_height=1.3 * size,
            padding=pad,
            text_align=align,
            num_heading_rows=2 if grouped else 1,
        ) as sheet,
    ):
        if grouped:
            row = sheet.row()
            for group, run in groupby(groups):
                row.cell(group, colspan=len(list(run)), align="C", style=FontFace(color=rgb(GREY)))
        sheet.row(heads, v_align="B")
        before = ""
        for line, section in zip(lines, table.sections, strict=True):
            if section and section != before:
                bold = FontFace(emphasis="B", color=rgb(GREY))
                sheet.row().cell(_text(section), colspan=len(widths), align="L", style=bold)
            before = section
            sheet.row(line)
    pages.y += 4
    for note in table.notes:
        pages.write_lines(note, 7.0, color=GREY)
    pages.y += 8
