"""Non-maximum suppression inside an ONNX graph, in two forms that keep the same boxes.

- ``operator``: ONNX's NonMaxSuppression on the boxes above the confidence threshold. The sizes of
  its results depend on the image, so this form is for runtimes with a fast implementation that need
  no fixed sizes: ONNX Runtime on the CPU, OpenVINO.
- ``static``: plain tensor operations of fixed size without a loop, which an engine and a CUDA graph
  can hold.

The static form: greedy suppression keeps a box unless a better box, itself kept, overlaps it. Over
candidates in order of score, the result is the only fixed point of keep = not (keep @ suppresses),
and t rounds from "keep all" are exact for every box at the end of a chain of at most t overlaps (a
with b, b with c, ...). ``rounds`` is that bound; for longer chains the result may differ from
greedy suppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from rfdetr_repro.spec.ranges import check_ranges, choose

from .surgery import Builder

MOST = 300  # detections kept
KINDS = ("operator", "static")
SCOPE = "nms/"  # prefix of the names of the suppression's nodes, by which a profile finds the nodes


@dataclass(frozen=True)
class Nms:
    """Settings of non-maximum suppression, for the ``candidates`` best scores.

    ``multi_label``: every class of an anchor may be a candidate, rather than only its best class
    (benchmark protocol section 2: vendors validate with all classes and export the best class).

    ``inject``: for random weights, the number of boxes whose scores are set above the threshold,
    with all others below, because the duration of the vendors' suppression depends on that number
    (benchmark protocol section 3). ``kind``: one of KINDS.
    """

    score: float = 0.01  # least confidence
    iou: float = 0.7  # IoU above which the lower-scoring of two boxes of one class is suppressed
    candidates: int = 1000
    rounds: int = 16  # rounds of the static form
    multi_label: bool = False
    inject: int | None = None
    kind: str = "operator"

    def __post_init__(self) -> None:
        choose(self.kind, KINDS, "kind of suppression")
        whole = {"candidates": (1, 10**6), "rounds": (0, 10**4)} | (
            {} if self.inject is None else {"inject": (0, 10**6)}
        )
        check_ranges(self, whole, {"score": (0, 1), "iou": (0, 1)}, "the suppression")

    def describe(self) -> str:
        """The settings in words, for the manifest."""
        labels = "all classes" if self.multi_label else "best class"
        how = (
            "the operator NonMaxSuppression"
            if self.kind == "operator"
            else f"static, {self.rounds} rounds"
        )
        return (
            f"NMS: score > {self.score:g}, IoU {self.iou:g}, {self.candidates} candidates, "
            f"{labels}, {how}"
        )

    def stated(self) -> dict[str, str]:
        """The manifest's entries about the suppression."""
        return {"nms": self.describe(), "nms_kind": self.kind} | (
            {} if self.inject is None else {"injected_candidates": str(self.inject)}
        )


STANDARD = Nms()


class Raw(NamedTuple):
    """Names of the raw values of a detector.

    ``boxes``: (1, N, 4), or (1, 4, N) if ``class_axis`` is 1. ``scores``: (1, N, C) or (1, C, N),
    in 0..1. ``objectness``: (1, N, 1), a factor of the scores, or None.
    ``corners``: boxes are xyxy rather than cxcywh.
    """

    boxes: str
    scores: str
    anchors: int
    classes: int
    class_axis: int = 2
    objectness: str | None = None
    corners: bool = False


class Kept(NamedTuple):
    """Names of the values of kept detections, best first, with score 0 where there is no
    detection.
    """

    scores: str  # (1, K)
    labels: str  # (1, K) int64
    boxes_xyxy: str  # (1, K, 4), in the unit of the input
    anchors: str  # (K,) int64


class _Candidates(NamedTuple):
    """Names of the values of candidates, best first: score (1, M), anchor (M,) int64, label (M,)
    int64, corners (1, M, 4).
    """

    score: str
    anchor: str
    label: str
    corners: str


def suppress(build: Builder, raw: Raw, settings: Nms) -> Kept:
    """Adds the suppression to the graph of ``build``; returns the names of the kept detections."""
    with build.scope(SCOPE):
        found = _candidates(build, raw, settings)
        if settings.kind == "operator":
            return _by_operator(build, found, raw, settings)
        return _static(build, found, raw, settings)


def candidates_of(raw: Raw, settings: Nms) -> int:
    """The largest possible number of candidates."""
    return min(settings.candidates, raw.anchors * (raw.classes if settings.multi_label else 1))


