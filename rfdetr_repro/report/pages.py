"""A4 pages under construction: measured text, wrapping, and a cursor that moves down.

Lengths are points (1/72 inch) from the top left corner of the text area.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from rfdetr_repro.plots.style import BLACK, GREY, drawable, families

PAGE_IN = (8.27, 11.69)
MARGIN_PT = 56.0
WIDTH_PT = PAGE_IN[0] * 72 - 2 * MARGIN_PT
BOTTOM_PT = 64.0  # footer below


@functools.cache
def _advance(letter: str, weight: str) -> float:
    """Width of one letter in parts of the type size, measured large, where hinting does not
    round.
    """
    width, _, _ = RendererAgg(1, 1, 72).get_text_width_height_descent(
        letter * 10, FontProperties(family=list(families()), size=100, weight=weight), ismath=False
    )
    return width / 1000


def text_width_pt(text: str, size: float, weight: str = "normal") -> float:
    """Width in points of one line of text, without kerning (never too narrow)."""
    return size * sum(_advance(letter, weight) for letter in drawable(text))


def _pieces(line: str, width_pt: float, size: float, weight: str) -> list[str]:
    """``line`` cut into pieces of at most ``width_pt``, each of at least one letter."""
    pieces = []
    start = 0
    used = 0.0
    for place, letter in enumerate(line):
        used += _advance(letter, weight)
        if size * used > width_pt and place > start:
            pieces.append(line[start:place])
            start = place
            used = _advance(letter, weight)
    return [*pieces, line[start:]]


def wrap(text: str, width_pt: float, size: float, weight: str = "normal") -> list[str]:
    """Lines of at most ``width_pt``; a word that is longer than a line is broken."""
    lines = []
    line = ""
    for word in drawable(text).split():
        if line and text_width_pt(f"{line} {word}", size, weight) > width_pt:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        *broken, line = _pieces(line, width_pt, size, weight)
        lines += broken
    return [*lines, line] if line else lines or [""]


class Pages:
    """Pages under construction and a cursor that moves down them."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.y_pt = 0.0
        self.new_page()

    def new_page(self) -> None:
        figure = Figure(figsize=PAGE_IN, facecolor="white")
        FigureCanvasAgg(figure)
        self.figures.append(figure)
        self.y_pt = MARGIN_PT

    @property
    def left_pt(self) -> float:
        """Height left on this page."""
        return PAGE_IN[1] * 72 - BOTTOM_PT - self.y_pt

    @property
    def fresh(self) -> bool:
        return self.y_pt == MARGIN_PT

    def need(self, height_pt: float) -> None:
        """Starts a new page unless ``height_pt`` still fits on this one."""
        if height_pt > self.left_pt and not self.fresh:
            self.new_page()

    def text(
        self,
        x_pt: float,
        text: str,
        size: float,
        weight: str = "normal",
        color: str = BLACK,
        align: str = "left",
    ) -> None:
        """One line with its baseline ``size`` below the cursor; the cursor stays."""
        x = (MARGIN_PT + x_pt) / (PAGE_IN[0] * 72)
        y = 1 - (self.y_pt + size) / (PAGE_IN[1] * 72)
        self.figures[-1].text(
            x,
            y,
            drawable(text),
            fontsize=size,
            fontweight=weight,
            color=color,
            ha=align,
            va="baseline",
        )

    def rule(self, x_pt: float, width_pt: float, color: str = GREY, thickness: float = 0.6) -> None:
        """A horizontal line at the cursor."""
        xs = [(MARGIN_PT + x) / (PAGE_IN[0] * 72) for x in (x_pt, x_pt + width_pt)]
        y = 1 - self.y_pt / (PAGE_IN[1] * 72)
        self.figures[-1].add_artist(Line2D(xs, [y, y], color=color, linewidth=thickness))

    def area(
        self, height_pt: float, width_pt: float = WIDTH_PT
    ) -> tuple[float, float, float, float]:
        """(left, bottom, width, height) in figure fractions of the area of this height below the
        cursor.
        """
        page_pt = (PAGE_IN[0] * 72, PAGE_IN[1] * 72)
        bottom = 1 - (self.y_pt + height_pt) / page_pt[1]
        return MARGIN_PT / page_pt[0], bottom, width_pt / page_pt[0], height_pt / page_pt[1]

    def lines(
        self,
        lines: Sequence[str],
        size: float,
        x_pt: float = 0.0,
        weight: str = "normal",
        color: str = BLACK,
    ) -> None:
        """Lines one below the other, across pages."""
        for line in lines:
            self.need(1.45 * size)
            self.text(x_pt, line, size, weight, color)
            self.y_pt += 1.45 * size
