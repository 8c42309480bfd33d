"""Draws what an evaluation found, from its JSON (``metrics.json``): precision against recall,
precision, recall and F1 against the score, and the confusion matrix; and the worst images, from
plain arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from rfdetr_repro.spec.metrics import percent

from .detections import Annotations
from .style import (
    BLACK,
    BLUE,
    GREY,
    LIGHT,
    PALETTE,
    VERMILION,
    WIDTH_IN,
    drawable,
    save,
    shortened,
)

MOST_NAMED = 6  # classes that have a colour and a name in a figure of curves
MOST_CELLS = 20  # classes with a row of their own in the picture of the confusion matrix
MOST_LABELS = 12  # errors of an image that are labelled; more labels would bury the picture
CURVES_HEIGHT_IN = 3.1
NAME_LETTERS = 22
TICK_LETTERS = 18
HIGHEST_ASPECT = 1.5  # height by width of an image on the sheet; a taller image is drawn narrower
_LEGEND_IN = 0.35
_TITLE_IN = 0.3
_LABELS_IN = 0.42  # of an axis label and the ticks above it
TRUTH = BLUE
PREDICTION = VERMILION
_BLUES = LinearSegmentedColormap.from_list("blues", ["#FFFFFF", BLUE])


@dataclass(frozen=True)
class ErrorPicture:
    """One image with its errors at a threshold.

    ``image``: uint8 (H, W, 3); ``truths`` and ``predictions``: objects, and detections at or above
    the threshold, in its pixels; ``found`` bool (objects,) and ``right`` bool (detections,): which
    of them match.
    """

    name: str
    image: NDArray[np.uint8]
    truths: Annotations
    found: NDArray[np.bool_]
    predictions: Annotations
    right: NDArray[np.bool_]


def charts(
    diagnosis: Mapping[str, Any], title: str
) -> list[tuple[str, Callable[[FigureBase], None], float]]:
    """The charts of ``diagnosis`` (the JSON of boxes or masks): name, drawing function and height
    in inches. Without a threshold there is no confusion matrix.
    """
    found: list[tuple[str, Any, float]] = [
        ("pr", draw_precision_recall, CURVES_HEIGHT_IN),
        ("scores", draw_score_curves, CURVES_HEIGHT_IN),
    ]
    if diagnosis["confusion"] is not None:
        names = _gathered(diagnosis["confusion"])[0]
        found.append(("confusion", draw_confusion, confusion_height_in(names)))
    return [
        (name, partial(draw, diagnosis=diagnosis, title=title), height)
        for name, draw, height in found
    ]


def write_charts(
    diagnosis: Mapping[str, Any], kind: str, where: str, folder: str | Path
) -> list[Path]:
    """Writes :func:`charts` as PNG and SVG.

    ``kind``: "boxes" or "masks", which the file names begin with; ``where``: the model and the
    split, for the titles.
    """
    return [
        save(draw, Path(folder) / f"{kind}-{name}{suffix}", height)
        for name, draw, height in charts(diagnosis, f"{kind}, {where}")
        for suffix in (".png", ".svg")
    ]


def draw_precision_recall(figure: FigureBase, diagnosis: Mapping[str, Any], title: str) -> None:
    """COCO's precision against recall at IoU 0.5, of each class and as the mean."""
    axes = figure.subplots()
    figure.subplots_adjust(left=0.085, right=0.62, bottom=0.15, top=0.88)
    curves = diagnosis["pr_curves"]
    named = _named(diagnosis["classes"])
    for label, values in enumerate(curves["classes"]):
        if values is not None:
            axes.plot(curves["recall"], values, **_line(label, named))
    if curves["mean"] is not None:
        axes.plot(curves["recall"], curves["mean"], color=BLACK, linewidth=2.2)
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"Precision and recall at IoU {diagnosis['iou']:g}: {_name(title, 46)}")
    labels = {
        label: f"{_name(diagnosis['classes'][label]['name'])}  "
        f"{percent(diagnosis['classes'][label]['ap50'], 'unknown')}"
        for label in named
    }
    mean = f"{_mean_name(diagnosis)}  {percent(diagnosis['mean']['ap50'], 'unknown')}"
    _legend(axes, named, labels, mean, len(_present(diagnosis["classes"])))


