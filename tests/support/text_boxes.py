"""Where a drawn figure has text: for tests that nothing is clipped and nothing overlaps."""

from __future__ import annotations

from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SLACK_PX = 1.0


def shown_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every visible text with its box in pixels; of tick labels those inside the limits."""
    figure.canvas.draw()
    hidden: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            hidden |= _outside(axis)
            if not axes.axison:
                hidden |= {id(text) for text in axis.findobj(Text)}
    found = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            found.append((text.get_text(), Text.get_window_extent(text)))
    return found


def _outside(axis: Axis) -> set[int]:
    low, high = sorted(axis.get_view_interval())
    hidden = set()
    for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
        inside = low <= tick.get_loc() <= high
        for label in (tick.label1, tick.label2):
            if not inside or not label.get_visible():
                hidden.add(id(label))
    return hidden


def clipped(figure: Figure) -> list[str]:
    """Texts that leave the figure."""
    width, height = figure.get_size_inches() * figure.dpi
    return [
        text
        for text, box in shown_texts(figure)
        if min(box.x0, box.y0) < -SLACK_PX
        or box.x1 > width + SLACK_PX
        or box.y1 > height + SLACK_PX
    ]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a pixel in both directions."""
    pairs = []
    for (first, one), (second, other) in combinations(shown_texts(figure), 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        if width > SLACK_PX and height > SLACK_PX:
            pairs.append((first, second))
    return pairs
