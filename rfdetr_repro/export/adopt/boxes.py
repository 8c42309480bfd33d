"""Box format of an adopted file: order of the four numbers and unit, inferred from the values on
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.export.onnx.nms import corners_of
from rfdetr_repro.export.onnx.surgery import Builder
from rfdetr_repro.spec.errors import InputError

Array = np.ndarray[Any, Any]
ORDERS = ("xyxy", "cxcywh", "xywh", "yxyx")
UNITS = ("pixels", "relative")
BOXES = tuple(f"{order}-{unit}" for order in ORDERS for unit in UNITS)
BEYOND = 0.25  # part of the image's side: no detector's box extends further outside the image
ODD = 0.1  # share of implausible boxes beyond which an order is ruled out
# no coordinate relative to the image is larger; no list of boxes in pixels is all smaller
RELATIVE = 2.0


class Layout(NamedTuple):
    """A box format: one of ORDERS, one of UNITS (pixels are those of the network's input), and
    whether the values proved both.
    """

    order: str
    unit: str
    proved: bool = True

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout that a text such as ``cxcywh-relative`` names."""
        order, unit = text.split("-")
        return cls(order, unit)

    def describe(self) -> str:
        """The layout in words, for the manifest."""
        unit = "0..1" if self.unit == "relative" else "pixels of the input"
        return f"{self.order} in {unit}" + (
            "" if self.proved else " (assumed: the test run gave no confident box to infer it from)"
        )


def layout_of(boxes: Array, size: tuple[int, int], usual: str, path: str | Path) -> Layout:
    """Order and unit of ``boxes``, float (n, 4), the boxes of confident detections. ``size``:
    (width, height) of the input.

    ``usual``: one of BOXES, which is taken unless the values rule it out. Raises
    :class:`InputError` if the values fit no order, or several other orders, or if they lie far
    outside the input.
    """
    order, unit = usual.split("-")
    boxes = boxes[np.abs(boxes).sum(axis=1) > 0]
    if not len(boxes):
        return Layout(order, unit, proved=False)
    if not np.isfinite(boxes).all():
        raise InputError(
            "boxes of the test run are not finite",
            path,
            "check for an overflow in half precision, and export the model in float32",
        )
    unit = "relative" if np.abs(boxes).max() <= RELATIVE else "pixels"
    scale = np.array(size * 2) if unit == "pixels" else np.ones(4)
    fits = [
        name
        for name in ORDERS
        if _odd(boxes / (scale[[1, 0, 3, 2]] if name == "yxyx" else scale), name) <= ODD
    ]
    if order in fits:
        return Layout(order, unit)
    others = [name for name in fits if name != "yxyx"]
    if len(others) == 1:
        return Layout(others[0], unit)
    largest = " ".join(f"{value:.4g}" for value in boxes[np.abs(boxes).max(axis=1).argmax()])
    fitting = " or ".join(others) if others else "no known order"
    what = f"boxes such as {largest} in an input of {size[0]}x{size[1]} px fit {fitting}"
    raise InputError(
        what,
        path,
        "state the box format with --boxes (such as xyxy-pixels), or the output format with --form",
    )


def _odd(boxes: Array, order: str) -> float:
    """The share of the boxes, relative to the image, that are inverted or far outside the image if
    read in this order.
    """
    corners = corners_array(boxes, order)
    inside_out = (corners[:, 2] < corners[:, 0]) | (corners[:, 3] < corners[:, 1])
    outside = (corners < -BEYOND).any(axis=1) | (corners > 1 + BEYOND).any(axis=1)
    return float((inside_out | outside).mean())


def corners_array(boxes: Array, order: str) -> Array:
    """Boxes float (n, 4) in ``order``, as (n, 4) xyxy."""
    if order == "xyxy":
        return boxes
    if order == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    low = boxes[:, :2]
    extent = boxes[:, 2:]
    low = low - extent / 2 if order == "cxcywh" else low
    return np.concatenate([low, low + extent], axis=1)


def relative_corners(build: Builder, boxes: str, size: tuple[int, int], layout: Layout) -> str:
    """Adds nodes that turn boxes (1, K, 4) in ``layout`` into (1, K, 4) xyxy in 0..1; returns the
    value's name.
    """
    if layout.order == "cxcywh":
        boxes = corners_of(build, boxes)
    elif layout.order == "xywh":
        low, extent = build.add("Split", [boxes, build.constant([2, 2])], 2, axis=2)
        boxes = build.one("Concat", low, build.one("Add", low, extent), axis=2)
    elif layout.order == "yxyx":
        boxes = build.one("Gather", boxes, build.constant([1, 0, 3, 2]), axis=2)
    if layout.unit == "relative":
        return boxes
    scale = np.array([1 / size[0], 1 / size[1]] * 2).reshape(1, 1, 4)
    return build.one("Mul", boxes, build.constant(scale, np.float32))


def duplicates(
    corners: Array, labels: Array, scores: Array, least: float = 0.2, iou: float = 0.8
) -> bool:
    """Whether an object has several confident boxes of one class: corners float (n, 4) xyxy, labels
    (n,), scores (n,).
    """
    kept = np.flatnonzero(scores >= least)[:300]
    corners, labels = corners[kept], labels[kept]
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    area = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    union = area[:, None] + area[None] - common
    same = (common > iou * union) & (union > 0) & (labels[:, None] == labels[None])
    return bool(np.triu(same, 1).any())


def confident(
    boxes: Sequence[Array], scores: Sequence[Array], least: float = 0.05, most: int = 300
) -> Array:
    """Boxes (n, 4): from each image's boxes (N, 4) with scores (N,), the best ``most`` boxes with
    scores above ``least``.
    """
    parts = []
    for one, score in zip(boxes, scores, strict=True):
        best = np.argsort(-score, kind="stable")[:most]
        parts.append(one[best[score[best] > least]])
    return np.concatenate(parts) if parts else np.zeros((0, 4))
