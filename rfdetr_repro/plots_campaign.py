"""Figures of a campaign from its Records alone: Pareto plot, effect of each knob, decoder depth by queries.

Modelled and measured latencies, and different runtimes, never share a front or a panel's line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from statistics import fmean, quantiles

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from .config import Arch
from .errors import InputError
from .pareto import Confirmed, backend, confirmed_points, measured_front
from .plots_style import BLUE, GREEN, GREY, PALETTE, VERMILION, end_label, log_latency_axis, origin_line
from .record import Record
from .sensitivity import searched

PUBLISHED_FIGURE_4 = (
    "Published (arXiv 2511.09554, Figure 4): the points exist as an image only; its text: about -2 AP, -10 % latency (nano)."
)
KNOBS = {
    "resolution": "resolution, px",
    "patch": "patch, px",
    "windows": "windows per side",
    "decoder_layers": "decoder layers",
    "queries": "queries",
}
assert [*KNOBS, "width"] == [field.name for field in fields(Arch)]  # search spaces are square


def draw_pareto(figure: FigureBase, records: Sequence[Record]) -> None:
    """AP against latency: search points faint (modelled latency, val), confirmed files on val and test with 95 % intervals,
    and their sustained medians hollow.

    One panel per data set and measured backend. The line joins the points that are on the val frontier by measurement.
    """
    search = searched(records)
    groups: dict[tuple[str, str], list[Confirmed]] = {}
    for point in confirmed_points(records):
        if point.buffered is not None:
            groups.setdefault((_data_name(point.any), backend(point.buffered)), []).append(point)
    for record in search:
        if not any(name == _data_name(record) for name, _ in groups):
            groups[_data_name(record), ""] = []
    if not groups:
        raise InputError("no search or protocol Records to plot", mend="give the Records of a campaign")
    grid = figure.subplots(1, len(groups), sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.085, right=0.97, bottom=0.145, top=0.79, wspace=0.12)
    for axes, ((name, measured), points) in zip(grid[0], groups.items(), strict=True):
        known = [record for record in search if _data_name(record) == name]
        _pareto_panel(axes, known, points)
        title = (
            f"measured: {measured}; whiskers: 95 % interval of the median" if measured else "latency modelled, nothing confirmed"
        )
        axes.set_title(title, fontweight="normal", fontsize=7.5, color=GREY)
        first = (known or [point.any for point in points])[0]
        axes.set_ylabel(_ap_label(first) if axes is grid[0][0] else "")
    figure.text(0.085, 0.925, f"Accuracy against latency{_kind_of_data(first)}", fontsize=9.5, fontweight="bold")


def _pareto_panel(axes: Axes, search: Sequence[Record], points: Sequence[Confirmed]) -> None:
    xs, ys = [_ms(record) for record in search], [_ap(record) for record in search]
    axes.scatter(xs, ys, s=9, color=GREY, alpha=0.3, linewidths=0, rasterized=len(xs) > 2000, zorder=2)
    front = measured_front(points)
    for split, color, marker in (("val", BLUE, "o"), ("test", VERMILION, "s")):
        shown = [point for point in points if (holder := getattr(point, split)) and _has_ap(holder) and point.buffered]
        if not shown:
            continue
        x = {point.sha256: _ms(point.buffered) for point in shown if point.buffered}
        y = {point.sha256: _ap(getattr(point, split)) for point in shown}
        line = [name for name in x if name in front]
        axes.plot([x[name] for name in line], [y[name] for name in line], color=color, linewidth=1.1, zorder=3)
        whiskers = _whiskers(point.buffered for point in shown if point.buffered) if split == "val" else None
        axes.errorbar(
            list(x.values()), list(y.values()), xerr=whiskers, color=color, marker=marker, markersize=3.6, linestyle="none",
            elinewidth=0.8, capsize=1.6, zorder=4,
        )  # fmt: skip
        top = max(x, key=lambda name: x[name])
        end_label(axes, (x[top], y[top]), f"{split}, measured", color, (0, 9), align="right")
        xs, ys = [*xs, *x.values()], [*ys, *y.values()]
    xs = [*xs, *_draw_sustained(axes, points)]
    if search:
        label = f"{len(search)} configurations on val, latency modelled"
        axes.text(0.985, 0.03, label, transform=axes.transAxes, color=GREY, ha="right", va="bottom", fontsize=7.5)
    log_latency_axis(axes, 0.85 * min(xs), 1.12 * max(xs))
    axes.set_ylim(0, max(1.12 * max(ys), axes.get_ylim()[1]))  # panels share the axis: never shrink it


def _draw_sustained(axes: Axes, points: Sequence[Confirmed]) -> list[float]:
    """The same files without pauses between images, hollow, on val: untouched by a host that is slow to wake up. Their ms."""
    both = [(point.sustained, point.val) for point in points if point.sustained and point.val]
    shown = [(_ms(sustained), _ap(val)) for sustained, val in both if _has_ap(val)]
    if not shown:
        return []
    x, y = zip(*shown, strict=True)
    axes.plot(x, y, "o", markerfacecolor="none", markeredgecolor=BLUE, markersize=4.4, linestyle="none", zorder=4)
    end_label(axes, min(shown), "val, sustained", BLUE, (0, -13), align="left")  # at the end where the other labels are not
    return list(x)


def _whiskers(records: Iterable[Record]) -> list[list[float]]:
    """Distances from the median to both ends of the 95 % interval, in ms; 0 where a Record has none."""
    low, high = [], []
    for record in records:
        latency = record.latency
        assert latency is not None
        low.append(latency.median_ms - (latency.ci_low_ms if latency.ci_low_ms is not None else latency.median_ms))
        high.append((latency.ci_high_ms if latency.ci_high_ms is not None else latency.median_ms) - latency.median_ms)
    return [[max(0.0, value) for value in low], [max(0.0, value) for value in high]]


def draw_knobs(figure: FigureBase, records: Sequence[Record]) -> None:
    """Effect of each of the five knobs over all searched configurations, then decoder depth by queries."""
    search = searched(records)
    if not search:
        raise InputError("no search Records with an architecture to plot", mend="give the Records of a campaign")
    grid = figure.subplots(3, 1, gridspec_kw={"height_ratios": (1, 1, 1.25), "hspace": 0.5})
    figure.subplots_adjust(left=0.085, right=0.96, bottom=0.075, top=0.88)
    figure.text(
        0.085,
        0.955,
        f"Effect of each knob over {len(search)} configurations{_kind_of_data(search[0])}",
        fontsize=9.5,
        fontweight="bold",
    )
    figure.text(0.085, 0.925, "line: mean over all other knobs; band: 10th to 90th percentile", color=GREY, fontsize=7.5)
    rows: tuple[tuple[Callable[[Record], float], str, str], ...] = ((_ap, "AP, %", BLUE), (_ms, "latency, ms (modelled)", GREEN))
    for holder, (value, label, color) in zip(grid[:2], rows, strict=True):
        _knob_row(holder, search, value, label, color)
    _decoder_panels(grid[2], search)


def _split(holder: Axes, columns: int, gap: float, margin: float = 1e-3, share_y: bool = False) -> list[Axes]:
    """Replaces an axes by `columns` axes in its place; `gap` between them and `margin` at the right, in widths of one."""
    spec, figure = holder.get_subplotspec(), holder.get_figure()
    assert spec is not None and figure is not None
    holder.remove()
    ratios = [part for _ in range(columns) for part in (1, gap)]
    inner = spec.subgridspec(1, 2 * columns, wspace=0, width_ratios=[*ratios[:-1], margin])
    axes: list[Axes] = []
    for column in range(columns):
        axes.append(figure.add_subplot(inner[0, 2 * column], sharey=axes[0] if axes and share_y else None))
    return axes


def _knob_row(holder: Axes, search: Sequence[Record], value: Callable[[Record], float], label: str, color: str) -> None:
    panels = _split(holder, len(KNOBS), 0.14, share_y=True)
    for axes, (knob, title) in zip(panels, KNOBS.items(), strict=True):
        groups = _by_knob(search, knob, value)
        positions = range(len(groups))
        means = [fmean(values) for values in groups.values()]
        spread = [_spread(values) for values in groups.values()]
        axes.fill_between(
            positions, [low for low, _ in spread], [high for _, high in spread], color=color, alpha=0.15, linewidth=0
        )
        axes.plot(positions, means, color=color, marker="o", markersize=3.2)
        axes.set_xticks(list(positions), [str(key) for key in groups])
        axes.set_xlim(-0.3, len(groups) - 0.7)
        axes.set_xlabel(title)
        axes.tick_params(labelleft=axes is panels[0])
    panels[0].set_ylabel(label)
    panels[0].set_ylim(bottom=0)


def draw_decoder(figure: FigureBase, records: Sequence[Record]) -> None:
    """AP and latency by decoder layers, a line per number of queries; AP over latency of one backbone (Figure 4)."""
    search = searched(records)
    if not search:
        raise InputError("no search Records with an architecture to plot", mend="give the Records of a campaign")
    over_all, one = figure.subplots(2, 1, gridspec_kw={"hspace": 0.58})
    figure.subplots_adjust(left=0.085, right=0.96, bottom=0.155, top=0.87)
    figure.text(0.085, 0.955, f"Dropping decoder layers and queries{_kind_of_data(search[0])}", fontsize=9.5, fontweight="bold")
    _decoder_panels(over_all, search).set_title("mean over all backbones", fontweight="normal")
    _one_backbone(one, search)
    origin_line(figure, f"Measured here: {_last_layer(search)}\n{PUBLISHED_FIGURE_4}")


def _one_backbone(holder: Axes, search: Sequence[Record]) -> None:
    """AP over latency of the backbone of the best configuration: a line per number of layers, a point per number of queries."""
    (axes,) = _split(holder, 1, 0, margin=0.13)
    best = max(search, key=lambda record: (_ap(record), -_ms(record)))
    group = [record for record in search if _same_backbone(record, best)]
    layers = sorted({_arch(record).decoder_layers for record in group})
    for color, depth in zip(PALETTE * 9, layers, strict=False):
        line = sorted((record for record in group if _arch(record).decoder_layers == depth), key=lambda one: _arch(one).queries)
        axes.plot([_ms(record) for record in line], [_ap(record) for record in line], color=color, marker="o", markersize=3.2)
        for record in line:
            above = (0, 7) if depth != layers[0] else (0, -8)
            end_label(axes, (_ms(record), _ap(record)), str(_arch(record).queries), color, above, "center")
        end_label(axes, (_ms(line[-1]), _ap(line[-1])), f"{depth} layer{'' if depth == 1 else 's'}", color, (9, 0))
    arch = _arch(best)
    name = f"{arch.input_hw[0]} px, patch {arch.patch}, {arch.windows} window{'' if arch.windows == 1 else 's'} per side"
    axes.set_title(f"one backbone, that of the best AP: {name}; numbers at points: queries", fontweight="normal")
    axes.margins(x=0.03, y=0.16)
    axes.set_xlabel("latency, ms (modelled)")
    axes.set_ylabel("AP, %")


def _same_backbone(one: Record, other: Record) -> bool:
    return (_arch(one).backbone, one.model.checkpoint_sha256) == (_arch(other).backbone, other.model.checkpoint_sha256)


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
    for axes, value, label in ((left, _ap, "AP, %"), (right, _ms, "latency, ms (modelled)")):
        by_queries: dict[int, list[Record]] = {}
        for record in search:
            by_queries.setdefault(_arch(record).queries, []).append(record)
        ends = []
        for color, (queries, group) in zip(PALETTE * 9, sorted(by_queries.items()), strict=False):
            means = {depth: fmean(values) for depth, values in _by_knob(group, "decoder_layers", value).items()}
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


def _by_knob(search: Iterable[Record], knob: str, value: Callable[[Record], float]) -> dict[int, list[float]]:
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
    return " (synthetic data: not COCO AP)" if record.data.synthetic else f" ({record.data.name})"


def _ap_label(record: Record) -> str:
    return "synthetic AP, %" if record.data and record.data.synthetic else "AP, %"
