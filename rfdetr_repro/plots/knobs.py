"""The effect of each knob over all searched configurations, and of decoder layers and queries: the
counterpart of the paper's Figure 4, from a campaign's search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, quantiles

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rfdetr_repro.records.record import Record
from rfdetr_repro.records.sensitivity import comparable_searches
from rfdetr_repro.spec.arch import KNOB_LABELS, KNOB_UNITS, KNOBS, Arch
from rfdetr_repro.spec.errors import InputError

from .layout import (
    PointLabel,
    foot_height_in,
    foot_line,
    heading,
    label_points,
    pushed_apart,
    thinned,
)
from .style import BLUE, GREEN, PALETTE, drawable, end_label, ink
from .values import ap_percent, arch_of, data_words, mode_of, ms_of

PUBLISHED_FIGURE_4 = (
    "Published (arXiv 2511.09554, Figure 4): the points exist as an image only; its text: about -2 "
    "AP, -10 % latency (nano)."
)


PUBLISHED_FIGURE_5 = (
    "Published (arXiv 2511.09554, Figure 5 of the camera-ready): the points exist as an image only."
)
_MOST_TICKS = 5  # of one knob's panel
_MOST_NAMED = 4  # points of one line that have their number of queries
_MOST_LINES = 7  # of one panel: as many as there are colours


def draw_knobs(figure: FigureBase, records: Sequence[Record]) -> None:
    """Draws the effect of each of the five knobs over all searched configurations, then decoder
    depth by queries.
    """
    search, left_out = _largest_search(records)
    grid = figure.subplots(3, 1, gridspec_kw={"height_ratios": (1, 1, 1.25), "hspace": 0.5})
    height = knobs_height_in(records)
    foot = foot_height_in(_knobs_foot(left_out))
    figure.subplots_adjust(
        left=0.085, right=0.96, bottom=(0.44 + foot) / height, top=1 - 0.55 / height
    )
    words = f"Effect of each knob over {len(search)} configurations{data_words(search[0])}"
    heading(figure, drawable(words))
    foot_line(figure, _knobs_foot(left_out))
    rows: tuple[tuple[Callable[[Record], float], str, str], ...] = (
        (ap_percent, "AP, %", BLUE),
        (ms_of, _modelled_label(search), GREEN),
    )
    for holder, (value, label, color) in zip(grid[:2], rows, strict=True):
        _knob_row(holder, search, value, label, color)
    _decoder_panels(grid[2], search)


def knobs_height_in(records: Sequence[Record]) -> float:
    """Height in inches of :func:`draw_knobs`."""
    return 6.0 + foot_height_in(_knobs_foot(_largest_search(records)[1]))


def _knobs_foot(left_out: str) -> str:
    return (
        f"Line: mean over all other knobs; band: 10th to 90th percentile{left_out}.\n"
        f"{PUBLISHED_FIGURE_5}"
    )


def _largest_search(records: Sequence[Record]) -> tuple[list[Record], str]:
    """The largest group of searched Records that may share an axis, and a note on how many Records
    are left out.
    """
    groups = comparable_searches(records)
    if not groups:
        raise InputError(
            "there are no search Records with an architecture to plot",
            hint="give the Records of a campaign",
        )
    others = sum(map(len, groups[1:]))
    return groups[0], f"; {others} Records of other searches are left out" if others else ""


def _modelled_label(search: Sequence[Record]) -> str:
    return f"modelled {mode_of(search[0])} ms"


def _split(
    holder: Axes, columns: int, gap: float, margin: float = 1e-3, share_y: bool = False
) -> list[Axes]:
    """Replaces an axes by ``columns`` axes; ``gap`` between them and ``margin`` on the right are in
    widths of one axes.
    """
    spec = holder.get_subplotspec()
    figure = holder.get_figure()
    if spec is None or figure is None:
        raise ValueError("the axes to replace belong to no grid of a figure")
    holder.remove()
    ratios = [part for _ in range(columns) for part in (1, gap)]
    inner = spec.subgridspec(1, 2 * columns, wspace=0, width_ratios=[*ratios[:-1], margin])
    axes: list[Axes] = []
    for column in range(columns):
        axes.append(
            figure.add_subplot(inner[0, 2 * column], sharey=axes[0] if axes and share_y else None)
        )
    return axes


def _knob_row(
    holder: Axes, search: Sequence[Record], value: Callable[[Record], float], label: str, color: str
) -> None:
    panels = _split(holder, len(KNOBS), 0.14, share_y=True)
    archs = [arch_of(record) for record in search]
    values_of_all = [value(record) for record in search]
    for axes, knob in zip(panels, KNOBS, strict=True):
        groups = _by_knob(archs, values_of_all, knob)
        positions = range(len(groups))
        means = [fmean(values) for values in groups.values()]
        spread = [_spread(values) for values in groups.values()]
        axes.fill_between(
            positions,
            [low for low, _ in spread],
            [high for _, high in spread],
            color=color,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(positions, means, color=color, marker="o", markersize=3.2)
        ticks = thinned(len(groups), _MOST_TICKS)
        names = list(map(str, groups))
        axes.set_xticks(ticks, [names[tick] for tick in ticks])
        axes.set_xlim(-0.3, len(groups) - 0.7)
        unit = f", {KNOB_UNITS[knob]}" if knob in KNOB_UNITS else ""
        axes.set_xlabel(f"{KNOB_LABELS[knob]}{unit}")
        axes.tick_params(labelleft=axes is panels[0])
    panels[0].set_ylabel(label)
    panels[0].set_ylim(bottom=0)


def draw_decoder(figure: FigureBase, records: Sequence[Record]) -> None:
    """Draws AP and latency by decoder layers, with a line per number of queries, and AP over
    latency of one backbone (Figure 4).
    """
    search, left_out = _largest_search(records)
    over_all, one = figure.subplots(2, 1, gridspec_kw={"hspace": 0.58})
    foot = _decoder_foot(search, left_out)
    height = decoder_height_in(records)
    figure.subplots_adjust(
        left=0.085,
        right=0.96,
        bottom=(0.44 + foot_height_in(foot)) / height,
        top=1 - 0.72 / height,
    )
    heading(figure, drawable(f"Dropping decoder layers and queries{data_words(search[0])}"))
    _decoder_panels(over_all, search).set_title("mean over all backbones", fontweight="normal")
    _one_backbone(one, search)
    foot_line(figure, foot)


def decoder_height_in(records: Sequence[Record]) -> float:
    """Height in inches of :func:`draw_decoder`."""
    return 5.0 + foot_height_in(_decoder_foot(*_largest_search(records)))


def _decoder_foot(search: Sequence[Record], left_out: str) -> str:
    return f"Measured here: {_last_layer(search)}{left_out}.\n{PUBLISHED_FIGURE_4}"


def _one_backbone(holder: Axes, search: Sequence[Record]) -> None:
    """AP over latency of the backbone of the best configuration: a line per number of layers, a
    point per number of queries.
    """
    (axes,) = _split(holder, 1, 0, margin=0.13)
    best = max(search, key=lambda record: (ap_percent(record), -ms_of(record)))
    group = [record for record in search if _same_backbone(record, best)]
    layers = sorted({arch_of(record).decoder_layers for record in group})
    labels: list[PointLabel] = []
    paths = []
    for color, depth in zip(PALETTE * 9, layers, strict=False):
        line = sorted(
            (record for record in group if arch_of(record).decoder_layers == depth),
            key=lambda one: arch_of(one).queries,
        )
        x = [ms_of(record) for record in line]
        y = [ap_percent(record) for record in line]
        axes.plot(x, y, color=color, marker="o", markersize=3.2)
        named = [f"{arch_of(record).queries}" for record in line]
        named[-1] += f", {depth} layer{'' if depth == 1 else 's'}"
        kept = set(thinned(len(line), _MOST_NAMED))
        labels += [
            PointLabel(x[place], y[place], name, ink(color))
            for place, name in enumerate(named)
            if place in kept
        ]
        paths.append(list(zip(x, y, strict=True)))
    arch = arch_of(best)
    name = (
        f"{arch.input_hw[0]} px, patch {arch.patch}, {arch.windows} "
        f"window{'' if arch.windows == 1 else 's'} per side"
    )
    axes.set_title(
        f"the backbone of the best AP: {name}; numbers: queries",
        fontweight="normal",
    )
    axes.margins(x=0.06, y=0.2)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    axes.set_xlabel(_modelled_label(search))
    axes.set_ylabel("AP, %")
    label_points(axes, labels, [spot for path in paths for spot in path], paths, 7.0)


def _same_backbone(one: Record, other: Record) -> bool:
    return (arch_of(one).backbone, one.model.checkpoint_sha256) == (
        arch_of(other).backbone,
        other.model.checkpoint_sha256,
    )


def _last_layer(search: Sequence[Record]) -> str:
    """The effect of removing the last decoder layer, in the paper's own terms and units."""
    archs = [arch_of(record) for record in search]
    ap, ms = (
        _by_knob(archs, [value(record) for record in search], "decoder_layers")
        for value in (ap_percent, ms_of)
    )
    if len(ap) < 2:
        return "one decoder depth only"
    *_, before, last = ap
    gain = fmean(ap[before]) - fmean(ap[last])
    saved = 100 * (fmean(ms[before]) / fmean(ms[last]) - 1)
    change = f"{gain:+.1f} AP, {saved:+.0f} % modelled latency"
    return f"{len(search)} searched configurations; without the last decoder layer {change}"


