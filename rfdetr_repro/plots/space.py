"""The counterpart of the paper's Figure 3: the five knobs of a search space, each drawn to scale
from the space itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from rfdetr_repro.spec.arch import KNOB_LABELS, Arch, SearchSpace

from .boxes import cell, tint
from .layout import LINE, foot_height_in, foot_line, heading, pushed_apart, wrapped
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, WIDTH_IN

_SIDE_IN = 0.15
_HEAD_IN = 0.62
_DRAWING_IN = 1.15  # side of each drawing
_GAP_IN = 0.1
_TYPE_PT = 6.8
_MOST_DRAWN = 9  # values of a knob that are drawn; a longer list is thinned evenly
# knob -> the colour of its drawing, and what a value of it changes
_KNOBS: dict[str, tuple[str, str]] = {
    "patch": (BLUE, "side of a patch in px: smaller patches, more tokens"),
    "resolution": (GREEN, "side of the image in px"),
    "windows": (ORANGE, "windows per side in which blocks attend"),
    "decoder_layers": (VERMILION, "layers that run; the later ones are cut off"),
    "queries": (PURPLE, "queries kept, the most confident first"),
}


def _axes_of(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    return {
        "patch": space.patches,
        "resolution": space.resolutions,
        "windows": space.windows,
        "decoder_layers": space.decoder_layers,
        "queries": space.queries,
    }


def _column_in() -> float:
    return (WIDTH_IN - 2 * _SIDE_IN - (len(_KNOBS) - 1) * _GAP_IN) / len(_KNOBS)


def _words(knob: str, values: Sequence[int], chosen: int | None) -> list[tuple[str, str]]:
    """The lines below a drawing with their colours."""
    column = _column_in()
    drawn = (
        "drawn at random in training"
        if knob in ("patch", "resolution", "windows")
        else ("cut after training only")
    )
    listed = ", ".join(map(str, sorted(values)))
    lines = [(line, BLACK) for line in wrapped(listed, column, _TYPE_PT)]
    lines += [(line, GREY) for line in wrapped(_KNOBS[knob][1], column, _TYPE_PT)]
    lines += [(line, GREY) for line in wrapped(drawn, column, _TYPE_PT)]
    if chosen is not None:
        lines.append((f"filled: {chosen}", BLACK))
    return lines


def _origin(space: SearchSpace, arch: Arch | None) -> str:
    filled = f" Filled: {arch.key}." if arch is not None else ""
    return (
        f"{space.grid_points():,} combinations, {len(space):,} different architectures.{filled} "
        "Drawn from the search space itself; the paper's Figure 3 (arXiv 2511.09554) is not copied."
    )


def space_height_in(space: SearchSpace, arch: Arch | None = None) -> float:
    """Height in inches of :func:`draw_space`."""
    lines = max(
        len(_words(knob, values, _chosen(knob, values, arch)))
        for knob, values in _axes_of(space).items()
    )
    words = lines * _TYPE_PT * LINE / 72
    foot = foot_height_in(_origin(space, arch), _SIDE_IN / WIDTH_IN)
    return _HEAD_IN + _DRAWING_IN + 0.12 + words + 0.08 + foot


def _chosen(knob: str, values: Sequence[int], arch: Arch | None) -> int | None:
    """The value that ``arch`` has, if the space has it."""
    value = None if arch is None else int(getattr(arch, knob))
    return value if value in values else None


def draw_space(figure: FigureBase, space: SearchSpace, arch: Arch | None, name: str) -> None:
    """Draws the five knobs of ``space``, called ``name``; the values of ``arch`` are filled."""
    height = space_height_in(space, arch)
    left = _SIDE_IN / WIDTH_IN
    heading(figure, f"The five knobs of {name}", left)
    column = _column_in()
    for number, (knob, values) in enumerate(_axes_of(space).items()):
        x = _SIDE_IN + number * (column + _GAP_IN)
        chosen = _chosen(knob, values, arch)
        figure.text(
            x / WIDTH_IN,
            1 - (_HEAD_IN - 0.08) / height,
            KNOB_LABELS[knob],
            fontsize=8.0,
            fontweight="bold",
        )
        side = min(_DRAWING_IN, column)
        bottom = height - _HEAD_IN - side
        axes = figure.add_axes((x / WIDTH_IN, bottom / height, side / WIDTH_IN, side / height))
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_axis_off()
        _DRAW[knob](axes, thinned(values, chosen), chosen, _KNOBS[knob][0])
        top = bottom - 0.12
        for line, color in _words(knob, values, chosen):
            figure.text(x / WIDTH_IN, top / height, line, fontsize=_TYPE_PT, color=color, va="top")
            top -= _TYPE_PT * LINE / 72
    foot_line(figure, _origin(space, arch), left)


def thinned(values: Sequence[int], chosen: int | None, most: int = _MOST_DRAWN) -> list[int]:
    """At most ``most`` of the values in rising order, with both ends and the chosen value."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return ordered
    step = (len(ordered) - 1) / (most - 1)
    kept = {ordered[round(number * step)] for number in range(most)}
    if chosen is not None and chosen not in kept:
        inner = sorted(kept)[1:-1]
        kept.discard(min(inner, key=lambda value: abs(value - chosen)))
        kept.add(chosen)
    return sorted(kept)