def _candidates(build: Builder, raw: Raw, settings: Nms) -> _Candidates:
    choose = _every_class if settings.multi_label else _best_class
    score, anchor, label = choose(build, raw, settings)
    boxes = build.one("Gather", raw.boxes, anchor, axis=3 - raw.class_axis)
    if raw.class_axis == 1:
        boxes = build.one("Transpose", boxes, perm=[0, 2, 1])
    return _Candidates(score, anchor, label, boxes if raw.corners else corners_of(build, boxes))


def _every_class(build: Builder, raw: Raw, settings: Nms) -> tuple[str, str, str]:
    """The best (anchor, class) pairs: score (1, M), anchor (M,), label (M,)."""
    scores = raw.scores if raw.objectness is None else build.one("Mul", raw.scores, raw.objectness)
    flat = build.one("Reshape", scores, build.constant([1, raw.anchors * raw.classes]))
    score, index = build.add(
        "TopK", [flat, build.constant([candidates_of(raw, settings)])], 2, axis=1
    )
    place = build.one("Squeeze", index, build.constant([0]))
    inner = build.constant(raw.classes if raw.class_axis == 2 else raw.anchors)
    outer = build.one("Div", place, inner)
    rest = build.one("Sub", place, build.one("Mul", outer, inner))
    return (score, outer, rest) if raw.class_axis == 2 else (score, rest, outer)


def _best_class(build: Builder, raw: Raw, settings: Nms) -> tuple[str, str, str]:
    """The best anchors, each with its best class: score (1, M), anchor (M,), label (M,).

    The best class is computed for the selected anchors only, so that a single maximum over all
    scores is the only work that grows with N x C.
    """
    best = build.largest(raw.scores, raw.class_axis)  # (1, N)
    if raw.objectness is not None:
        best = build.one("Mul", best, build.one("Squeeze", raw.objectness, build.constant([2])))
    most = candidates_of(raw, settings)
    if settings.kind == "operator":
        score, anchor = _above_threshold(build, best, most, settings.score)
    else:
        score, index = build.add("TopK", [best, build.constant([most])], 2, axis=1)
        anchor = build.one("Squeeze", index, build.constant([0]))
    chosen = build.one("Gather", raw.scores, anchor, axis=3 - raw.class_axis)
    label = build.one("ArgMax", chosen, axis=raw.class_axis, keepdims=0)  # (1, M)
    return score, anchor, build.one("Squeeze", label, build.constant([0]))


def _above_threshold(build: Builder, best: str, most: int, least: float) -> tuple[str, str]:
    """Score (1, M) and anchor (M,) of the best anchors with scores above ``least``, at most
    ``most`` anchors.
    """
    # (2, M)
    there = build.one("NonZero", build.one("Greater", best, build.constant(least, np.float32)))
    rows = build.one("Gather", there, build.constant(1), axis=0)  # (M,)
    found = build.one("Gather", best, rows, axis=1)  # (1, M)
    size = build.one("Min", build.one("Shape", rows), build.constant([most]))
    score, order = build.add("TopK", [found, size], 2, axis=1)
    return score, build.one(
        "Gather", rows, build.one("Squeeze", order, build.constant([0])), axis=0
    )


def _by_operator(build: Builder, found: _Candidates, raw: Raw, settings: Nms) -> Kept:
    """Each class is a channel of the operator's scores, so that classes do not suppress each
    other.
    """
    most = min(MOST, candidates_of(raw, settings))
    channels = build.constant(np.arange(raw.classes).reshape(1, raw.classes, 1))
    # (1, C, M)
    own = build.one("Equal", build.one("Unsqueeze", found.label, build.constant([0, 1])), channels)
    none = build.constant(-1.0, np.float32)
    scores = build.one("Where", own, build.one("Unsqueeze", found.score, build.constant([1])), none)
    limits = [build.constant([settings.candidates]), build.constant([settings.iou], np.float32)]
    least = build.constant([settings.score], np.float32)
    # (S, 3): image, class, candidate
    selected = build.one("NonMaxSuppression", found.corners, scores, *limits, least)
    chosen = build.one("Gather", selected, build.constant(2), axis=1)  # (S,)
    kept = build.one("Gather", found.score, chosen, axis=1)  # (1, S)
    padded = build.one("Concat", kept, build.constant(np.zeros((1, most)), np.float32), axis=1)
    best, order = build.add("TopK", [padded, build.constant([most])], 2, axis=1)
    # Empty places repeat a stand-in, whose score is 0: candidate M, all of whose numbers are 0.
    places = build.one(
        "Concat",
        chosen,
        build.one("Expand", build.one("Shape", found.anchor), build.constant([most])),
        axis=0,
    )
    rows = build.one("Gather", places, build.one("Squeeze", order, build.constant([0])), axis=0)
    first = build.constant([0])
    label = build.one("Gather", build.one("Concat", found.label, first, axis=0), rows, axis=0)
    anchor = build.one("Gather", build.one("Concat", found.anchor, first, axis=0), rows, axis=0)
    corners = build.one(
        "Concat", found.corners, build.constant(np.zeros((1, 1, 4)), np.float32), axis=1
    )
    boxes = build.one("Gather", corners, rows, axis=1)
    # The sizes are fixed; a Reshape states the sizes for every reader of the graph.
    return Kept(
        build.one("Reshape", best, build.constant([1, most])),
        build.one("Reshape", label, build.constant([1, most])),
        build.one("Reshape", boxes, build.constant([1, most, 4])),
        build.one("Reshape", anchor, build.constant([most])),
    )


