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
    log_latency_axis,
    origin_line,
)

# file, rows, columns, height in inches
FIGURES = {"1": ("fig01", 2, 2, 5.6), "5": ("fig05", 1, 1, 3.6)}
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
_ALSO = {"5": " (7 in the camera-ready)"}
_VARIANTS: dict[str, tuple[str, Any]] = {
    TUNED: (" fine-tuned", (0, (5, 2))),
    "fixed architecture (coco)": (" fixed", (0, (1, 1.2))),
}
_METRICS = {"ap": "AP, %", "ap50": "AP50, %"}


def draw_published(figure: FigureBase, number: str, records: Sequence[Record] = ()) -> None:
    """Draws Figure 1 or 5 of the paper (version 1 numbering) with camera-ready values and
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
    grid = figure.subplots(rows, columns, squeeze=False)
    bottom, top, right = (0.19, 0.83, 0.8) if rows == 1 else (0.115, 0.88, 0.825)
    figure.subplots_adjust(
        left=0.085, right=right, bottom=bottom, top=top, wspace=0.62, hspace=0.42
    )
    shown = 0
    for axes, (name, points) in zip(grid.flat, panels.items(), strict=False):
        found = _comparable(records, name, points[0]["metric"])
        shown += len(found)
        _panel(axes, name, points, found)
    kind = "Published and measured" if shown else "Published, not measured here"
    title = f"{kind}: Figure {number}{_ALSO.get(number, '')} of the paper"
    figure.text(0.085, 0.945, title, fontsize=9.5, fontweight="bold")
    measured_words = (
        f"◆ measured here the same way: {shown} points"
        if shown
        else "no stored Record was measured that way"
    )
    origin_line(
        figure,
        f"○ published named sizes, arXiv 2511.09554 (T4, TensorRT FP16, 200 ms); {measured_words}",
    )


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
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in points:
        lines.setdefault((row["model"], row["variant"]), []).append(
            (float(row["latency_ms"]), float(row["value"]))
        )
    ends = []
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
        axes.plot(
            *zip(*values, strict=True), color=color, linewidth=width, linestyle=dashes, **hollow
        )
        ends.append((values[-1][1], values[-1][0], model + suffix, color))
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
    everything = [
        *(x for values in lines.values() for x, _ in values),
        *(ms for ms, _, _ in measured),
    ]
    log_latency_axis(axes, 0.85 * min(everything), 1.15 * max(everything))
    _right_labels(axes, ends)
    metric = _METRICS.get(points[0]["metric"], points[0]["metric"])
    axes.set_title(f"{name.split(': ')[-1]}, {metric.split(',')[0]}")
    axes.set_ylabel(metric)


def _right_labels(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Line names in a column right of the axes, in the order of the line ends, with thin leaders,
    pushed apart.
    """
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    height_pt = axes.get_window_extent().height / axes.get_figure(root=True).dpi * 72  # type: ignore[union-attr]
    gap = (high - low) * 9.5 / height_pt
    ordered = sorted(ends)
    places: list[float] = []
    for value, *_ in ordered:
        places.append(max(value, places[-1] + gap) if places else value)
    overflow = max(0.0, places[-1] - high)
    places = [place - overflow for place in places]
    for index in range(len(places) - 2, -1, -1):
        places[index] = min(places[index], places[index + 1] - gap)
    for (value, x, label, color), place in zip(ordered, places, strict=True):
        axes.plot([x, right], [value, place], color=GREY, linewidth=0.4, clip_on=False, zorder=1)
        end_label(axes, (right, place), label, color, (2, 0))