def _squares(axes: Axes, values: Sequence[int], chosen: int | None, color: str) -> None:
    """Nested squares with sides in proportion to the values."""
    high = max(values)
    for value in sorted(values, reverse=True):
        side = value / high
        filled = value == chosen
        axes.add_patch(
            Rectangle(
                (0, 0),
                side,
                side,
                facecolor=tint(color, 0.35) if filled else tint(color, 0.06),
                edgecolor=color,
                linewidth=1.6 if filled else 0.8,
            )
        )
    ends = [value / high for value in sorted(values)]
    # the names stand along the upper edges, inside at the right
    names = pushed_apart(ends, 0.105, 0.06, 1.0)
    for value, place in zip(sorted(values), names, strict=True):
        axes.text(
            0.03,
            place - 0.02,
            str(value),
            fontsize=5.8,
            color=BLACK,
            va="top",
            ha="left",
            weight="bold" if value == chosen else "normal",
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
        )


def _windows(axes: Axes, values: Sequence[int], chosen: int | None, color: str) -> None:
    """An image for each value, cut into its windows."""
    across = 2 if len(values) > 1 else 1
    rows = -(-len(values) // across)
    room = 1 / max(across, rows)
    for index, value in enumerate(sorted(values)):
        side = 0.74 * room
        x = (index % across) * room
        y = 1 - (index // across + 1) * room + 0.24 * room
        part = side / value
        filled = value == chosen
        for row in range(value):
            for column in range(value):
                axes.add_patch(
                    Rectangle(
                        (x + column * part, y + row * part),
                        part,
                        part,
                        facecolor=tint(color, 0.35) if filled else "white",
                        edgecolor=color,
                        linewidth=0.8,
                    )
                )
        axes.text(x, y - 0.02, f"{value} x {value}", fontsize=5.8, color=BLACK, va="top")


def _layers(axes: Axes, values: Sequence[int], chosen: int | None, color: str) -> None:
    """A column of layers for each value: as many as run are drawn solid."""
    most = max(1, *values)
    width = 1 / len(values)
    height = 0.86 / most
    for index, value in enumerate(sorted(values)):
        x = index * width
        for layer in range(most):
            runs = layer < value
            place = (x + 0.12 * width, 0.12 + layer * height + 0.08 * height)
            size = (0.76 * width, 0.84 * height)
            axes.add_patch(
                Rectangle(
                    place,
                    *size,
                    facecolor=tint(color, 0.75 if value == chosen else 0.3) if runs else "white",
                    edgecolor=color if runs else tint(color, 0.3),
                    linewidth=0.7,
                )
            )
        axes.text(x + width / 2, 0.1, str(value), fontsize=5.8, color=BLACK, va="top", ha="center")


def _queries(axes: Axes, values: Sequence[int], chosen: int | None, color: str) -> None:
    """A bar for each value, as long as its share of the most queries."""
    most = max(values)
    height = 1 / len(values)
    for index, value in enumerate(sorted(values)):
        bottom = 1 - (index + 1) * height
        cell(axes, (0, bottom + 0.1 * height), (1, 0.36 * height), tint(color, 0.3), False)
        axes.add_patch(
            Rectangle(
                (0, bottom + 0.1 * height),
                value / most,
                0.36 * height,
                facecolor=tint(color, 0.75 if value == chosen else 0.3),
                edgecolor=color,
                linewidth=0.8,
            )
        )
        axes.text(0, bottom + 0.52 * height, str(value), fontsize=5.8, color=BLACK, va="bottom")


_DRAW: dict[str, Callable[[Axes, Sequence[int], int | None, str], None]] = {
    "patch": _squares,
    "resolution": _squares,
    "windows": _windows,
    "decoder_layers": _layers,
    "queries": _queries,
}
