"""The style of all figures, and how they are saved: colours that colour-blind readers can
distinguish, no global state.

Drawing functions take a ``Figure`` or ``SubFigure`` so that the report can place the same drawing
on a page as vectors.
"""

from __future__ import annotations

import functools
import io
import logging
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import atomic_path

# Okabe and Ito's palette.
BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
ORANGE = "#E69F00"
BLACK = "#222222"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#6F6F6F"
LIGHT = "#E3E3E3"
WIDTH_IN = 6.7  # text width of the report, so that a figure is the same size on paper and on screen

# Equal drawings give equal bytes: no dates, no version.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}

# Fonts for letters that DejaVu Sans lacks, if they are installed as TrueType, which a PDF can
# embed.
_FALLBACKS = (
    "Droid Sans Fallback",
    "Noto Sans JP",
    "Noto Sans SC",
    "Noto Sans KR",
    "Arial Unicode MS",
    "WenQuanYi Micro Hei",
    "Noto Sans",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Emoji",
    "Symbola",
    "Unifont",
)
LONGEST_NAME = 48  # most letters of a user's name on a figure

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
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
    """A context in which the style is set; nothing changes outside the context."""
    fonts = logging.getLogger("matplotlib.font_manager")
    before = fonts.level
    # a fallback font may have no bold weight, and its regular weight is used instead
    fonts.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context({**STYLE, "font.family": list(families())}):
            yield
    finally:
        fonts.setLevel(before)


@functools.cache
def families() -> tuple[str, ...]:
    """DejaVu Sans, which comes with matplotlib, and the installed fallback fonts for letters that
    it lacks.
    """
    installed = {
        font.name
        for font in font_manager.fontManager.ttflist
        if font.fname.lower().endswith(".ttf")
    }
    return ("DejaVu Sans", *(name for name in _FALLBACKS if name in installed))


@functools.cache
def _letters() -> frozenset[int]:
    """The code points that at least one of :func:`families` can draw."""
    found: set[int] = set()
    for name in families():
        found.update(font_manager.get_font(font_manager.findfont(name)).get_charmap())
    return frozenset(found)


def drawable(text: str) -> str:
    """``text`` in one line; letters that the installed fonts lack are written by number, such as
    ``<U+72AC>``.

    Names of classes, models and data sets are free text, and an empty box would make two names look
    alike.
    """
    shown = []
    for letter in text:
        if letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf", "Cs"):
            shown.append(" " if letter.isspace() else "")
        else:
            shown.append(letter if ord(letter) in _letters() else f"<U+{ord(letter):04X}>")
    return "".join(shown)


def shortened(text: str, most: int = LONGEST_NAME) -> str:
    """``text`` in at most ``most`` letters; a longer text keeps its beginning and its end, where
    names differ.
    """
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 1]}…{text[-end:]}"


def save(
    draw: Callable[[FigureBase], None], path: str | Path, height_in: float, dpi: int = 180
) -> Path:
    """Draws on a figure of the report's width and writes it to ``path`` (.png, .pdf or .svg),
    completely or not at all.
    """
    path = Path(path)
    if path.suffix not in _METADATA:
        raise InputError(
            f"figures cannot be written as {path.suffix or 'a file without a suffix'}",
            path,
            f"choose a file name that ends in {', '.join(_METADATA)}",
        )
    save_all(drawn(draw, height_in), [path], dpi)
    return path


def save_all(figure: Figure, paths: Sequence[Path], dpi: int = 180) -> None:
    """Writes a drawn figure to each path, by its suffix, each completely or not at all. Equal
    figures give equal bytes.
    """
    for path in paths:
        with atomic_path(path) as temporary:
            _write(figure, temporary, path.suffix, dpi)


def drawn(draw: Callable[[FigureBase], None], height_in: float) -> Figure:
    """A figure of the report's width, drawn but not saved."""
    with style():
        figure = Figure(figsize=(WIDTH_IN, height_in), facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
    return figure


def figure_bytes(figure: Figure, suffix: str, dpi: int, outlines: bool = False) -> bytes:
    """A drawn figure as a file in memory: ".png", ".pdf" or ".svg". The text of an SVG is text, or
    ``outlines`` of its letters.
    """
    stream = io.BytesIO()
    _write(figure, stream, suffix, dpi, outlines)
    return stream.getvalue()


def _write(
    figure: Figure, target: Path | io.BytesIO, suffix: str, dpi: int, outlines: bool = True
) -> None:
    with style(), matplotlib.rc_context({"svg.fonttype": "path" if outlines else "none"}):
        figure.savefig(target, dpi=dpi, format=suffix[1:], metadata=_METADATA[suffix])


def log_latency_axis(axes: Axes, low_ms: float, high_ms: float) -> None:
    """Sets a logarithmic axis in milliseconds from ``low_ms`` to ``high_ms``, with a few round
    ticks as plain numbers.
    """
    axes.set_xscale("log")
    axes.set_xlim(low_ms, high_ms)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [
            step * 10.0**power
            for power in range(-3, 5)
            for step in steps
            if low_ms <= step * 10.0**power <= high_ms
        ]
        if len(ticks) >= 5:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency, ms (log scale)")


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue, each in 0..255, of a colour such as "#0072B2"."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


def ink(color: str) -> str:
    """A darker form of a colour of the palette, in which small letters on white can be read."""
    if color in (BLACK, GREY):
        return color
    parts = rgb(color)
    bright = (0.3 * parts[0] + 0.59 * parts[1] + 0.11 * parts[2]) / 255
    keep = 1.0 if bright < 0.4 else 0.4 / bright
    return "#" + "".join(f"{round(keep * part):02X}" for part in parts)


def end_label(
    axes: Axes,
    point: tuple[float, float],
    text: str,
    color: str,
    offset: tuple[float, float] = (5, 0),
    align: str = "left",
) -> None:
    """Labels a line next to one of its points instead of in a legend."""
    where: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": align,
        "va": "center",
        "annotation_clip": False,
    }
    axes.annotate(text, point, offset, color=ink(color), fontsize=7.5, **where)
