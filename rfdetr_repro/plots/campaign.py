"""Figures of a campaign from its Records alone: Pareto plot, effect of each knob, decoder depth by
queries.

Latencies of two modes, runtimes or machines never share an axis; modelled ones are drawn apart from
measured ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from statistics import fmean, quantiles

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from rfdetr_repro.records.ap_intervals import paired
from rfdetr_repro.records.pareto import (
    Confirmed,
    backend,
    confirmed_points,
    latency_mode,
    modelled_for,
)
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.sensitivity import comparable_searches
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

from .style import (
    BLUE,
    GREEN,
    GREY,
    PALETTE,
    VERMILION,
    drawable,
    end_label,
    log_latency_axis,
    origin_line,
    shortened,
)

PUBLISHED_FIGURE_4 = (
    "Published (arXiv 2511.09554, Figure 4): the points exist as an image only; its text: about -2 "
    "AP, -10 % latency (nano)."
)
KNOBS = {
    "resolution": "resolution, px",
    "patch": "patch, px",
    "windows": "windows per side",
    "decoder_layers": "decoder layers",
    "queries": "queries",
}
MOST_PANELS = 6  # of one figure, which is to fit a page
assert [*KNOBS, "width"] == [field.name for field in fields(Arch)]  # search spaces are square


@dataclass(frozen=True)
class Panel:
    """What may share one pair of axes: one data set, one runtime and machine, one way of taking
    latencies, one supernet.
    """

    title: str  # two lines: data set and supernet, then runtime and machine
    mode: str  # "buffered" or "sustained"
    search: Sequence[Record]  # latency modelled for this mode
    # and the Record of each that holds its latency in this mode
    points: Sequence[tuple[Confirmed, Record]]

    @property
    def example(self) -> Record:
        return self.search[0] if self.search else self.points[0][1]


def pareto_panels(records: Sequence[Record]) -> list[Panel]:
    """Panels of :func:`draw_pareto`, those with modelled points first.

    None mixes two modes, runtimes, machines or data sets.
    """
    measured: dict[tuple[object, ...], list[tuple[Confirmed, Record]]] = {}
    for point in confirmed_points(records):
        for record in (point.buffered, point.sustained):
            if (
                record is not None
                and record.latency is not None
                and any(map(_has_ap, _scored(point)))
            ):
                supernet = record.model.checkpoint_sha256 if point.arch is not None else None
                measured.setdefault((_data_name(record), backend(record), supernet), []).append(
                    (point, record)
                )
    panels = []
    for group in comparable_searches(records):
        key = next(
            (key for key, points in measured.items() if modelled_for(group[0], points[0][1])), None
        )
        points = measured.pop(key) if key else ()
        panels.append(
            Panel(
                _panel_title(points[0][1] if points else group[0]), _mode(group[0]), group, points
            )
        )
    panels += [
        Panel(_panel_title(points[0][1]), _mode(points[0][1]), (), points)
        for points in measured.values()
    ]
    if not panels:
        raise InputError(
            "no search or protocol Records with AP and latency to plot",
            hint="give the Records of a campaign",
        )
    supernets = list(dict.fromkeys(panel.example.model.checkpoint_sha256 for panel in panels))
    return sorted(
        panels,
        key=lambda panel: (
            supernets.index(panel.example.model.checkpoint_sha256),
            not panel.search,
        ),
    )


def drawable_points(records: Sequence[Record]) -> bool:
    """Whether :func:`draw_pareto` has anything to draw."""
    try:
        return bool(pareto_panels(records))
    except InputError:
        return False


def pareto_height_in(records: Sequence[Record]) -> float:
    """Height in inches of :func:`draw_pareto`: two panels to a row."""
    return 0.85 + 3.1 * -(-min(MOST_PANELS, len(pareto_panels(records))) // 2)


def draw_pareto(figure: FigureBase, records: Sequence[Record]) -> None:
    """AP against latency: search points faint (modelled latency, val), confirmed files on val and
    test with 95 % intervals.

    Each panel has one mode: latencies modelled for the sustained mode are never beside buffered
    ones. The line joins the points that are on the val frontier by measurement; it is dotted
    between two whose order in AP is not established or not known.
    """
    every = pareto_panels(records)
    panels = every[:MOST_PANELS]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    height = pareto_height_in(records)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.085,
        right=0.97,
        bottom=0.76 / height,
        top=1 - 0.72 / height,
        wspace=0.2,
        hspace=1.06 * rows / height,
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid.flat, panels, strict=False):
        _pareto_panel(axes, panel)
        axes.set_title(panel.title, fontweight="normal", fontsize=7.0, color=GREY)
        axes.set_ylabel(_ap_label(panel.example))
    kind = (
        _kind_of_data(panels[0].example)
        if len({_data_name(panel.example) for panel in panels}) == 1
        else ""
    )
    figure.text(
        0.085, 1 - 0.22 / height, f"Accuracy against latency{kind}", fontsize=9.5, fontweight="bold"
    )
    left_out = (
        f"; {len(every) - len(panels)} more panels are left out" if len(every) > len(panels) else ""
    )
    origin_line(figure, _explained(panels) + left_out)


def _pareto_panel(axes: Axes, panel: Panel) -> None:
    xs = [_ms(record) for record in panel.search]
    ys = [_ap(record) for record in panel.search]
    axes.scatter(
        xs, ys, s=9, color=GREY, alpha=0.3, linewidths=0, rasterized=len(xs) > 2000, zorder=2
    )
    front = _panel_front(panel)
    for split, color, marker in (("val", BLUE, "o"), ("test", VERMILION, "s")):
        shown = [
            (timed, holder)
            for point, timed in panel.points
            if (holder := point.on(split)) and _has_ap(holder)
        ]
        if not shown:
            continue
        x = [_ms(timed) for timed, _ in shown]
        y = [_ap(holder) for _, holder in shown]
        _join_front(
            axes, [(timed, holder) for timed, holder in shown if _file(timed) in front], color
        )
        axes.errorbar(
            x,
            y,
            label=f"{split}, measured",
            xerr=_whiskers(timed for timed, _ in shown),
            yerr=_ap_whiskers(holder for _, holder in shown),
            color=color,
            marker=marker,
            markersize=3.6,
            linestyle="none",
            elinewidth=0.8,
            capsize=1.6,
            zorder=4,
        )
        xs, ys = [*xs, *x], [*ys, *map(_ap_high, (holder for _, holder in shown))]
    if panel.search:
        label = f"{len(panel.search)} configurations on val,\nlatency modelled"
        axes.text(
            0.02,
            0.98,
            label,
            transform=axes.transAxes,
            color=GREY,
            ha="left",
            va="top",
            fontsize=7.0,
        )
    log_latency_axis(axes, 0.85 * min(xs), 1.12 * max(xs))
    axes.set_xlabel(f"{panel.mode} latency, ms (log scale)")
    axes.set_ylim(0, max(1.22 * max(ys), 1.0))  # room for the words above the points
    if panel.points:
        axes.legend(
            loc="upper right",
            frameon=False,
            fontsize=7.0,
            handlelength=1.2,
            borderaxespad=0.1,
            labelspacing=0.2,
        )


def _panel_front(panel: Panel) -> set[str]:
    """Files of the panel's val frontier by its own latencies; of equals the faster."""
    on_val = []
    for point, timed in panel.points:
        holder = point.on("val")
        if holder is not None and _has_ap(holder):
            on_val.append((_ms(timed), -_ap(holder), _file(timed)))
    front: set[str] = set()
    best = 0.0
    for _, negative_ap, file in sorted(on_val):
        if negative_ap < best or not front:
            front.add(file)
            best = negative_ap
    return front


