"""Where text goes on a figure: measured widths, wrapped lines, and labels next to points that cover
neither one another nor the points.

Sizes of type are in points, lengths on a figure in inches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import cos, hypot, pi, sin
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.font_manager import FontProperties

from .style import GREY, WIDTH_IN, families

LINE = 1.35  # height of a line in type sizes
FOOT_PT = 7.0
_DPI = 720  # of the widths, which are thus free of rounding to pixels
_HINTED = 1.03  # how much wider a line may be where letters are rounded to pixels
FOOT_BOTTOM_IN = 0.07
SIDE_IN = 0.57  # of the left margin of figures with axes


@functools.lru_cache(maxsize=4096)
def text_width_in(text: str, size_pt: float, weight: str = "normal") -> float:
    """Width in inches of one line of text."""
    font = FontProperties(family=list(families()), size=size_pt, weight=weight)
    width, _, _ = _renderer().get_text_width_height_descent(text, font, False)
    return _HINTED * float(width) / _DPI


@functools.cache
def _renderer():  # type: ignore[no-untyped-def]  # of matplotlib, which types it loosely
    return FigureCanvasAgg(Figure(dpi=_DPI)).get_renderer()


def wrapped(text: str, width_in: float, size_pt: float) -> list[str]:
    """The lines of ``text``, none wider than ``width_in``; a longer word is cut between letters."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if text_width_in(longer, size_pt) <= width_in:
                line = longer
                continue
            lines += [line] if line else []
            *full, line = _cut(word, width_in, size_pt)
            lines += full
        lines.append(line)
    return lines


def _cut(word: str, width_in: float, size_pt: float) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and text_width_in(pieces[-1] + letter, size_pt) > width_in:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def fitted(text: str, width_in: float, size_pt: float, weight: str = "normal") -> str:
    """``text`` in one line of at most ``width_in``; its middle gives way, because names differ at
    their ends.
    """
    if text_width_in(text, size_pt, weight) <= width_in:
        return text
    kept = len(text) - 1
    while kept > 2:
        tail = kept // 3
        short = f"{text[: kept - tail].rstrip()}…{text[-tail:].lstrip()}"
        if text_width_in(short, size_pt, weight) <= width_in:
            return short
        kept -= 1
    return "…"


def foot_height_in(text: str, left: float = SIDE_IN / WIDTH_IN) -> float:
    """Height of :func:`foot_line` with the free space above it."""
    lines = _foot_lines(text, left)
    return FOOT_BOTTOM_IN + len(lines) * FOOT_PT * LINE / 72 + 0.06


def foot_line(figure: FigureBase, text: str, left: float = SIDE_IN / WIDTH_IN) -> None:
    """Writes where a figure's numbers come from in small type at the bottom, wrapped."""
    height = _height_in(figure)
    lines = _foot_lines(text, left)
    place = FOOT_BOTTOM_IN / height
    shown = "\n".join(lines)
    look: dict[str, Any] = {"fontsize": FOOT_PT, "color": GREY, "linespacing": LINE}
    figure.text(left, place, shown, va="bottom", **look)


def _foot_lines(text: str, left: float) -> list[str]:
    return wrapped(text, (0.985 - left) * WIDTH_IN, FOOT_PT)


def _height_in(figure: FigureBase) -> float:
    return float(figure.get_figure(root=True).get_size_inches()[1])


def heading(figure: FigureBase, text: str, left: float = SIDE_IN / WIDTH_IN) -> None:
    """Writes the title of a figure at its top, in one line."""
    height = _height_in(figure)
    shown = fitted(text, (0.985 - left) * WIDTH_IN, 9.5, "bold")
    figure.text(left, 1 - 0.27 / height, shown, fontsize=9.5, fontweight="bold")


@dataclass(frozen=True)
class PointLabel:
    """A short text that belongs to a point, in units of the axes."""

    x: float
    y: float
    text: str
    color: str


# offsets of a label's middle from its point in points, nearest first
_OFFSETS = [
    (radius * cos(angle * pi / 8), radius * sin(angle * pi / 8))
    for radius, angle in product((6.5, 9.0, 12.5, 17.0, 23.0, 31.0, 41.0), range(16))
]
_POINT = 2.6  # free space around a point, in points


