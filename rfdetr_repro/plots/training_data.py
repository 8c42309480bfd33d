"""Pictures of what a training run was given: sampled architectures, labels, and augmented batches.

The numbers come as plain dicts and arrays (:mod:`rfdetr_repro.train.summaries`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from rfdetr_repro.spec.arch import KNOB_LABELS, KNOB_UNITS

from .detections import Annotations, class_color
from .layout import foot_line
from .style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    VERMILION,
    WIDTH_IN,
    drawable,
    rgb,
    shortened,
)
from .training import running_mean

MOST_CLASSES = 20  # bars
FEW_LABELS = 12  # objects of a picture up to which their classes are written
ACROSS = 4  # pictures of a batch in a row


def draw_sampled(figure: FigureBase, counts: Mapping[str, Any]) -> None:
    """How often each value of each drawn knob was sampled, and each architecture, as bars.

    ``counts``: of :func:`rfdetr_repro.train.summaries.sampled_archs`.
    """
    knobs = {
        name: {value: int(count) for value, count in values.items()}
        for name, values in counts["knobs"].items()
        if len(values) > 1
    }
    archs = sorted(counts["architectures"].values(), reverse=True)
    panels = figure.subplots(1, len(knobs) + 1, squeeze=False)[0].tolist()
    figure.subplots_adjust(left=0.085, right=0.97, bottom=0.27, top=0.74, wspace=0.42)
    _title(figure, f"Architectures drawn in {counts['steps']} steps")
    base = counts["base"] if counts.get("base_share") else ""
    for axes, (name, values) in zip(panels, knobs.items(), strict=False):
        names = list(values)
        axes.bar(range(len(names)), values.values(), color=BLUE, width=0.7)
        axes.set_xticks(range(len(names)), names)
        unit = f", {KNOB_UNITS[name]}" if name in KNOB_UNITS else ""
        axes.set_title(f"{KNOB_LABELS[name]}{unit}")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[0].set_ylabel("passes")
    axes = panels[-1]
    axes.bar(range(len(archs)), archs, color=GREY, width=1.0)
    axes.set_title("each architecture")
    axes.set_xlabel(f"{len(archs)}, most drawn first")
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    missing = len(counts["never_drawn"])
    told = [f"{missing} of {len(archs)} architectures were never drawn"]
    if base:
        told.append(f"{100 * counts['base_share']:.0f} % of the draws are {base}")
    foot_line(figure, "; ".join(told))


def draw_labels(figure: FigureBase, numbers: Mapping[str, Any]) -> None:
    """Objects of each class, objects per picture, sizes, and where the objects lie.

    ``numbers``: of :func:`rfdetr_repro.train.summaries.label_statistics`.
    """
    panels = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.2, right=0.97, bottom=0.12, top=0.87, wspace=0.3, hspace=0.45)
    name = drawable(shortened(str(numbers["data"])))
    _title(
        figure,
        f"Labels of {name}, {numbers['split']}: {numbers['images']} pictures, "
        f"{numbers['objects']} objects",
    )
    _classes(panels[0, 0], numbers["classes"])
    _bars(panels[0, 1], numbers["objects_per_image"].get("histogram", {}))
    panels[0, 1].set(xlabel="objects", ylabel="pictures", title="objects per picture")
    sizes = numbers["size"].get("histogram", {})
    panels[1, 0].bar(range(len(sizes)), sizes.values(), color=BLUE, width=0.9)
    panels[1, 0].set_xticks(
        range(len(sizes)), [f"≤{100 * float(end):g}" for end in sizes], fontsize=6.5
    )
    panels[1, 0].set(
        xlabel="side of an equal square, % of the picture's", ylabel="objects", title="sizes"
    )
    grid = np.asarray(numbers["centres"], float)
    axes = panels[1, 1]
    axes.imshow(grid, cmap="Blues", aspect="auto", extent=(0, 1, 1, 0), interpolation="nearest")
    axes.set(xticks=[], yticks=[], title="centres of the objects")
    axes.grid(visible=False)
    by_size = ", ".join(f"{numbers[kind]} {kind}" for kind in ("small", "medium", "large"))
    foot_line(figure, f"by area in px, COCO's borders of 32 and 96 px: {by_size}")


def _classes(axes: Axes, classes: Mapping[str, Mapping[str, Any]]) -> None:
    ordered = sorted(classes.items(), key=lambda item: -item[1]["objects"])
    shown = ordered[:MOST_CLASSES]
    counts = [row["objects"] for _, row in shown]
    axes.barh(range(len(shown)), counts, color=BLUE, height=0.7)
    axes.invert_yaxis()
    size = 7.5 if len(shown) <= 8 else 5.0
    names = [drawable(shortened(name, 22)) for name, _ in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=size)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    more = len(ordered) - len(shown)
    axes.set_title("objects per class" + (f" (and {more} more classes)" if more else ""))


def _bars(axes: Axes, histogram: Mapping[str, int]) -> None:
    values = {int(value): count for value, count in histogram.items()}
    if values:
        width = max(1, math.ceil((max(values) + 1) / 30))  # values of one bar
        counts = np.zeros(max(values) // width + 1, int)
        for value, count in values.items():
            counts[value // width] += count
        places = np.arange(len(counts)) * width + (width - 1) / 2
        axes.bar(places, counts, width=0.9 * width, color=ORANGE)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def draw_batch(
    figure: FigureBase,
    images: Sequence[NDArray[np.uint8]],
    objects: Sequence[Annotations],
    class_names: Sequence[str],
    title: str,
    names: Sequence[str],
) -> None:
    """Pictures of a batch as training sees them, with boxes, masks, and the classes where there are
    few objects.

    ``images``: uint8 (H, W, 3); ``names``: of each picture.
    """
    rows = -(-len(images) // ACROSS)
    height = batch_height_in(len(images))
    grid = figure.subplots(rows, ACROSS, squeeze=False)
    figure.subplots_adjust(
        left=0.01,
        right=0.99,
        bottom=0.15 / height,
        top=1 - 0.62 / height,
        wspace=0.04,
        hspace=0.16,
    )
    figure.text(0.01, 1 - 0.18 / height, title, fontsize=9.5, fontweight="bold", va="center")
    _colours(figure, class_names, 1 - 0.36 / height)
    for axes in grid.flat:
        axes.axis("off")
    panels = zip(grid.flat, images, objects, names, strict=False)
    for axes, image, found, name in panels:
        _picture(axes, image, found, class_names)
        count = len(found.labels)
        told = f"{drawable(shortened(name, 18))}: {count} object{'s' * (count != 1)}"
        axes.set_title(told, fontsize=6.5, fontweight="normal", color=GREY, pad=2)


def _colours(figure: FigureBase, class_names: Sequence[str], y: float) -> None:
    """The class of each colour, where there are as few classes as colours."""
    if len(class_names) >= len(PALETTE):
        return
    left = 0.01
    for label, name in enumerate(class_names):
        text = drawable(shortened(name, 16))
        figure.text(left, y, text, fontsize=7.0, color=class_color(label), va="center")
        left += 0.013 * len(text) + 0.02


def batch_height_in(count: int) -> float:
    """Height in inches of the pictures of :func:`draw_batch`."""
    return -(-count // ACROSS) * (WIDTH_IN / ACROSS + 0.2) + 0.6


def _picture(
    axes: Axes, image: NDArray[np.uint8], found: Annotations, class_names: Sequence[str]
) -> None:
    height, width = image.shape[:2]
    shown = image
    if found.masks is not None:
        shown = image.copy()
        for mask, label in zip(found.masks, found.labels, strict=True):
            edge = _edge(np.asarray(mask, bool))
            shown[edge] = rgb(class_color(label))
    axes.imshow(shown, interpolation="nearest", aspect="equal")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    few = len(found.labels) <= FEW_LABELS
    for (left, top, right, bottom), label in zip(found.boxes_xyxy, found.labels, strict=True):
        color = class_color(label)
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=color,
                linewidth=1.0 if few else 0.6,
            )
        )
        if few and 0 <= label < len(class_names):
            axes.text(
                max(left, 0),
                max(top, 0.08 * height),
                drawable(shortened(class_names[label], 14)),
                color="white",
                fontsize=5.5,
                va="bottom",
                clip_on=True,
                bbox={"facecolor": color, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            )


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that border on pixels outside of it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def draw_curves(figure: FigureBase, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss, accuracy on the held-out splits and learning rate over the steps of a training log."""
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.075, right=0.955, bottom=0.2, top=0.76, wspace=0.36)
    _title(figure, "Training")
    losses = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    rates = [(row["step"], row["lr"]) for row in rows if row.get("lr") is not None]
    if losses:
        steps, values = zip(*losses, strict=True)
        panels[0].plot(steps, values, color=GREY, alpha=0.4, linewidth=0.7)
        panels[0].plot(steps, running_mean(values), color=BLUE)
        panels[0].set_ylim(0, 1.05 * max(values[len(values) // 50 :]))
    panels[0].set_title("loss (line: running mean)")
    _accuracies(panels[1], rows)
    if rates:
        panels[2].plot(*zip(*rates, strict=True), color=BLACK)
        panels[2].set_ylim(bottom=0)
        panels[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[2].set_title("learning rate of the heads")
    for axes in panels:
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _accuracies(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """AP of each split over the steps: averaged weights as a line, raw weights dashed, the best AP
    on val as a ring.
    """
    best: tuple[float, int] | None = None
    for split, color in (("val", BLUE), ("test", VERMILION)):
        for weights, line in (("ema", "-"), ("raw", "--")):
            found = [
                (row["step"], 100 * row["ap"])
                for row in rows
                if row.get("split") == split
                and row.get("weights", "ema") == weights
                and row.get("ap") is not None
            ]
            if found:
                label = split if weights == "ema" else f"{split}, raw weights"
                axes.plot(
                    *zip(*found, strict=True),
                    line,
                    color=color,
                    marker="o",
                    markersize=2.5,
                    label=label,
                )
            if split == "val" and found:
                step, ap = max(found, key=lambda point: (point[1], -point[0]))
                best = max(filter(None, (best, (ap, step))), key=lambda point: point[0])
    title = "AP, %"
    if best is not None:
        axes.plot([best[1]], [best[0]], "o", markersize=8, fillstyle="none", color=ORANGE)
        title = f"AP, % (best {best[0]:.1f}, step {best[1]})"
        axes.legend(fontsize=6.5, frameon=False, loc="lower right")
        axes.set_ylim(bottom=0)
    axes.set_title(title)


def _title(figure: FigureBase, text: str) -> None:
    figure.text(0.02, 0.925, text, fontsize=9.5, fontweight="bold")