def _join_front(axes: Axes, shown: Sequence[tuple[Record, Record]], color: str) -> None:
    """A line through the front; dotted where it is not established, or not known, that the slower
    neighbour has another AP.
    """
    ordered = sorted(shown, key=lambda pair: _ms(pair[0]))
    for (timed, holder), (next_timed, next_holder) in pairwise(ordered):
        change = paired(holder, next_holder)
        established = change is not None and change.distinguishable
        x = (_ms(timed), _ms(next_timed))
        y = (_ap(holder), _ap(next_holder))
        axes.plot(
            x,
            y,
            color=color,
            linewidth=1.1,
            linestyle="-" if established else (0, (1, 1.4)),
            zorder=3,
        )


def _explained(panels: Sequence[Panel]) -> str:
    """What whiskers and lines mean here."""
    holders = [
        holder
        for panel in panels
        for point, _ in panel.points
        for holder in _scored(point)
        if _has_ap(holder)
    ]
    if not holders:
        return "Nothing here was confirmed by measurement: every latency is modelled."
    known = sum(
        holder.accuracy is not None and holder.accuracy.ap_low is not None for holder in holders
    )
    whiskers = "whiskers: 95 % intervals of the median latency and of AP over other images"
    if not known:
        whiskers = (
            "whiskers: 95 % interval of the median latency; how sure the APs are is not known"
        )
    elif known < len(holders):
        whiskers += " (not known for every point)"
    return f"{whiskers}\ndotted: which of two neighbours has the higher AP is not established"


