"""Non-maximum suppression as plain tensor operations: static shapes, no loop, so that an engine and a CUDA graph can hold it.

Greedy suppression keeps a box unless a better box that is itself kept overlaps it. Over candidates in order of score this is
the only fixed point of keep = not (keep @ suppresses), and t rounds from "keep all" are right for every box at the end of a
chain of at most t overlaps (a with b, b with c, ...). ``rounds`` is that bound; beyond it a box may be kept or lost that greedy
suppression would not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from .surgery import Builder

MOST = 300  # detections kept


@dataclass(frozen=True)
class Nms:
    """Settings; ``candidates`` best scores enter. ``multi_label``: every class of an anchor may be a candidate, not its best only
    (benchmark protocol section 2: vendors validate with the former and export the latter).

    ``inject``: for random weights: scores of so many boxes are set above the threshold and all others below it, because the time
    of the vendors' suppression follows that number (benchmark protocol section 3).
    """

    score: float = 0.01  # least confidence
    iou: float = 0.7  # above it the worse of two boxes of one class goes
    candidates: int = 1000
    rounds: int = 16
    multi_label: bool = False
    inject: int | None = None

    def describe(self) -> str:
        labels = "all classes" if self.multi_label else "best class"
        return f"NMS: score > {self.score:g}, IoU {self.iou:g}, {self.candidates} candidates, {labels}, {self.rounds} rounds"

    def stated(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {"nms": self.describe()} | ({} if self.inject is None else {"injected_candidates": str(self.inject)})


STANDARD = Nms()


class Kept(NamedTuple):
    """Names of values: best first, score 0 where there is no detection."""

    scores: str  # (1, K)
    labels: str  # (1, K) int64
    boxes_xyxy: str  # (1, K, 4), in the unit of the input
    anchors: str  # (K,) int64


def suppress(build: Builder, boxes_cxcywh: str, scores: str, anchors: int, classes: int, settings: Nms) -> Kept:
    """Adds the suppression; boxes (1, N, 4), scores (1, N, C) in 0..1, N and C as given."""
    count = min(settings.candidates, anchors * (classes if settings.multi_label else 1))
    score, anchor, label = _candidates(build, scores, anchors, classes, count, settings.multi_label)
    corners = _corners(build, build.one("Gather", boxes_cxcywh, anchor, axis=1))  # (1, K, 4)
    confident = build.one("Greater", score, build.constant(settings.score, np.float32))
    keep = _fixed_point(build, _suppresses(build, corners, label, count, settings.iou), count, settings.rounds)
    final = build.one("Mul", score, build.one("Mul", keep, build.one("Cast", confident, to=TensorProto.FLOAT)))
    best, order = build.add("TopK", [final, build.constant([min(MOST, count)])], 2, axis=1)
    rows = build.one("Squeeze", order, build.constant([0]))
    labels = build.one("Unsqueeze", build.one("Gather", label, rows, axis=0), build.constant([0]))
    return Kept(best, labels, build.one("Gather", corners, rows, axis=1), build.one("Gather", anchor, rows, axis=0))


def _candidates(build: Builder, scores: str, anchors: int, classes: int, count: int, multi_label: bool) -> tuple[str, str, str]:
    """Scores (1, K), anchor rows (K,) and labels (K,) of the best candidates, best first."""
    first = build.constant([0])
    if multi_label:
        flat = build.one("Reshape", scores, build.constant([1, anchors * classes]))
        score, index = build.add("TopK", [flat, build.constant([count])], 2, axis=1)
        row = build.one("Squeeze", index, first)
        anchor = build.one("Div", row, build.constant(classes))
        return score, anchor, build.one("Sub", row, build.one("Mul", anchor, build.constant(classes)))
    best, which = build.add("TopK", [scores, build.constant([1])], 2, axis=2)  # (1, N, 1)
    flat = build.one("Squeeze", best, build.constant([2]))
    score, index = build.add("TopK", [flat, build.constant([count])], 2, axis=1)
    anchor = build.one("Squeeze", index, first)
    label = build.one("Gather", build.one("Reshape", which, build.constant([anchors])), anchor, axis=0)
    return score, anchor, label


def _corners(build: Builder, boxes_cxcywh: str) -> str:
    centre, extent = build.add("Split", [boxes_cxcywh, build.constant([2, 2])], 2, axis=2)
    half = build.one("Mul", extent, build.constant(0.5, np.float32))
    return build.one("Concat", build.one("Sub", centre, half), build.one("Add", centre, half), axis=2)


def _suppresses(build: Builder, corners: str, label: str, count: int, iou: float) -> str:
    """(K, K) float: 1 where row i comes before column j, has its class and overlaps it by more than ``iou``."""
    low, high = build.add("Split", [build.one("Squeeze", corners, build.constant([0])), build.constant([2, 2])], 2, axis=1)
    rows, columns = build.constant([1]), build.constant([0])
    pairs = [(build.one("Unsqueeze", one, rows), build.one("Unsqueeze", one, columns)) for one in (low, high)]  # (K,1,2), (1,K,2)
    zero = build.constant(0.0, np.float32)
    common = build.one("Max", build.one("Sub", build.one("Min", *pairs[1]), build.one("Max", *pairs[0])), zero)  # (K, K, 2)
    overlap = _product(build, common, 2)
    area = _product(build, build.one("Max", build.one("Sub", high, low), zero), 1)  # (K,)
    both = build.one("Add", build.one("Unsqueeze", area, rows), build.one("Unsqueeze", area, columns))
    limit = build.one("Mul", build.one("Sub", both, overlap), build.constant(iou, np.float32))
    same = build.one("Equal", build.one("Unsqueeze", label, rows), build.one("Unsqueeze", label, columns))
    places = np.arange(count)
    before = build.one("Less", build.constant(places[:, None]), build.constant(places[None]))
    chosen = build.one("And", build.one("And", build.one("Greater", overlap, limit), same), before)
    return build.one("Cast", chosen, to=TensorProto.FLOAT)


def _product(build: Builder, sides: str, axis: int) -> str:
    """width x height of the last axis, which goes."""
    width, height = build.add("Split", [sides, build.constant([1, 1])], 2, axis=axis)
    return build.one("Squeeze", build.one("Mul", width, height), build.constant([axis]))


def _fixed_point(build: Builder, suppresses: str, count: int, rounds: int) -> str:
    """(1, K) float: 1 for boxes that are kept."""
    half, keep = build.constant(0.5, np.float32), build.constant(np.ones((1, count)), np.float32)
    for _ in range(rounds):
        hit = build.one("MatMul", keep, suppresses)
        keep = build.one("Cast", build.one("Less", hit, half), to=TensorProto.FLOAT)
    return keep