def _decoder_panels(holder: Axes, search: Sequence[Record]) -> Axes:
    """Draws the panels by decoder layers; returns the left panel."""
    left, right = _split(holder, 2, 0.62, margin=0.26)
    archs = [arch_of(record) for record in search]
    by_queries: dict[int, list[int]] = {}  # -> places in the search
    for place, arch in enumerate(archs):
        by_queries.setdefault(arch.queries, []).append(place)
    every = sorted(by_queries.items())
    lines = [every[place] for place in thinned(len(every), _MOST_LINES)]
    depths = sorted({arch.decoder_layers for arch in archs})
    for axes, value, label in (
        (left, ap_percent, "AP, %"),
        (right, ms_of, _modelled_label(search)),
    ):
        ends = []
        for color, (queries, places) in zip(PALETTE, lines, strict=False):
            group = [archs[place] for place in places]
            values = [value(search[place]) for place in places]
            by_depth = _by_knob(group, values, "decoder_layers")
            means = {depth: fmean(values) for depth, values in by_depth.items()}
            axes.plot(list(means), list(means.values()), color=color, marker="o", markersize=3.2)
            ends.append((list(means.values())[-1], max(means), f"{queries} queries", color))
        _spread_labels(axes, ends)
        axes.set_xticks([depths[place] for place in thinned(len(depths), 9)])
        axes.set_xlabel("decoder layers run")
        axes.set_ylabel(label)
    return left


def _spread_labels(axes: Axes, ends: list[tuple[float, int, str, str]]) -> None:
    """Labels lines at the right end, with the labels pushed apart so that they do not overlap."""
    low, high = axes.get_ylim()
    height_pt = axes.get_window_extent().height / axes.get_figure(root=True).dpi * 72  # type: ignore[union-attr]
    gap = (high - low) * 10.5 / max(height_pt, 1)
    places = pushed_apart([value for value, *_ in ends], gap, low, high)
    for (value, x, text, color), place in zip(ends, places, strict=True):
        offset_pt = (place - value) / (high - low) * height_pt
        end_label(axes, (x, value), text, color, (6, offset_pt))


def _by_knob(archs: Sequence[Arch], values: Sequence[float], knob: str) -> dict[int, list[float]]:
    """Value of ``knob``, ascending -> the ``values`` of the architectures that have it."""
    groups: dict[int, list[float]] = {}
    for arch, value in zip(archs, values, strict=True):
        groups.setdefault(getattr(arch, knob), []).append(value)
    return dict(sorted(groups.items()))


def _spread(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    deciles = quantiles(values, n=10, method="inclusive")
    return deciles[0], deciles[-1]