def draw_score_curves(figure: FigureBase, diagnosis: Mapping[str, Any], title: str) -> None:
    """Precision, recall and F1 against the score, of each class and as the mean, with the
    threshold.
    """
    panels = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.24, top=0.80, wspace=0.08)
    curves = diagnosis["score_curves"]
    named = _named(diagnosis["classes"])
    at = diagnosis["threshold"]["score"]
    highest = _highest_score(curves)
    for axes, (name, text) in zip(
        panels, (("precision", "precision"), ("recall", "recall"), ("f1", "F1")), strict=True
    ):
        for label, found in enumerate(curves["classes"]):
            if found is not None:
                axes.plot(curves["score"], _holes(found[name]), **_line(label, named))
        axes.plot(curves["score"], _holes(curves["mean"][name]), color=BLACK, linewidth=2.2)
        axes.set(xlim=(0, highest), ylim=(0, 1.02), xlabel="score threshold")
        step = 0.2 if highest > 0.6 else 0.1
        axes.set_xticks(np.arange(0, highest - 0.05, step))  # the end would touch the next panel
        value = diagnosis["mean"][name]
        axes.set_title(text if value is None else f"{text}, mean {value:.2f}")
        if at is not None:
            axes.axvline(at, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)))
    handles = [Line2D([], [], **_line(label, named)) for label in named]
    names = [_name(diagnosis["classes"][label]["name"], 14) for label in named]
    handles.append(Line2D([], [], color=BLACK, linewidth=2.2))
    names.append(_mean_name(diagnosis))
    if at is not None:
        handles.append(Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (4, 2))))
        names.append(f"threshold {at:g}")
    figure.legend(
        handles, names, loc="lower center", ncols=min(len(names), 5), frameon=False, fontsize=7
    )
    figure.text(0.07, 0.915, _name(title, 76), fontsize=8.5, fontweight="bold")


def draw_confusion(figure: FigureBase, diagnosis: Mapping[str, Any], title: str) -> None:
    """The confusion matrix: rows are objects by class, columns detections by class; cells hold
    counts and are coloured by the share of their row.
    """
    names, matrix = _gathered(diagnosis["confusion"])
    axes = figure.subplots()
    height = confusion_height_in(names)
    bottom = _LABELS_IN + _slanted_in(names)
    figure.subplots_adjust(left=0.24, right=0.97, bottom=bottom / height, top=1 - 0.42 / height)
    whole = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, whole, out=np.zeros(matrix.shape), where=whole > 0)
    edges = np.arange(len(names) + 1) - 0.5
    axes.pcolormesh(edges, edges, shares, cmap=_BLUES, vmin=0, vmax=1)  # vectors, as the text is
    axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[-1], edges[0]))
    ticks = range(len(names))
    shown = [_name(name, TICK_LETTERS) for name in names]
    axes.set_xticks(ticks, [*shown[:-1], "missed"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [*shown[:-1], "background"])
    axes.tick_params(length=0, labelsize=7 if len(names) <= 12 else 6)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    for edge in (len(names) - 1.5,):
        axes.axhline(edge, color=LIGHT, linewidth=1.2)
        axes.axvline(edge, color=LIGHT, linewidth=1.2)
    size = 7.5 if len(names) <= 8 else 6.5 if len(names) <= 14 else 5
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[row, column] > 0.65 else BLACK
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=size, color=color)
    axes.set(xlabel="detected as", ylabel="object")
    at = diagnosis["threshold"]["score"]
    figure.text(
        0.01,
        1 - 0.2 / height,
        f"Confusion at IoU {diagnosis['iou']:g}, score ≥ {at:g}: {_name(title, 44)}",
        fontsize=8.5,
        fontweight="bold",
        va="center",
    )


def confusion_height_in(names: Sequence[str]) -> float:
    """Height in inches of a confusion matrix with these rows."""
    return 0.42 + max(1.4, min(0.36 * len(names), 5.6)) + _LABELS_IN + _slanted_in(names)


def _slanted_in(names: Sequence[str]) -> float:
    """Height in inches of the longest name below the matrix, at 45 degrees."""
    longest = max(len(_name(name, TICK_LETTERS)) for name in [*names[:-1], "missed"])
    return 0.12 + 0.045 * longest


