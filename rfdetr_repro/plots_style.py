"""How every figure looks, and how it is saved: one style, colours that colour-blind readers can tell apart, no global state.

Drawing functions take a ``Figure`` or ``SubFigure`` so that the report can place the same drawing on a page as vectors.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from .errors import InputError
from .files import atomic_path

# Okabe and Ito's palette.
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY, LIGHT = "#6F6F6F", "#E3E3E3"
WIDTH_IN = 6.7  # text width of the report, so that a figure is the same size on paper and on screen

# The same drawing gives the same bytes: no dates, no version.
_METADATA: dict[str, dict[str, Any]] = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
    "svg.hashsalt": "rfdetr_repro",
    "figure.dpi": 100,
    "path.simplify": True,
    "text.parse_math": False,
}


@contextmanager
def style() -> Iterator[None]:
    """The style as a context; nothing outside it changes."""
    with matplotlib.rc_context(STYLE):
        yield


def save(draw: Callable[[FigureBase], None], path: str | Path, height_in: float, dpi: int = 180) -> Path:
    """Draws on a figure of the report's width and writes it to ``path`` (.png, .pdf or .svg) whole or not at all."""
    path = Path(path)
    if path.suffix not in _METADATA:
        raise InputError(
            f"cannot draw a {path.suffix or 'nameless'} file", path, f"end its name in one of {', '.join(_METADATA)}"
        )
    with atomic_path(path) as temporary:
        _draw(draw, temporary, path.suffix, height_in, dpi)
    return path


def png_bytes(draw: Callable[[FigureBase], None], height_in: float, dpi: int = 180) -> bytes:
    """The same picture as a PNG in memory."""
    stream = io.BytesIO()
    _draw(draw, stream, ".png", height_in, dpi)
    return stream.getvalue()


def _draw(draw: Callable[[FigureBase], None], target: Path | io.BytesIO, suffix: str, height_in: float, dpi: int) -> None:
    with style():
        figure = Figure(figsize=(WIDTH_IN, height_in), facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(target, dpi=dpi, format=suffix[1:], metadata=_METADATA[suffix])


def log_latency_axis(axes: Axes, low_ms: float, high_ms: float) -> None:
    """Logarithmic milliseconds from ``low_ms`` to ``high_ms`` with a few round ticks written as plain numbers."""
    axes.set_xscale("log")
    axes.set_xlim(low_ms, high_ms)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [step * 10.0**power for power in range(-3, 5) for step in steps if low_ms <= step * 10.0**power <= high_ms]
        if len(ticks) >= 5:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency, ms (log scale)")


def origin_line(figure: FigureBase, text: str, left: float = 0.085) -> None:
    """Where the numbers of a figure come from, in small type at its foot."""
    figure.text(left, 0.012, text, fontsize=7.0, color=GREY, va="bottom")


def end_label(
    axes: Axes, point: tuple[float, float], text: str, color: str, offset: tuple[float, float] = (5, 0), align: str = "left"
) -> None:
    """Names a line beside one of its points instead of in a legend."""
    where: dict[str, Any] = {"textcoords": "offset points", "ha": align, "va": "center", "annotation_clip": False}
    axes.annotate(text, point, offset, color=color, fontsize=7.5, **where)
