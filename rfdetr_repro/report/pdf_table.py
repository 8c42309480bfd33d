"""Tables on PDF pages: column widths from measured text, smaller type before wrapping, the head
repeated on every page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from rfdetr_repro.plots.style import BLACK, GREY, LIGHT
from rfdetr_repro.tables.format import Column, Table

from .pages import Pages

Width = Callable[[str, float, str], float]
Wrap = Callable[..., list[str]]
_GAP = 0.5  # free space at each side of a cell, in type sizes
SIZES = (8.0, 7.5, 7.0, 6.5, 6.0, 5.6)


def draw_table(pages: Pages, table: Table, width_pt: float, measure: Width, wrap: Wrap) -> None:
    """Title, head, rows and notes at the cursor.

    A table that does not fit at the smallest size is cut between groups of columns; what then still
    does not fit is wrapped.
    """
    pieces = parts(table, width_pt, measure)
    if len(pieces) > 1:
        for piece in pieces:
            draw_table(pages, piece, width_pt, measure, wrap)
        return
    size, widths = fit(table, width_pt, measure)
    sheet = _Sheet(pages, table, size, widths, measure, wrap)
    pages.need(110)
    pages.lines(wrap(table.title, width_pt, 8.6, "bold"), 8.6, weight="bold")
    pages.y_pt += 3
    sheet.head()
    before = ""
    for row, section in zip(table.rows, table.sections, strict=True):
        if section and section != before:
            sheet.section(section)
        before = section
        sheet.row(table.line(row))
    pages.rule(0, sum(widths), GREY)
    pages.y_pt += 4
    for note in table.notes:
        pages.lines(wrap(note, width_pt, 7.0), 7.0, color=GREY)
    pages.y_pt += 8


def parts(table: Table, width_pt: float, measure: Width) -> list[Table]:
    """The table itself where it fits; else tables of as many of its column groups as fit, each with
    the leading columns.
    """
    widths = [_natural(table, index, SIZES[-1], measure) for index in range(len(table.columns))]
    if sum(widths) <= width_pt:
        return [table]
    runs = [
        [index for index, _ in run]
        for _, run in groupby(enumerate(table.columns), key=lambda item: item[1].group)
    ]
    lead = runs[0] if runs and not table.columns[runs[0][0]].group else []
    rest = runs[1:] if lead else runs
    chosen: list[list[int]] = []
    for run in rest:
        if chosen and sum(widths[index] for index in [*lead, *chosen[-1], *run]) <= width_pt:
            chosen[-1] = [*chosen[-1], *run]
        else:
            chosen.append(list(run))
    if len(chosen) < 2:
        return [table]
    pieces = []
    for number, own in enumerate(chosen):
        title = table.title if number == 0 else f"{table.title}, continued"
        notes = table.notes if number == len(chosen) - 1 else []
        columns = [table.columns[index] for index in [*lead, *own]]
        pieces.append(Table(table.name, title, columns, table.rows, table.sections, notes))
    return pieces


def fit(table: Table, width_pt: float, measure: Width) -> tuple[float, list[float]]:
    """The largest type size at which the table fits and its column widths; at the smallest, the
    widest text columns give way.
    """
    for size in SIZES:
        widths = [_natural(table, index, size, measure) for index in range(len(table.columns))]
        if sum(widths) <= width_pt:
            return size, widths
    excess = sum(widths) - width_pt
    widest = max(range(len(widths)), key=widths.__getitem__)
    widths[widest] = max(40.0, widths[widest] - excess)
    return size, widths


def _natural(table: Table, index: int, size: float, measure: Width) -> float:
    """Width of a column: its widest cell or the longest word of its label, and padding."""
    column = table.columns[index]
    texts = [table.line(row)[index] for row in table.rows]
    words = max((measure(word, size, "bold") for word in column.label.split()), default=0.0)
    neighbours = sum(other.group == column.group for other in table.columns)
    group = measure(column.group, size, "bold") / neighbours if column.group else 0.0
    return max([words, group, *(measure(text, size, "normal") for text in texts)]) + 2 * _GAP * size


def _indent(index: int, size: float) -> float:
    """The first column stands flush with the text."""
    return _GAP * size if index else 0.0


class _Sheet:
    """The table being set: knows its columns' places and repeats its head after a page break."""

    def __init__(
        self,
        pages: Pages,
        table: Table,
        size: float,
        widths: Sequence[float],
        measure: Width,
        wrap: Wrap,
    ) -> None:
        self.pages = pages
        self.table = table
        self.size = size
        self.widths = widths
        self.measure = measure
        self.wrap = wrap
        self.starts = [sum(widths[:index]) for index in range(len(widths))]
        self.line_pt = 1.5 * size

    def _cell(self, index: int, text: str, weight: str = "normal", color: str = BLACK) -> None:
        right = self.table.columns[index].right
        x = self.starts[index] + (
            self.widths[index] - _GAP * self.size if right else _indent(index, self.size)
        )
        self.pages.text(x, text, self.size, weight, color, "right" if right else "left")

    def head(self) -> None:
        columns = self.table.columns
        self.pages.rule(0, sum(self.widths), GREY)
        self.pages.y_pt += 2
        if any(column.group for column in columns):
            self._groups(columns)
        labels = [
            self.wrap(column.label, self.widths[i] - 0.5 * self.size, self.size, "bold")
            for i, column in enumerate(columns)
        ]
        height = max(map(len, labels))
        for line in range(height):
            for index, label in enumerate(labels):
                place = line - (height - len(label))  # labels sit on the rule below them
                self._cell(index, label[place] if place >= 0 else "", "bold")
            self.pages.y_pt += 1.25 * self.size
        self.pages.y_pt += 3
        self.pages.rule(0, sum(self.widths), GREY)
        self.pages.y_pt += 2

    def _groups(self, columns: Sequence[Column]) -> None:
        start = 0
        for index in range(1, len(columns) + 1):
            if index == len(columns) or columns[index].group != columns[start].group:
                if columns[start].group:
                    left = self.starts[start] + 0.4 * self.size
                    right = self.starts[index - 1] + self.widths[index - 1] - 0.4 * self.size
                    self.pages.text(
                        (left + right) / 2, columns[start].group, self.size, "bold", GREY, "center"
                    )
                    self.pages.y_pt += 1.4 * self.size
                    self.pages.rule(left, right - left, LIGHT, 0.8)
                    self.pages.y_pt -= 1.4 * self.size
                start = index
        self.pages.y_pt += 1.55 * self.size

    def _room(self, height_pt: float) -> None:
        if height_pt > self.pages.left_pt:
            self.pages.new_page()
            self.head()

    def section(self, text: str) -> None:
        self._room(2.4 * self.line_pt)
        self.pages.text(0, text, self.size, "bold", GREY)
        self.pages.y_pt += self.line_pt

    def row(self, texts: Sequence[str]) -> None:
        cells = [
            self.wrap(text, self.widths[i] - 0.4 * self.size, self.size) if text else [""]
            for i, text in enumerate(texts)
        ]
        height = max(map(len, cells))
        self._room(height * self.line_pt)
        for line in range(height):
            for index, cell in enumerate(cells):
                if line < len(cell) and cell[line]:
                    self._cell(index, cell[line])
            self.pages.y_pt += self.line_pt
