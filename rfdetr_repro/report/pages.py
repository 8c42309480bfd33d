"""A4 pages under construction: fonts, wrapped text, and a cursor that moves down.

Lengths are points (1/72 inch) from the top left corner of the page.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from fpdf import FPDF
from matplotlib.font_manager import FontProperties, findfont, get_font

from rfdetr_repro.plots.style import BLACK, GREY, LIGHT, drawable, families

MARGIN = 56.0
BOTTOM = 64.0  # the footer is below
FONT = "DejaVu Sans"  # comes with matplotlib
LEADING = 1.45  # height of a line in parts of the type size


class Pages(FPDF):
    """A4 pages with a footer, and a cursor that moves down them."""

    def __init__(self, footer: str = "") -> None:
        """``footer``: one line at the foot of every page."""
        super().__init__(unit="pt", format="A4")
        self.set_margins(MARGIN, MARGIN, MARGIN)
        self.set_auto_page_break(True, BOTTOM)
        self.c_margin = 0
        self.footer_text = footer
        for weight, style in (("normal", ""), ("bold", "B")):
            self.add_font(FONT, style, findfont(FontProperties(family=FONT, weight=weight)))
        self.others = families()[1:]
        for name in self.others:
            self.add_font(name, "", findfont(FontProperties(family=name)))
        self.set_font(FONT, size=9.2)
        self.letters = frozenset(get_font(findfont(FontProperties(family=FONT))).get_charmap())
        self.add_page()

    @property
    def left(self) -> float:
        """Height left on this page."""
        return float(self.page_break_trigger - self.y)

    @property
    def fresh(self) -> bool:
        """Whether nothing is on this page yet."""
        return float(self.y) == MARGIN

    def need(self, height: float) -> None:
        """Starts a new page unless ``height`` still fits on this one."""
        if height > self.left and not self.fresh:
            self.add_page()

    def color(self, name: str) -> None:
        """Colour, as "#RRGGBB", of what is written next."""
        self.set_text_color(name)

    def rule(self, width: float, color: str, thickness: float) -> None:
        """A horizontal line at the cursor."""
        self.set_draw_color(color)
        self.set_line_width(thickness)
        self.line(self.l_margin, self.y, self.l_margin + width, self.y)

    def draw_path(self, path: Any, debug_stream: Any = None, copy: bool = False) -> None:
        """Draws a path or a whole drawing. fpdf2 itself copies it first, part by part, which a
        drawing that is drawn once does not need.
        """
        with self.drawing_context() as context:
            context.add_item(path, copy)

    def footer(self) -> None:
        """A thin line, the number of the page and the footer's text, shortened to one line."""
        self.set_y(-46)
        self.rule(self.epw, LIGHT, 0.8)
        self.set_y(-42)
        self.set_font(FONT, size=6.8)
        self.color(GREY)
        self.cell(44, 10, f"{self.page_no()} / {{nb}}")
        text = drawable(self.footer_text)
        with self.script(text):
            while text and self.get_string_width(text) > self.epw - 46:
                text = f"{text[: int(0.95 * len(text)) - 1]}…"
            self.cell(self.epw - 44, 10, text)

    @contextmanager
    def script(self, *texts: str) -> Iterator[None]:
        """Within it, text with letters that DejaVu lacks is set in other fonts, and text of scripts
        that join or order their letters is shaped.
        """
        rare = [text for text in texts if not self.plain(text)]
        if rare:
            self.set_fallback_fonts(self.others, exact_match=False)
        if any(map(needs_shaping, rare)):
            self.set_text_shaping(True)
        try:
            yield
        finally:
            self.set_fallback_fonts([])
            self.set_text_shaping(False)

    def plain(self, text: str) -> bool:
        """Whether DejaVu has all the letters, and one after the other is how they are written."""
        if text.isascii():
            return True
        return self.letters.issuperset(map(ord, text)) and not needs_shaping(text)

    def write_lines(
        self, text: str, size: float, style: str = "", color: str = BLACK, align: str = "L"
    ) -> None:
        """A text from the left margin, wrapped, across pages."""
        text = drawable(text)
        self.set_font(FONT, style, size)
        self.color(color)
        with self.script(text):
            self.multi_cell(
                self.epw, LEADING * size, text, align=align, new_x="LMARGIN", new_y="NEXT"
            )

    def height_of(self, text: str, size: float, width: float, style: str = "") -> float:
        """Height of a text wrapped in ``width``."""
        text = drawable(text)
        self.set_font(FONT, style, size)
        with self.script(text):
            height = self.multi_cell(width, LEADING * size, text, dry_run=True, output="HEIGHT")
        return cast("float", height)


def needs_shaping(text: str) -> bool:
    """Whether the text holds letters that are written from right to left or that combine."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL", "AN")
        or unicodedata.category(letter) in ("Mn", "Mc")
        for letter in text
    )