def _gathered(confusion: Mapping[str, Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Names and counts of the rows that are drawn: at most ``MOST_CELLS`` classes, those with the
    most errors, and the others as one.
    """
    names = list(confusion["labels"])
    matrix = np.array(confusion["matrix"], dtype=np.int64)
    classes = len(names) - 1
    if classes <= MOST_CELLS:
        return names, matrix
    errors = matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)
    first = np.sort(np.argsort(-errors[:classes], kind="stable")[: MOST_CELLS - 1])
    others = np.setdiff1d(np.arange(classes), first)
    groups = [*([label] for label in first.tolist()), others.tolist(), [classes]]
    small = np.array([[matrix[np.ix_(a, b)].sum() for b in groups] for a in groups])
    kept = [*(names[label] for label in first.tolist()), f"{len(others)} other classes", names[-1]]
    return kept, small


def _present(classes: Sequence[Mapping[str, Any]]) -> list[int]:
    """The classes that have an object."""
    return [label for label, row in enumerate(classes) if row["objects"]]


def _named(classes: Sequence[Mapping[str, Any]]) -> list[int]:
    """The classes with colours: none where colours would repeat, and none where the mean is the
    only class.
    """
    present = _present(classes)
    return present if 1 < len(present) <= MOST_NAMED else []


def _mean_name(diagnosis: Mapping[str, Any]) -> str:
    """The name of the thick line: the class, where only one has objects."""
    present = _present(diagnosis["classes"])
    return "mean" if len(present) != 1 else _name(diagnosis["classes"][present[0]]["name"])


def _line(label: int, named: Sequence[int]) -> dict[str, Any]:
    if label not in named:
        return {"color": "#BBBBBB", "linewidth": 0.7, "alpha": 0.7, "zorder": 1.5}
    return {"color": PALETTE[named.index(label)], "linewidth": 1.2}


def _legend(
    axes: Axes,
    named: Sequence[int],
    labels: Mapping[int, str],
    mean: str,
    present: int,
) -> None:
    handles = [Line2D([], [], **_line(label, named)) for label in named]
    names = [labels[label] for label in named]
    if not named and present > 1:
        handles.append(Line2D([], [], **_line(-1, named)))
        names.append(f"{present} classes")
    handles.append(Line2D([], [], color=BLACK, linewidth=2.2))
    names.append(mean)
    axes.legend(
        handles,
        names,
        title="AP50",
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        frameon=False,
        fontsize=7.5,
        title_fontsize=7.5,
        alignment="left",
    )


def _name(name: str, letters: int = NAME_LETTERS) -> str:
    return drawable(shortened(name, letters))


def _holes(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


def _highest_score(curves: Mapping[str, Any]) -> float:
    """End of the score axis: a round number above the scores of all detections."""
    recall = _holes(curves["mean"]["recall"])
    reached = [score for score, value in zip(curves["score"], recall, strict=True) if value > 0]
    return min(1.0, float(np.ceil(10 * (max(reached, default=1.0) + 0.02)) / 10))


def write_worst(
    pictures: Sequence[ErrorPicture],
    path: str | Path,
    *,
    class_names: Sequence[str],
    threshold: float,
) -> Path:
    """Draws a sheet of images with their errors and writes it to ``path``."""
    draw = partial(draw_errors, pictures=pictures, class_names=class_names, threshold=threshold)
    return save(draw, path, errors_height_in(pictures))


def draw_errors(
    figure: FigureBase,
    pictures: Sequence[ErrorPicture],
    class_names: Sequence[str],
    threshold: float,
) -> None:
    """Draws images with ground truth and predictions in two colours: errors as thick solid boxes,
    what is right as thin dotted boxes of the ground truth.

    Errors are labelled while there are at most ``MOST_LABELS`` of them in an image.
    """
    heights = _row_heights_in(pictures)
    height = sum(heights) + _LEGEND_IN
    columns = min(2, len(pictures))
    top = height - _LEGEND_IN
    for row, row_height in enumerate(heights):
        for column, picture in enumerate(pictures[row * columns : (row + 1) * columns]):
            place = (
                (column + 0.01) / columns,
                (top - row_height) / height,
                0.98 / columns,
                (row_height - _TITLE_IN) / height,
            )
            axes = figure.add_axes(place, anchor="N")
            axes.axis("off")
            _draw_errors(axes, picture, class_names)
        top -= row_height
    handles = [
        Line2D([], [], color=TRUTH, linewidth=2.0),
        Line2D([], [], color=PREDICTION, linewidth=2.0),
        Line2D([], [], color=TRUTH, linewidth=0.9, linestyle=(0, (1, 1))),
    ]
    texts = ["object that was missed", f"wrong detection, score ≥ {threshold:g}", "object found"]
    figure.legend(handles, texts, loc="upper center", ncols=3, frameon=False, fontsize=7.5)


def errors_height_in(pictures: Sequence[ErrorPicture]) -> float:
    """Height in inches of a sheet under :func:`draw_errors`."""
    return sum(_row_heights_in(pictures)) + _LEGEND_IN


def _row_heights_in(pictures: Sequence[ErrorPicture]) -> list[float]:
    """Height of each row of the sheet in inches, with the titles of its images."""
    columns = min(2, len(pictures))
    aspects = [min(one.image.shape[0] / one.image.shape[1], HIGHEST_ASPECT) for one in pictures]
    return [
        max(aspects[start : start + columns]) * 0.98 * WIDTH_IN / columns + _TITLE_IN
        for start in range(0, len(pictures), columns)
    ]


def _draw_errors(axes: Axes, picture: ErrorPicture, class_names: Sequence[str]) -> None:
    height, width = picture.image.shape[:2]
    missed = ~picture.found
    wrong = ~picture.right
    shown = picture.image
    for objects, rows, color in (
        (picture.truths, missed, TRUTH),
        (picture.predictions, wrong, PREDICTION),
    ):
        shown = _shaded(shown, objects, rows, color)
    axes.imshow(shown, interpolation="nearest", aspect="equal")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    _boxes(axes, picture.truths, picture.found, TRUTH, linewidth=0.8, linestyle=(0, (1, 1)))
    _boxes(axes, picture.truths, missed, TRUTH, linewidth=1.4)
    _boxes(axes, picture.predictions, wrong, PREDICTION, linewidth=1.4)
    errors = int(missed.sum() + wrong.sum())
    if errors <= MOST_LABELS:
        _labels(axes, picture.truths, missed, TRUTH, class_names, below=True)
        _labels(axes, picture.predictions, wrong, PREDICTION, class_names, below=False)
    title = (
        f"{_name(picture.name, 34)}: {int(missed.sum())} of {len(missed)} missed, "
        f"{int(wrong.sum())} wrong"
    )
    axes.set_title(title, fontsize=7.5, fontweight="normal", color=GREY, pad=3)


def _boxes(
    axes: Axes, objects: Annotations, rows: NDArray[np.bool_], color: str, **line: Any
) -> None:
    for left, top, right, bottom in np.asarray(objects.boxes_xyxy, dtype=float)[rows]:
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=color,
                **line,
            )
        )


def _labels(
    axes: Axes,
    objects: Annotations,
    rows: NDArray[np.bool_],
    color: str,
    class_names: Sequence[str],
    *,
    below: bool,
) -> None:
    """Labels of boxes: of objects below their lower edge, of detections above their upper edge,
    inside the box where the border of the image is near.
    """
    height, width = axes.get_ylim()[0], axes.get_xlim()[1]
    for row in np.flatnonzero(rows).tolist():
        left, top, _, bottom = np.asarray(objects.boxes_xyxy[row], dtype=float)
        text = _name(class_names[int(objects.labels[row])], 16)
        if objects.scores is not None:
            text += f" {float(objects.scores[row]):.2f}"
        inside = bottom > 0.93 * height if below else top < 0.07 * height
        right_half = left > 0.7 * width
        axes.text(
            min(objects.boxes_xyxy[row][2], width) if right_half else max(left, 0),
            bottom if below else top,
            text,
            color="white",
            fontsize=5.8,
            ha="right" if right_half else "left",
            va="bottom" if below == inside else "top",
            clip_on=True,
            path_effects=[withStroke(linewidth=1.6, foreground=color)],
        )


def _shaded(
    image: NDArray[np.uint8], objects: Annotations, rows: NDArray[np.bool_], color: str
) -> NDArray[np.uint8]:
    """The image with the masks of ``rows`` in ``color``."""
    if objects.masks is None or not rows.any():
        return image
    shaded = image.astype(np.float32)
    tint = 255 * np.asarray(to_rgb(color), np.float32)
    for row in np.flatnonzero(rows).tolist():
        mask = np.asarray(objects.masks[row], dtype=bool)
        shaded[mask] = 0.55 * shaded[mask] + 0.45 * tint
    return shaded.round().astype(np.uint8)
