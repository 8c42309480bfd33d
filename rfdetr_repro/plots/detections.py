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

from .style import GREY, PALETTE, drawable, shortened


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
    kept: list[int] = []
    for row in range(len(found.scores)):
        if all(_iou(found.boxes_xyxy[row], found.boxes_xyxy[other]) < max_iou for other in kept):
            kept.append(row)
    masks = None if found.masks is None else found.masks[kept]
    return Annotations(found.boxes_xyxy[kept], found.labels[kept], found.scores[kept], masks)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(inner / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner, 1e-9))


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
        color = _color(objects.labels[index])
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=color,
                linewidth=1.3,
            )
        )
        text = _name(int(objects.labels[index]), class_names)
        text += "" if objects.scores is None else f" {float(objects.scores[index]):.2f}"
        above = top > 0.09 * height
        axes.text(
            max(left, 0),
            top if above else max(top, 0) + 0.01 * height,
            text,
            color="white",
            fontsize=6.2,
            va="bottom" if above else "top",
            clip_on=True,
            path_effects=[withStroke(linewidth=1.8, foreground=color)],
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
            to_rgb(_color(label)), np.float32
        )
    return blended.round().astype(np.uint8)


def _color(label: int) -> str:
    return PALETTE[int(label) % (len(PALETTE) - 1)]


def _name(label: int, class_names: Sequence[str]) -> str:
    return (
        drawable(shortened(class_names[label]))
        if 0 <= label < len(class_names)
        else f"class {label}"
    )
