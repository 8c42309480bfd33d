"""Draws predictions and ground truth on images: boxes, class names, scores and masks from plain
arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from rfdetr_repro.spec.errors import InputError

from .label_rule import FEW, place_labels
from .style import GREY, PALETTE, drawable, shortened

_LABEL_PT = 6.2  # height of the labels in points


@dataclass(frozen=True)
class Annotations:
    """Objects in one image.

    ``boxes_xyxy`` (N, 4) in pixels, ``labels`` (N,) class indices, ``scores`` (N,) in 0..1 or None
    for ground truth, ``masks`` (N, H, W) bool or None; a sequence that makes each mask on demand,
    and that can be indexed by an array of rows, is accepted too.
    """

    boxes_xyxy: NDArray[Any]
    labels: NDArray[Any]
    scores: NDArray[Any] | None = None
    masks: Any = None

    def __post_init__(self) -> None:
        counts = {
            len(part)
            for part in (self.boxes_xyxy, self.labels, self.scores, self.masks)
            if part is not None
        }
        if len(counts) != 1:
            raise InputError(
                f"boxes, labels, scores and masks have different lengths {sorted(counts)}"
            )


def best_of_each_box(found: Any, max_iou: float = 0.7) -> Annotations:
    """Keeps only the best of several labels on nearly the same box; ``found`` has boxes_xyxy,
    labels, scores (falling) and masks.
    """
    boxes = np.asarray(found.boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = np.zeros(len(boxes), dtype=bool)
    for row, box in enumerate(boxes):
        best = boxes[kept]
        low, high = np.maximum(box[:2], best[:, :2]), np.minimum(box[2:], best[:, 2:])
        inner = np.prod(np.clip(high - low, 0, None), axis=1)
        overlaps = inner / np.maximum(areas[row] + areas[kept] - inner, 1e-9)
        kept[row] = not len(best) or overlaps.max() < max_iou
    rows = np.flatnonzero(kept)
    masks = None if found.masks is None else found.masks[rows]
    return Annotations(found.boxes_xyxy[rows], found.labels[rows], found.scores[rows], masks)


def draw_detections(
    figure: FigureBase,
    images: Sequence[NDArray[np.uint8]],
    predictions: Sequence[Annotations],
    truths: Sequence[Annotations] | None = None,
    class_names: Sequence[str] = (),
    min_score: float = 0.3,
    columns: int = 2,
) -> None:
    """Draws a grid of images, uint8 (H, W, 3). With ``truths`` each image is shown twice, ground
    truth on the left, prediction on the right.

    Predictions below ``min_score`` are not drawn; the panel's title gives the number of predictions
    drawn.
    """
    if len(images) != len(predictions) or (truths is not None and len(truths) != len(images)):
        raise InputError("images, predictions and ground truth have different lengths")
    panels: list[tuple[NDArray[np.uint8], Annotations, str]] = []
    for index, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        if truths is not None:
            panels.append((image, truths[index], "ground truth"))
        panels.append((image, *_above(prediction, min_score)))
    columns = max(1, min(columns * (2 if truths is not None else 1), len(panels)))
    rows = -(-len(panels) // columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.01, top=1 - 0.1 / rows, wspace=0.04, hspace=0.14
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, (image, objects, title) in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, image, objects, class_names)
        axes.set_title(title, fontsize=7.5, fontweight="normal", color=GREY, pad=3)


def detections_height_in(
    count: int, paired: bool, columns: int = 2, width_in: float = 6.7
) -> float:
    """Height in inches of a grid of square panels under :func:`draw_detections`."""
    panels = count * (2 if paired else 1)
    across = max(1, min(columns * (2 if paired else 1), panels))
    rows = -(-panels // across)
    return rows * (width_in / across + 0.22)


def _above(objects: Annotations, min_score: float) -> tuple[Annotations, str]:
    if objects.scores is None:
        return objects, "prediction"
    keep = np.flatnonzero(np.asarray(objects.scores) >= min_score)
    kept = Annotations(
        np.asarray(objects.boxes_xyxy)[keep],
        np.asarray(objects.labels)[keep],
        np.asarray(objects.scores)[keep],
        None if objects.masks is None else objects.masks[keep],
    )
    return kept, f"prediction, score ≥ {min_score:g}: {len(keep)}"


def _draw_panel(
    axes: Axes, image: NDArray[np.uint8], objects: Annotations, class_names: Sequence[str]
) -> None:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"image of shape {image.shape} and type {image.dtype} is not (H, W, 3) uint8"
        )
    height, width = image.shape[:2]
    axes.imshow(_with_masks(image, objects), interpolation="nearest", aspect="equal")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for index, (left, top, right, bottom) in enumerate(np.asarray(objects.boxes_xyxy, dtype=float)):
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=class_color(objects.labels[index]),
                linewidth=1.3 if len(objects.labels) <= FEW else 0.8,
            )
        )
    _write_labels(axes, objects, class_names, (height, width))


def _write_labels(
    axes: Axes, objects: Annotations, class_names: Sequence[str], image_hw: tuple[int, int]
) -> None:
    """The labels that :mod:`.label_rule` allows."""
    texts = [
        class_label(int(label), class_names)
        + ("" if objects.scores is None else f" {float(objects.scores[row]):.2f}")
        for row, label in enumerate(objects.labels)
    ]
    panel = axes.get_position().transformed(axes.figure.transSubfigure)
    px_per_point = axes.figure.get_dpi() / 72
    scale = max(image_hw[0] / panel.height, image_hw[1] / panel.width) * px_per_point

    def size_of(row: int) -> tuple[float, float]:
        """In pixels of the image, by the letters' mean width."""
        return 0.62 * _LABEL_PT * len(texts[row]) * scale, 1.35 * _LABEL_PT * scale

    boxes = np.asarray(objects.boxes_xyxy)
    scores = None if objects.scores is None else np.asarray(objects.scores)
    for row, left, top in place_labels(boxes, objects.labels, scores, size_of, image_hw):
        axes.text(
            left,
            top + size_of(row)[1] / 2,
            texts[row],
            color="white",
            fontsize=_LABEL_PT,
            va="center",
            clip_on=True,
            path_effects=[withStroke(linewidth=1.8, foreground=class_color(objects.labels[row]))],
        )


def _with_masks(
    image: NDArray[np.uint8], objects: Annotations, alpha: float = 0.42
) -> NDArray[np.uint8]:
    if objects.masks is None:
        return image
    blended = image.astype(np.float32)
    for mask, label in zip(objects.masks, objects.labels, strict=True):
        mask = np.asarray(mask, dtype=bool)
        if mask.shape != image.shape[:2]:
            raise InputError(f"mask of shape {mask.shape} on an image of shape {image.shape[:2]}")
        blended[mask] = (1 - alpha) * blended[mask] + alpha * 255 * np.asarray(
            to_rgb(class_color(label)), np.float32
        )
    return blended.round().astype(np.uint8)


def class_color(label: int) -> str:
    """The colour of a class."""
    return PALETTE[int(label) % (len(PALETTE) - 1)]


def class_label(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, in letters that can be drawn."""
    return (
        drawable(shortened(class_names[label]))
        if 0 <= label < len(class_names)
        else f"class {label}"
    )