def _panel_title(record: Record) -> str:
    """Data set and supernet; below them runtime and machine, each shortened to a panel's width."""
    supernet = record.model.checkpoint_sha256 if record.model.arch is not None else None
    named = [
        shortened(_data_name(record), 26) or "unknown data",
        *([f"supernet {supernet[:8]}"] if supernet else []),
    ]
    return "\n".join([drawable(", ".join(named)), drawable(shortened(backend(record), 50))])


def _mode(record: Record) -> str:
    return latency_mode(record) or "unknown mode"


def _scored(point: Confirmed) -> list[Record]:
    return [holder for holder in (point.on("val"), point.on("test")) if holder is not None]


def _file(record: Record) -> str:
    return record.artifact.sha256 if record.artifact else ""


def _whiskers(records: Iterable[Record]) -> list[list[float]]:
    """Distances from the median to both ends of the 95 % interval, in ms; 0 where a Record has
    none.
    """
    low = []
    high = []
    for record in records:
        latency = record.latency
        assert latency is not None
        low.append(
            latency.median_ms
            - (latency.ci_low_ms if latency.ci_low_ms is not None else latency.median_ms)
        )
        high.append(
            (latency.ci_high_ms if latency.ci_high_ms is not None else latency.median_ms)
            - latency.median_ms
        )
    return [[max(0.0, value) for value in low], [max(0.0, value) for value in high]]


def _ap_whiskers(records: Iterable[Record]) -> list[list[float]]:
    """Distances from AP to both ends of its 95 % interval, in points; not a number, and so not
    drawn, where that is unknown.
    """
    low = []
    high = []
    for record in records:
        accuracy = record.accuracy
        known = (
            accuracy is not None and accuracy.ap_low is not None and accuracy.ap_high is not None
        )
        low.append(_ap(record) - 100 * accuracy.ap_low if known else math.nan)  # type: ignore[union-attr,operator]
        high.append(100 * accuracy.ap_high - _ap(record) if known else math.nan)  # type: ignore[union-attr,operator]
    return [low, high]


def _ap_high(record: Record) -> float:
    """Upper end of the interval of AP in percent; AP itself where that is unknown."""
    return (
        _ap(record)
        if record.accuracy is None or record.accuracy.ap_high is None
        else 100 * record.accuracy.ap_high
    )


def draw_knobs(figure: FigureBase, records: Sequence[Record]) -> None:
    """Effect of each of the five knobs over all searched configurations, then decoder depth by
    queries.
    """
    search, left_out = _largest_search(records)
    grid = figure.subplots(3, 1, gridspec_kw={"height_ratios": (1, 1, 1.25), "hspace": 0.5})
    figure.subplots_adjust(left=0.085, right=0.96, bottom=0.075, top=0.88)
    figure.text(
        0.085,
        0.955,
        drawable(
            f"Effect of each knob over {len(search)} configurations{_kind_of_data(search[0])}"
        ),
        fontsize=9.5,
        fontweight="bold",
    )
    explained = f"line: mean over all other knobs; band: 10th to 90th percentile{left_out}"
    figure.text(0.085, 0.925, explained, color=GREY, fontsize=7.5)
    rows: tuple[tuple[Callable[[Record], float], str, str], ...] = (
        (_ap, "AP, %", BLUE),
        (_ms, _modelled_label(search), GREEN),
    )
    for holder, (value, label, color) in zip(grid[:2], rows, strict=True):
        _knob_row(holder, search, value, label, color)
    _decoder_panels(grid[2], search)


