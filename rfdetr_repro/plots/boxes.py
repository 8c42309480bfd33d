"""Boxes with words in them and arrows between them, on axes whose unit is the inch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.patches import FancyBboxPatch, Rectangle

from .layout import LINE, fitted, wrapped
from .style import BLACK, GREY, WIDTH_IN, rgb

NAME_PT = 8.0
WORDS_PT = 6.8
_PAD_IN = 0.07


def canvas(figure: FigureBase, height_in: float) -> Axes:
    """Invisible axes over the whole figure, in inches from its lower left corner."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH_IN), ylim=(0, height_in))
    axes.set_axis_off()
    return axes


def box_height_in(words: Sequence[str], width_in: float) -> float:
    """Height of :func:`box` with a name and ``words``."""
    lines = sum(len(wrapped(text, width_in - 2 * _PAD_IN, WORDS_PT)) for text in words)
    return 2 * _PAD_IN + (NAME_PT + lines * WORDS_PT) * LINE / 72


def box(
    axes: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    name: str,
    words: Sequence[str],
    color: str,
) -> None:
    """A rounded box from its lower left ``corner``: a name in bold, and wrapped words below it."""
    (left, bottom), (width, height) = corner, size
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(
            corner, width, height, style, facecolor=tint(color), edgecolor=color, linewidth=1.0
        )
    )
    top = bottom + height - _PAD_IN
    inner = width - 2 * _PAD_IN
    line: dict[str, Any] = {"va": "top", "ha": "left"}
    title = fitted(name, inner, NAME_PT, "bold")
    axes.text(left + _PAD_IN, top, title, fontsize=NAME_PT, weight="bold", color=BLACK, **line)
    top -= NAME_PT * LINE / 72
    for text in words:
        for row in wrapped(text, inner, WORDS_PT):
            axes.text(left + _PAD_IN, top, row, fontsize=WORDS_PT, color=BLACK, **line)
            top -= WORDS_PT * LINE / 72


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two boxes."""
    look = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={**look, "mutation_scale": 8})


def cell(
    axes: Axes, corner: tuple[float, float], size: tuple[float, float], color: str, filled: bool
) -> None:
    """A small rectangle; ``filled`` or hollow."""
    axes.add_patch(
        Rectangle(
            corner,
            *size,
            facecolor=color if filled else "white",
            edgecolor=color,
            linewidth=0.9,
        )
    )


def tint(color: str, share: float = 0.1) -> str:
    """The colour, thinned with white to this share."""
    return "#" + "".join(f"{round(255 - share * (255 - part)):02X}" for part in rgb(color))