def _static(build: Builder, found: _Candidates, raw: Raw, settings: Nms) -> Kept:
    count = candidates_of(raw, settings)
    confident = build.one("Greater", found.score, build.constant(settings.score, np.float32))
    keep = _fixed_point(
        build,
        _suppresses(build, found.corners, found.label, count, settings.iou),
        count,
        settings.rounds,
    )
    final = build.one(
        "Mul",
        found.score,
        build.one("Mul", keep, build.one("Cast", confident, to=TensorProto.FLOAT)),
    )
    best, order = build.add("TopK", [final, build.constant([min(MOST, count)])], 2, axis=1)
    rows = build.one("Squeeze", order, build.constant([0]))
    labels = build.one(
        "Unsqueeze", build.one("Gather", found.label, rows, axis=0), build.constant([0])
    )
    return Kept(
        best,
        labels,
        build.one("Gather", found.corners, rows, axis=1),
        build.one("Gather", found.anchor, rows, axis=0),
    )


def corners_of(build: Builder, boxes_cxcywh: str) -> str:
    """Boxes (1, M, 4) cxcywh as (1, M, 4) xyxy."""
    centre, extent = build.add("Split", [boxes_cxcywh, build.constant([2, 2])], 2, axis=2)
    half = build.one("Mul", extent, build.constant(0.5, np.float32))
    return build.one(
        "Concat", build.one("Sub", centre, half), build.one("Add", centre, half), axis=2
    )


def _suppresses(build: Builder, corners: str, label: str, count: int, iou: float) -> str:
    """(K, K) float: 1 where box i precedes box j, has the same class, and overlaps box j by more
    than ``iou``.

    Each coordinate is a matrix of its own, because a last axis of length 2 would be processed
    element by element.
    """
    rows = build.constant([1])
    columns = build.constant([0])
    zero = build.constant(0.0, np.float32)
    plain = build.one("Squeeze", corners, build.constant([0]))
    # (K, 1)
    left, top, right, bottom = build.add("Split", [plain, build.constant([1, 1, 1, 1])], 4, axis=1)
    # (1, K)
    across = [build.one("Transpose", side, perm=[1, 0]) for side in (left, top, right, bottom)]
    width = build.one("Sub", build.one("Min", right, across[2]), build.one("Max", left, across[0]))
    height = build.one("Sub", build.one("Min", bottom, across[3]), build.one("Max", top, across[1]))
    # (K, K)
    overlap = build.one("Mul", build.one("Max", width, zero), build.one("Max", height, zero))
    sides = build.one("Sub", right, left), build.one("Sub", bottom, top)
    # (K, 1)
    area = build.one("Mul", build.one("Max", sides[0], zero), build.one("Max", sides[1], zero))
    # overlap > iou * (a + b - overlap), with the terms of each box on its own side
    share = build.one("Mul", area, build.constant(iou / (1 + iou), np.float32))
    limit = build.one("Add", share, build.one("Transpose", share, perm=[1, 0]))
    same = build.one(
        "Equal", build.one("Unsqueeze", label, rows), build.one("Unsqueeze", label, columns)
    )
    places = np.arange(count)
    before = build.one("Less", build.constant(places[:, None]), build.constant(places[None]))
    chosen = build.one("And", build.one("And", build.one("Greater", overlap, limit), same), before)
    return build.one("Cast", chosen, to=TensorProto.FLOAT)


def _fixed_point(build: Builder, suppresses: str, count: int, rounds: int) -> str:
    """(1, K) float: 1 for boxes that are kept."""
    half = build.constant(0.5, np.float32)
    keep = build.constant(np.ones((1, count)), np.float32)
    for _ in range(rounds):
        hit = build.one("MatMul", keep, suppresses)
        keep = build.one("Cast", build.one("Less", hit, half), to=TensorProto.FLOAT)
    return keep
