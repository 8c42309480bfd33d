"""What a report consists of: a list of blocks that the PDF and the HTML writer both understand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from rfdetr_repro.plots.style import drawn, figure_bytes
from rfdetr_repro.records.record import Record
from rfdetr_repro.tables.format import Table

from .explorer.data import explorer_json

MOST_POINTS = 4_000  # a drawing of more is set as a picture, which readers show faster


@dataclass(frozen=True)
class Title:
    """The title of the document, with a line below it."""

    text: str
    subtitle: str = ""


@dataclass(frozen=True)
class Heading:
    """The heading of a section; an entry of the contents."""

    text: str
    new_page: bool = False


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str
    quiet: bool = False  # small and grey: remarks, "not in this run"
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences, each with a mark in front."""

    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Name and value pairs in two columns."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """A table; its notes are printed below it.

    ``short``: what a table without a title is called where its columns do not fit on one page.
    """

    table: Table
    short: str = ""


@dataclass(eq=False)
class Drawing:
    """A figure drawn by a function, as vectors in the PDF and as a picture in the HTML page.

    A figure is crowded where its lines and clouds have so many points that readers of a PDF are
    slow to show them as vectors. Of a crowded figure, which takes long to draw, both writers set
    the same picture; the PDF needs more of its pixels.
    """

    draw: Callable[[FigureBase], None]
    height_in: float
    alt: str
    # wait for what another process makes; None: this process makes it
    made_print: Callable[[], tuple[bool, bytes]] | None = None
    made_png: Callable[[], bytes] | None = None

    @cached_property
    def figure(self) -> Figure:
        """The drawn figure, which both writers save."""
        return drawn(self.draw, self.height_in)

    @cached_property
    def crowded(self) -> bool:
        """Whether a picture stands for the figure in the PDF as well."""
        return self.made_print()[0] if self.made_print else _points(self.figure) > MOST_POINTS

    @cached_property
    def svg(self) -> bytes:
        """The figure as vectors, with text as text; for a figure that is not crowded."""
        return self.made_print()[1] if self.made_print else figure_bytes(self.figure, ".svg", 72)

    @cached_property
    def png(self) -> bytes:
        """The figure as a picture."""
        if self.made_png:
            return self.made_png()
        return figure_bytes(self.figure, ".png", dpi=220 if self.crowded else 144)

    def make_print(self) -> tuple[bool, bytes]:
        """Whether the figure is crowded; as the PDF sets it, a picture or vectors."""
        return self.crowded, self.png if self.crowded else self.svg

    def make_png(self) -> bytes:
        """The picture."""
        return self.png


@dataclass(frozen=True)
class Picture:
    """An image file with a caption below it."""

    path: Path
    caption: str = ""


@dataclass(eq=False)
class Explorer:
    """The Records to explore, in the HTML page; on paper and without JavaScript, ``static``.

    ``run``: the folder that holds these Records, which commands on the page name; None where they
    come from several places. ``published_first``: the page opens with the published Records instead
    of the measured ones. At most one of a document.
    """

    records: Sequence[Record]
    run: str | None = None
    static: Drawing | None = None
    published_first: bool = False
    # waits for the JSON that another process writes; None: this process writes it
    made_json: Callable[[], str] | None = None

    def json(self) -> str:
        """The Records as JSON that may stand in a script element."""
        if self.made_json:
            return self.made_json()
        return explorer_json(self.records, self.run, self.published_first)


Block = Title | Heading | Paragraph | Bullets | Facts | Grid | Drawing | Picture | Explorer


@dataclass
class Section:
    """A heading with its blocks, and what the run does not hold of them.

    A section without blocks is left out of the document; ``absent`` names the missing parts at the
    end of the section.
    """

    heading: Heading | None
    blocks: list[Block] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


@dataclass
class Document:
    """``footer`` is at the foot of every page; ``date`` goes into the PDF's metadata."""

    title: str
    footer: str
    blocks: list[Block] = field(default_factory=list)
    date: datetime | None = None

    def anchors(self) -> dict[int, str]:
        """``id(heading)`` to a name for links that is unique on the page."""
        found: dict[int, str] = {}
        for block in self.blocks:
            if isinstance(block, Heading):
                base = re.sub(r"[^a-z0-9]+", "-", block.text.lower()).strip("-") or "section"
                name = base
                number = 2
                while name in found.values():
                    name = f"{base}-{number}"
                    number += 1
                found[id(block)] = name
        return found


def _points(figure: Figure) -> int:
    """How many points the lines and clouds of a figure have."""
    points = 0
    for artist in figure.findobj(lambda found: isinstance(found, (Line2D, PathCollection))):
        if isinstance(artist, Line2D):
            points += np.size(artist.get_xdata())
        elif isinstance(artist, PathCollection):
            points += len(np.asarray(artist.get_offsets()))
    return points
