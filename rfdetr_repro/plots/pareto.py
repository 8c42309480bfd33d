"""Accuracy against latency of a campaign, drawn from its Records alone.

Latencies of two modes, runtimes or machines never share an axis; modelled latencies are drawn
differently from measured latencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rfdetr_repro.records.ap_intervals import paired
from rfdetr_repro.records.pareto import (
    Confirmed,
    backend,
    confirmed_points,
    modelled_for,
    threads_of,
)
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.sensitivity import comparable_searches
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import plural

from .layout import foot_height_in, foot_line, heading
from .style import BLUE, GREY, VERMILION, drawable, log_latency_axis, shortened
from .values import ap_label, ap_percent, data_name, data_words, has_ap, mode_of, ms_of

MOST_PANELS = 6  # most panels of a figure, so that it fits a page


@dataclass(frozen=True)
class Panel:
    """Records that may share a pair of axes: one data set, runtime, machine, latency mode and
    supernet.
    """

    title: str  # two lines: data set and supernet, then runtime and machine
    mode: str  # "buffered" or "sustained"
    search: Sequence[Record]  # latency modelled for this mode
    # and the Record of each that holds its latency in this mode
    points: Sequence[tuple[Confirmed, Record]]

    @property
    def example(self) -> Record:
        """A Record of the panel, from which titles and labels are made."""
        return self.search[0] if self.search else self.points[0][1]


def pareto_panels(records: Sequence[Record]) -> list[Panel]:
    """The panels of :func:`draw_pareto`, starting with those that have modelled points.

    No panel mixes modes, runtimes, numbers of threads, machines or data sets. Raises
    :class:`InputError` if there is nothing to draw.
    """
    measured: dict[tuple[object, ...], list[tuple[Confirmed, Record]]] = {}
    for point in confirmed_points(records):
        for record in (point.buffered, point.sustained):
            if (
                record is not None
                and record.latency is not None
                and any(map(has_ap, _scored(point)))
            ):
                supernet = record.model.checkpoint_sha256 if point.arch is not None else None
                panel = (data_name(record), backend(record), threads_of(record), supernet)
                measured.setdefault(panel, []).append((point, record))
    several = len({threads_of(points[0][1]) for points in measured.values()} - {None}) > 1
    panels = []
    for group in comparable_searches(records):
        key = next(
            (key for key, points in measured.items() if modelled_for(group[0], points[0][1])), None
        )
        points = measured.pop(key) if key else ()
        panels.append(
            Panel(
                _panel_title(points[0][1] if points else group[0], several),
                mode_of(group[0]),
                group,
                points,
            )
        )
    panels += [
        Panel(_panel_title(points[0][1], several), mode_of(points[0][1]), (), points)
        for points in measured.values()
    ]
    if not panels:
        raise InputError(
            "there are no search or protocol Records with AP and latency to plot",
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
    panels = pareto_panels(records)
    rows = -(-min(MOST_PANELS, len(panels)) // 2)
    return 0.58 + 3.1 * rows + foot_height_in(_foot(panels))


def draw_pareto(figure: FigureBase, records: Sequence[Record]) -> None:
    """Draws AP against latency: search points faintly (modelled latency, val), confirmed files on
    val and test with 95 % intervals.

    Each panel has one mode: latencies modelled for the sustained mode never share a panel with
    buffered latencies. The line joins the points that are on the val frontier by measurement; the
    line is dotted between two points whose order in AP is not established or unknown.
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
        bottom=(0.46 + foot_height_in(_foot(every))) / height,
        top=1 - 0.72 / height,
        wspace=0.2,
        hspace=1.06 * rows / height,
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid.flat, panels, strict=False):
        _pareto_panel(axes, panel)
        axes.set_title(panel.title, fontweight="normal", fontsize=7.0, color=GREY)
        axes.set_ylabel(ap_label(panel.example))
    kind = (
        data_words(panels[0].example)
        if len({data_name(panel.example) for panel in panels}) == 1
        else ""
    )
    heading(figure, f"Accuracy against latency{kind}")
    foot_line(figure, _foot(every))


def _foot(every: Sequence[Panel]) -> str:
    panels = every[:MOST_PANELS]
    more = len(every) - len(panels)
    return _explained(panels) + (f"; {more} more panels are left out" if more else "")