def _largest_search(records: Sequence[Record]) -> tuple[list[Record], str]:
    """The largest group of searched Records that may share an axis, and words on how many others
    are left out.
    """
    groups = comparable_searches(records)
    if not groups:
        raise InputError(
            "no search Records with an architecture to plot", hint="give the Records of a campaign"
        )
    others = sum(map(len, groups[1:]))
    return groups[0], f"; {others} Records of other searches are left out" if others else ""


def _modelled_label(search: Sequence[Record]) -> str:
    return f"modelled {_mode(search[0])} ms"


def _split(
    holder: Axes, columns: int, gap: float, margin: float = 1e-3, share_y: bool = False
) -> list[Axes]:
    """Replaces an axes by `columns` axes in its place; `gap` between them and `margin` at the
    right, in widths of one.
    """
    spec = holder.get_subplotspec()
    figure = holder.get_figure()
    assert spec is not None and figure is not None
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
    for axes, (knob, title) in zip(panels, KNOBS.items(), strict=True):
        groups = _by_knob(search, knob, value)
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
        axes.set_xticks(list(positions), [str(key) for key in groups])
        axes.set_xlim(-0.3, len(groups) - 0.7)
        axes.set_xlabel(title)
        axes.tick_params(labelleft=axes is panels[0])
    panels[0].set_ylabel(label)
    panels[0].set_ylim(bottom=0)


def draw_decoder(figure: FigureBase, records: Sequence[Record]) -> None:
    """AP and latency by decoder layers, a line per number of queries; AP over latency of one
    backbone (Figure 4).
    """
    search, left_out = _largest_search(records)
    over_all, one = figure.subplots(2, 1, gridspec_kw={"hspace": 0.58})
    figure.subplots_adjust(left=0.085, right=0.96, bottom=0.155, top=0.87)
    title = drawable(f"Dropping decoder layers and queries{_kind_of_data(search[0])}")
    figure.text(0.085, 0.955, title, fontsize=9.5, fontweight="bold")
    _decoder_panels(over_all, search).set_title("mean over all backbones", fontweight="normal")
    _one_backbone(one, search)
    origin_line(figure, f"Measured here: {_last_layer(search)}{left_out}\n{PUBLISHED_FIGURE_4}")


def _one_backbone(holder: Axes, search: Sequence[Record]) -> None:
    """AP over latency of the backbone of the best configuration: a line per number of layers, a
    point per number of queries.
    """
    (axes,) = _split(holder, 1, 0, margin=0.13)
    best = max(search, key=lambda record: (_ap(record), -_ms(record)))
    group = [record for record in search if _same_backbone(record, best)]
    layers = sorted({_arch(record).decoder_layers for record in group})
    for color, depth in zip(PALETTE * 9, layers, strict=False):
        line = sorted(
            (record for record in group if _arch(record).decoder_layers == depth),
            key=lambda one: _arch(one).queries,
        )
        axes.plot(
            [_ms(record) for record in line],
            [_ap(record) for record in line],
            color=color,
            marker="o",
            markersize=3.2,
        )
        for record in line:
            above = (0, 7) if depth != layers[0] else (0, -8)
            end_label(
                axes, (_ms(record), _ap(record)), str(_arch(record).queries), color, above, "center"
            )
        end_label(
            axes,
            (_ms(line[-1]), _ap(line[-1])),
            f"{depth} layer{'' if depth == 1 else 's'}",
            color,
            (9, 0),
        )
    arch = _arch(best)
    name = (
        f"{arch.input_hw[0]} px, patch {arch.patch}, {arch.windows} "
        f"window{'' if arch.windows == 1 else 's'} per side"
    )
    axes.set_title(
        f"one backbone, that of the best AP: {name}; numbers at points: queries",
        fontweight="normal",
    )
    axes.margins(x=0.03, y=0.16)
    axes.set_xlabel(_modelled_label(search))
    axes.set_ylabel("AP, %")


