"""Detections of a raw run as plain arrays, from which box format and classes are judged before
nodes are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rfdetr_repro.export.onnx.surgery import Shape

from .boxes import ORDERS, Layout, corners_array
from .classes import ENOUGH, USED
from .forms import are_odds, decoded_of, pair_of, required
from .probe import PICTURES, Array, Probe, check_finite, check_scores
from .yolo import flat_and_maps


class Seen(NamedTuple):
    """Detections in one image: boxes (n, 4) in the file's own format, score of the best class (n,),
    that class (n,).
    """

    boxes: Array
    scores: Array
    labels: Array
    classes: int  # number of classes of the outputs; for labels, the largest label seen plus 1
    used: frozenset[int]  # classes with a score above USED in any box


def seen(
    form: str,
    outputs: Sequence[Shape],
    probe: Probe,
    channels_last: bool,
    path: str | Path,
    count: int = 2,
) -> list[Seen]:
    """Detections in the first ``count`` images.

    Raises :class:`InputError` for scores outside 0..1 and for values that are not finite.
    """
    return [_one(form, outputs, values, channels_last, path) for values in probe.outputs(count)]


class Picture(NamedTuple):
    """An image uint8 (H, W, 3) RGB and its objects: boxes float (n, 4) xyxy in pixels, category ids
    (n,).
    """

    pixels: Array
    boxes_xyxy: Array
    category_ids: Array


class Truth(NamedTuple):
    """Objects in the coordinates of the network's input: boxes (n, 4) xyxy in 0..1, category ids
    (n,).
    """

    boxes_xyxy: Array
    category_ids: Array


@dataclass(frozen=True)
class Evidence:
    """Observations of a file's detections on up to PICTURES images, made only when a choice must be
    proved.
    """

    form: str
    outputs: Sequence[Shape]
    probe: Probe
    channels_last: bool
    layout: Layout
    size: tuple[int, int]  # (width, height) of the input
    truths: Sequence[Callable[[], Truth]]
    path: str | Path

    def seen(self) -> list[Seen]:
        """Detections of up to PICTURES images."""
        return seen(self.form, self.outputs, self.probe, self.channels_last, self.path, PICTURES)

    def used(self) -> set[int]:
        """The classes that were seen with confidence."""
        return set().union(*(one.used for one in self.seen()))

    def pairs(self) -> list[tuple[int, int]]:
        """(class of the detection, category id of the object) for every confident detection that
        overlaps an object.
        """
        found: list[tuple[int, int]] = []
        for one, truth in zip(self.seen(), self.truths, strict=False):
            boxes, ids = truth()
            sure = np.flatnonzero(one.scores >= USED)
            corners = corners_array(one.boxes[sure], self.layout.order)
            if self.layout.unit == "pixels":
                corners = corners / np.array(self.size * 2)
            overlap = overlaps(corners, boxes)
            for row in np.flatnonzero(overlap.max(axis=1, initial=0) >= 0.5):
                found.append((int(one.labels[sure[row]]), int(ids[overlap[row].argmax()])))
        return found


def agreed(
    layout: Layout,
    looked: Sequence[Seen],
    truths: Sequence[Callable[[], Truth]],
    size: tuple[int, int],
) -> Layout:
    """``layout``, or the layout with another order of the four numbers, if confident boxes overlap
    labelled objects only in the other order.

    The check is needed because the values may be possible boxes in two orders.
    """

    def hits(order: str) -> int:
        scale = np.array(size * 2) if layout.unit == "pixels" else np.ones(4)
        scale = scale[[1, 0, 3, 2]] if order == "yxyx" else scale
        count = 0
        for one, truth in zip(looked, truths, strict=False):
            corners = corners_array(one.boxes[one.scores >= USED] / scale, order)
            count += int(
                (overlaps(corners, truth().boxes_xyxy).max(axis=0, initial=0) >= 0.5).sum()
            )
        return count

    found = {order: hits(order) for order in ORDERS}
    best = max(found, key=lambda order: found[order])
    if found[layout.order] == 0 and found[best] >= ENOUGH:
        return layout._replace(order=best, proved=True)
    return layout


def overlaps(one: Array, two: Array) -> Array:
    """Intersection over union (n, m), in 0..1, of boxes xyxy (n, 4) and (m, 4)."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (one, two)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.asarray(common / np.maximum(union, 1e-12))


def _one(
    form: str, outputs: Sequence[Shape], values: dict[str, Array], last: bool, path: str | Path
) -> Seen:
    if form == "decoded":
        roles = required(decoded_of(outputs), form)
        boxes, scores, labels = (values[roles[role].name] for role in ("boxes", "scores", "labels"))
        return _chosen(boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1), path)
    if form in ("rows", "rows-seg"):
        rows = values[required(flat_and_maps(outputs)[0], form).name][0]
        return _chosen(rows[:, :4], rows[:, 4], rows[:, 5], path)
    if form in ("detr", "detr-softmax", "boxes-scores"):
        pair = required(pair_of(outputs), form)
        boxes = values[pair.boxes.name][0]
        logits = values[pair.logits.name][0]
        check_finite([logits], f"{pair.logits.name}", path)
        return _of_all(boxes, _scores(form, logits), path)
    flat = next(shape for shape in outputs if len(shape.dims) == 3)
    maps = next((shape for shape in outputs if len(shape.dims) == 4), None)
    table = values[flat.name][0]
    table = table if last or form in ("rtdetr", "yolo-objectness") else table.T
    end = table.shape[1] - (maps.dims[1] if maps else 0)
    if form == "yolo-objectness":
        check_scores([table[:, 4:5]], "the objectness values", path)
        return _of_all(table[:, :4], table[:, 5:end] * table[:, 4:5], path)
    return _of_all(table[:, :4], table[:, 4:end], path)


def _scores(form: str, logits: Array) -> Array:
    if form == "boxes-scores":
        return logits
    if form == "detr":
        return 1 / (1 + np.exp(-logits.clip(-80, 80)))
    if are_odds(logits):
        return logits[:, :-1]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True))[:, :-1]


def _chosen(boxes: Array, scores: Array, labels: Array, path: str | Path) -> Seen:
    check_scores([scores], "the scores", path)
    check_finite(
        [boxes[scores > 0], labels[scores > 0].astype(np.float64)], "boxes or labels", path
    )
    labels = labels.astype(np.int64)
    there = labels[scores > 0]
    count = int(there.max(initial=-1)) + 1
    return Seen(boxes, scores, labels, count, frozenset(labels[scores >= USED].tolist()))


def _of_all(boxes: Array, scores: Array, path: str | Path) -> Seen:
    check_scores([scores], "the class scores", path)
    check_finite([boxes], "boxes", path)
    used = np.flatnonzero((scores >= USED).any(axis=0))
    return Seen(
        boxes, scores.max(axis=1), scores.argmax(axis=1), scores.shape[1], frozenset(used.tolist())
    )