def _pareto_panel(axes: Axes, panel: Panel) -> None:
    xs = [ms_of(record) for record in panel.search]
    ys = [ap_percent(record) for record in panel.search]
    axes.scatter(
        xs, ys, s=9, color=GREY, alpha=0.3, linewidths=0, rasterized=len(xs) > 2000, zorder=2
    )
    front = _panel_front(panel)
    for split, color, marker in (("val", BLUE, "o"), ("test", VERMILION, "s")):
        shown = [
            (timed, holder)
            for point, timed in panel.points
            if (holder := point.on(split)) and has_ap(holder)
        ]
        if not shown:
            continue
        x = [ms_of(timed) for timed, _ in shown]
        y = [ap_percent(holder) for _, holder in shown]
        _join_front(
            axes, [(timed, holder) for timed, holder in shown if _file(timed) in front], color
        )
        whiskers = _whiskers(timed for timed, _ in shown)
        axes.errorbar(
            x,
            y,
            label=f"{split}, measured",
            xerr=whiskers,
            yerr=_ap_whiskers(holder for _, holder in shown),
            color=color,
            marker=marker,
            markersize=3.6,
            linestyle="none",
            elinewidth=0.8,
            capsize=1.6,
            zorder=4,
        )
        below, above = whiskers
        xs += [ms - part for ms, part in zip(x, below, strict=True)]
        xs += [ms + part for ms, part in zip(x, above, strict=True)]
        ys += [_ap_high(holder) for _, holder in shown]
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
    axes.set_ylim(0, max(1.22 * max(ys), 1.0))  # room for the labels above the points
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
    """The files on the panel's val frontier by its own latencies; of equal files the faster."""
    on_val = []
    for point, timed in panel.points:
        holder = point.on("val")
        if holder is not None and has_ap(holder):
            on_val.append((ms_of(timed), -ap_percent(holder), _file(timed)))
    front: set[str] = set()
    best = 0.0
    for _, negative_ap, file in sorted(on_val):
        if negative_ap < best or not front:
            front.add(file)
            best = negative_ap
    return front


def _join_front(axes: Axes, shown: Sequence[tuple[Record, Record]], color: str) -> None:
    """Draws a line through the frontier; dotted where a difference in AP between neighbours is not
    established or unknown.
    """
    ordered = sorted(shown, key=lambda pair: ms_of(pair[0]))
    for (timed, holder), (next_timed, next_holder) in pairwise(ordered):
        change = paired(holder, next_holder)
        established = change is not None and change.distinguishable
        x = (ms_of(timed), ms_of(next_timed))
        y = (ap_percent(holder), ap_percent(next_holder))
        axes.plot(
            x,
            y,
            color=color,
            linewidth=1.1,
            linestyle="-" if established else (0, (1, 1.4)),
            zorder=3,
        )


def _explained(panels: Sequence[Panel]) -> str:
    """The caption that explains whiskers and lines."""
    holders = [
        holder
        for panel in panels
        for point, _ in panel.points
        for holder in _scored(point)
        if has_ap(holder)
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


def _panel_title(record: Record, with_threads: bool) -> str:
    """Data set and supernet, and the number of threads if wanted; below them runtime and machine,
    each shortened to a panel's width.
    """
    threads = threads_of(record) if with_threads else None
    supernet = record.model.checkpoint_sha256 if record.model.arch is not None else None
    named = [
        shortened(data_name(record), 26) or "unknown data",
        *([f"supernet {supernet[:8]}"] if supernet else []),
        *([plural(threads, "thread")] if threads else []),
    ]
    return "\n".join([drawable(", ".join(named)), drawable(shortened(backend(record), 50))])


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
        latency = record.as_latency().latency
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
    """Distances from AP to both ends of its 95 % interval, in points; NaN, which is not drawn,
    where the interval is unknown.
    """
    low = []
    high = []
    for record in records:
        accuracy = record.as_accuracy().accuracy
        if accuracy.ap_low is None or accuracy.ap_high is None:
            low.append(math.nan)
            high.append(math.nan)
        else:
            low.append(ap_percent(record) - 100 * accuracy.ap_low)
            high.append(100 * accuracy.ap_high - ap_percent(record))
    return [low, high]


def _ap_high(record: Record) -> float:
    """Upper end of the interval of AP in percent, or AP itself where the interval is unknown."""
    return (
        ap_percent(record)
        if record.accuracy is None or record.accuracy.ap_high is None
        else 100 * record.accuracy.ap_high
    )