def _same_backbone(one: Record, other: Record) -> bool:
    return (_arch(one).backbone, one.model.checkpoint_sha256) == (
        _arch(other).backbone,
        other.model.checkpoint_sha256,
    )


def _last_layer(search: Sequence[Record]) -> str:
    """What the removal of the last decoder layer does, in the paper's own words and units."""
    ap, ms = (_by_knob(search, "decoder_layers", value) for value in (_ap, _ms))
    if len(ap) < 2:
        return "one decoder depth only"
    *_, before, last = ap
    gain = fmean(ap[before]) - fmean(ap[last])
    saved = 100 * (fmean(ms[before]) / fmean(ms[last]) - 1)
    change = f"{gain:+.1f} AP, {saved:+.0f} % modelled latency"
    return f"{len(search)} searched configurations; without the last decoder layer {change}."


def _decoder_panels(holder: Axes, search: Sequence[Record]) -> Axes:
    """Returns the left panel."""
    left, right = _split(holder, 2, 0.62, margin=0.26)
    for axes, value, label in ((left, _ap, "AP, %"), (right, _ms, _modelled_label(search))):
        by_queries: dict[int, list[Record]] = {}
        for record in search:
            by_queries.setdefault(_arch(record).queries, []).append(record)
        ends = []
        for color, (queries, group) in zip(PALETTE * 9, sorted(by_queries.items()), strict=False):
            means = {
                depth: fmean(values)
                for depth, values in _by_knob(group, "decoder_layers", value).items()
            }
            axes.plot(list(means), list(means.values()), color=color, marker="o", markersize=3.2)
            ends.append((list(means.values())[-1], max(means), f"{queries} queries", color))
        _spread_labels(axes, ends)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("decoder layers run")
        axes.set_ylabel(label)
    return left


def _spread_labels(axes: Axes, ends: list[tuple[float, int, str, str]]) -> None:
    """Writes line names at the right end, pushed apart so that they do not overlap."""
    low, high = axes.get_ylim()
    height_pt = axes.get_window_extent().height / axes.get_figure(root=True).dpi * 72  # type: ignore[union-attr]
    gap = (high - low) * 9 / max(height_pt, 1)
    place = -float("inf")
    for value, x, text, color in sorted(ends):
        place = max(value, place + gap)
        offset_pt = (place - value) / (high - low) * height_pt
        end_label(axes, (x, value), text, color, (6, offset_pt))


def _by_knob(
    search: Iterable[Record], knob: str, value: Callable[[Record], float]
) -> dict[int, list[float]]:
    groups: dict[int, list[float]] = {}
    for record in search:
        groups.setdefault(getattr(_arch(record), knob), []).append(value(record))
    return dict(sorted(groups.items()))


def _spread(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    deciles = quantiles(values, n=10, method="inclusive")
    return deciles[0], deciles[-1]


def _arch(record: Record) -> Arch:
    assert record.model.arch is not None
    return record.model.arch


def _ms(record: Record) -> float:
    assert record.latency is not None
    return record.latency.median_ms


def _has_ap(record: Record) -> bool:
    return record.accuracy is not None and record.accuracy.ap is not None


def _ap(record: Record) -> float:
    assert record.accuracy is not None and record.accuracy.ap is not None
    return 100 * record.accuracy.ap


def _data_name(record: Record) -> str:
    return record.data.name if record.data else ""


def _kind_of_data(record: Record) -> str:
    if record.data is None:
        return ""
    return (
        " (synthetic data: not COCO AP)"
        if record.data.synthetic
        else drawable(f" ({shortened(record.data.name, 40)})")
    )


def _ap_label(record: Record) -> str:
    return "synthetic AP, %" if record.data and record.data.synthetic else "AP, %"