def label_points(
    axes: Axes,
    labels: Sequence[PointLabel],
    others: Iterable[tuple[float, float]] = (),
    lines: Iterable[Sequence[tuple[float, float]]] = (),
    size_pt: float = 6.2,
) -> None:
    """Writes each label next to its point: nearest first, on no other label, on no point, inside
    the axes, and rather not on a line. A label that had to go farther away gets a thin leader.

    ``others``: further points to keep free; ``lines``: polylines to avoid. The limits of the axes
    must be final. Where nothing is free, the place that covers least is taken.
    """
    spots = _in_points(axes, [*((one.x, one.y) for one in labels), *others])
    segments = [_samples(_in_points(axes, line)) for line in lines if len(line) > 1]
    samples = np.concatenate(segments) if segments else np.zeros((0, 2))
    box = axes.get_window_extent()
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    frame = np.array([box.x0, box.y0, box.x1, box.y1]) * scale
    placed = np.zeros((0, 4))
    # the most crowded first: these have the least choice
    crowd = [np.sum(np.hypot(*(spots - spot).T) < 20) for spot in spots[: len(labels)]]
    for index in sorted(range(len(labels)), key=lambda one: -crowd[one]):
        label = labels[index]
        half = np.array([text_width_in(label.text, size_pt) * 36, size_pt * 0.5])
        boxes = np.array([_around(spots[index] + offset, half) for offset in _OFFSETS])
        cost = _costs(boxes, placed, spots, samples, frame)
        best = int(np.argmin(cost + 0.02 * np.hypot(*np.array(_OFFSETS).T)))
        placed = np.vstack([placed, boxes[best]])
        _write(axes, label, _OFFSETS[best], size_pt)


def _write(axes: Axes, label: PointLabel, offset: tuple[float, float], size_pt: float) -> None:
    far = hypot(*offset) > 13
    leader = {"arrowstyle": "-", "color": label.color, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(
        label.text,
        (label.x, label.y),
        offset,
        textcoords="offset points",
        color=label.color,
        fontsize=size_pt,
        ha="center",
        va="center_baseline",
        annotation_clip=False,
        arrowprops=leader if far else None,
        zorder=6,
    )


def _in_points(axes: Axes, places: Sequence[tuple[float, float]]) -> np.ndarray:
    """Places in units of the axes -> points (1/72 inch) of the figure."""
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    return axes.transData.transform(np.asarray(places, dtype=float).reshape(-1, 2)) * scale


def _samples(line: np.ndarray) -> np.ndarray:
    """Places along a polyline, every 3 points."""
    found = [line[:1]]
    for start, end in pairwise(line):
        count = max(2, int(np.hypot(*(end - start)) / 3))
        found.append(start + np.linspace(0, 1, count)[1:, None] * (end - start))
    return np.concatenate(found)


def _around(middle: np.ndarray, half: np.ndarray) -> np.ndarray:
    return np.concatenate([middle - half, middle + half])


def _costs(
    boxes: np.ndarray,
    placed: np.ndarray,
    spots: np.ndarray,
    samples: np.ndarray,
    frame: np.ndarray,
) -> np.ndarray:
    """What each candidate box covers: labels and the border weigh most, then points, then lines."""
    pad = 0.8
    low, high = boxes[:, None, :2] - pad, boxes[:, None, 2:] + pad
    on_labels = np.all((low < placed[None, :, 2:]) & (high > placed[None, :, :2]), axis=2).sum(1)
    on_spots = np.all((low - _POINT < spots) & (high + _POINT > spots), axis=2).sum(1)
    on_lines = np.all((low < samples) & (high > samples), axis=2).sum(1)
    outside = np.any(boxes[:, :2] < frame[:2], axis=1) | np.any(boxes[:, 2:] > frame[2:], axis=1)
    return 1000.0 * on_labels + 500.0 * outside + 40.0 * on_spots + 1.5 * on_lines


def pushed_apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The values, each moved as little as keeps neighbours ``gap`` apart and all between ``low``
    and ``high``, in their order; where there is no room for that, evenly from ``low`` to ``high``.
    """
    order = sorted(range(len(values)), key=lambda index: values[index])
    if (len(values) - 1) * gap > high - low:
        even = np.linspace(low, high, len(values))
        return [float(even[order.index(index)]) for index in range(len(values))]
    places: list[float] = []
    for index in order:
        floor = places[-1] + gap if places else low
        places.append(max(values[index], floor))
    ceiling = high
    for position in range(len(places) - 1, -1, -1):
        places[position] = min(places[position], ceiling)
        ceiling = places[position] - gap
    return [places[order.index(index)] for index in range(len(values))]


def thinned(count: int, most: int) -> list[int]:
    """At most ``most`` (at least 2) of the places 0..count - 1, evenly, with both ends."""
    if count <= most:
        return list(range(count))
    step = (count - 1) / (most - 1)
    return sorted({round(number * step) for number in range(most)})
