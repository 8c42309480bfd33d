"""The paper's accuracy-latency figures, drawn from its printed numbers: named sizes only, no values
read from pictures.

Published points are hollow. A measured point is a filled diamond, and is drawn only if its latency
was measured like the published latencies (T4, TensorRT FP16, buffered 200 ms, same use of a CUDA
graph): a plot never mixes two backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rfdetr_repro.paper.published import join_key, published_table
from rfdetr_repro.records.record import TUNED, Record
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.tables.join import COCO_IMAGES, accuracy_of, timed_as_published

from .layout import (
    PointLabel,
    foot_height_in,
    foot_line,
    heading,
    label_points,
    pushed_apart,
)
from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    end_label,
    ink,
    log_latency_axis,
)

# of the camera-ready -> file, rows, columns, height of a row in inches
FIGURES = {"1": ("fig01", 2, 2, 3.3), "7": ("fig05", 1, 1, 4.6)}
_HEAD_IN = 0.72
_GAP_IN = 0.72  # between two rows
_LABELS_IN = 0.42  # of the lowest ticks and axis label
_COLORS = {
    "RF-DETR": VERMILION,
    "RF-DETR-Seg": VERMILION,
    "LW-DETR": BLUE,
    "D-FINE": GREEN,
    "RT-DETR": PURPLE,
    "YOLOv8": ORANGE,
    "YOLOv11": SKY,
}
_FAMILY_COLORS = {
    "rfdetr": VERMILION,
    "lwdetr": BLUE,
    "dfine": GREEN,
    "rtdetr": PURPLE,
    "yolov8": ORANGE,
    "yolo11": SKY,
}
_ALSO = {"7": " (5 in version 1)"}
_VARIANTS: dict[str, tuple[str, Any]] = {
    TUNED: (" fine-tuned", (0, (5, 2))),
    "fixed architecture (coco)": (" fixed", (0, (1, 1.2))),
}
_METRICS = {"ap": "AP, %", "ap50": "AP50, %"}


def published_height_in(number: str, records: Sequence[Record] = ()) -> float:
    """Height in inches of :func:`draw_published`."""
    _, rows, _, height_in = FIGURES.get(number, ("", 1, 1, 1.0))
    foot = foot_height_in(_foot(1 if records else 0)) + _LABELS_IN
    return _HEAD_IN + rows * height_in + (rows - 1) * _GAP_IN + foot


def _foot(shown: int) -> str:
    measured = (
        f"◆ measured here the same way: {shown} points"
        if shown
        else "no stored Record was measured that way"
    )
    return (
        f"○ published named sizes, arXiv 2511.09554 (T4, TensorRT FP16, 200 ms); {measured}. The "
        f"letters at the points are the sizes."
    )


def draw_published(figure: FigureBase, number: str, records: Sequence[Record] = ()) -> None:
    """Draws Figure 1 or 7 of the paper (numbers of the camera-ready) with its printed values and
    comparable measurements.
    """
    if number not in FIGURES:
        raise InputError(
            f"there are no published points for figure {number}",
            hint=f"choose one of {', '.join(FIGURES)}",
        )
    stem, rows, columns, _ = FIGURES[number]
    panels: dict[str, list[dict[str, str]]] = {}
    for row in published_table(stem).rows:
        if row["latency_ms"] and row["value"]:
            panels.setdefault(row["panel"], []).append(row)
    height = published_height_in(number, records)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.085,
        right=0.79 if rows == 1 else 0.825,
        bottom=(foot_height_in(_foot(1 if records else 0)) + _LABELS_IN) / height,
        top=1 - _HEAD_IN / height,
        wspace=0.62,
        hspace=_GAP_IN / FIGURES[number][3],
    )
    shown = 0
    for axes, (name, points) in zip(grid.flat, panels.items(), strict=False):
        found = _comparable(records, name, points[0]["metric"])
        shown += len(found)
        _panel(axes, name, points, found)
    kind = "Published and measured" if shown else "Published, not measured here"
    heading(figure, f"{kind}: Figure {number}{_ALSO.get(number, '')} of the paper")
    foot_line(figure, _foot(shown))


def _comparable(
    records: Sequence[Record], panel: str, metric: str
) -> list[tuple[float, float, str]]:
    """(ms, percent, colour) of measurements on the panel's data that were made like the published
    measurements.
    """
    task = "segment" if "segmentation" in panel else "detect"
    data = "coco-val2017" if "COCO" in panel else "rf100-vl"
    found = []
    for record in records:
        value = getattr(accuracy_of(record), metric, None)
        if (
            value is None
            or record.latency is None
            or record.model.task != task
            or not timed_as_published(record)
        ):
            continue
        whole = data != "coco-val2017" or (
            record.data is not None and record.data.num_images in (None, COCO_IMAGES)
        )
        if record.data is not None and record.data.name == data and whole:
            found.append(
                (
                    record.latency.median_ms,
                    100 * value,
                    _FAMILY_COLORS.get(join_key(record)[0], BLACK),
                )
            )
    return found


def _panel(
    axes: Axes, name: str, points: list[dict[str, str]], measured: list[tuple[float, float, str]]
) -> None:
    lines: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for row in points:
        lines.setdefault((row["model"], row["variant"]), []).append(
            (float(row["latency_ms"]), float(row["value"]), row["size"])
        )
    ends = []
    sizes = []
    for (model, variant), values in lines.items():
        values.sort()
        suffix, dashes = _VARIANTS.get(variant, ("", "-"))
        color = _COLORS.get(model, BLACK)
        width = 1.6 if model.startswith("RF-DETR") else 1.0
        hollow: dict[str, Any] = {
            "marker": "o",
            "markersize": 3.6,
            "markerfacecolor": "white",
            "markeredgewidth": 0.9,
        }
        x = [ms for ms, _, _ in values]
        y = [value for _, value, _ in values]
        axes.plot(x, y, color=color, linewidth=width, linestyle=dashes, **hollow)
        ends.append((y[-1], x[-1], model + suffix, color))
        sizes += [PointLabel(ms, value, size, ink(color)) for ms, value, size in values]
    for ms, value, color in measured:
        axes.plot(
            [ms],
            [value],
            "D",
            color=color,
            markersize=5.0,
            markeredgecolor=BLACK,
            markeredgewidth=0.5,
            zorder=5,
        )
    everything = [*(one.x for one in sizes), *(ms for ms, _, _ in measured)]
    log_latency_axis(axes, 0.78 * min(everything), 1.22 * max(everything))
    axes.margins(y=0.08)
    axes.set_ylim(axes.get_ylim())
    leaders = _right_labels(axes, ends)
    metric = _METRICS.get(points[0]["metric"], points[0]["metric"])
    axes.set_title(f"{name.split(': ')[-1]}, {metric.split(',')[0]}")
    axes.set_ylabel(metric)
    paths = [[(ms, value) for ms, value, _ in values] for values in lines.values()]
    found = [(ms, value) for ms, value, _ in measured]
    label_points(axes, sizes, found, [*paths, *leaders])


def _right_labels(
    axes: Axes, ends: list[tuple[float, float, str, str]]
) -> list[list[tuple[float, float]]]:
    """Line names in a column right of the axes, in the order of the line ends, with thin leaders,
    pushed apart; returns the leaders.
    """
    leaders = []
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    height_pt = axes.get_window_extent().height / axes.get_figure(root=True).dpi * 72  # type: ignore[union-attr]
    gap = (high - low) * 10.5 / height_pt
    ordered = sorted(ends)
    places = pushed_apart([value for value, *_ in ordered], gap, low, high)
    for (value, x, label, color), place in zip(ordered, places, strict=True):
        axes.plot([x, right], [value, place], color=GREY, linewidth=0.4, clip_on=False, zorder=1)
        end_label(axes, (right, place), label, color, (2, 0))
        leaders.append([(x, value), (right, place)])
    return leaders
