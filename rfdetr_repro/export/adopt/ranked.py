"""Nodes that produce ranked detections, best first, for each output format except YOLO's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto

from rfdetr_repro.export.onnx.nms import MOST, Nms, Raw, suppress
from rfdetr_repro.export.onnx.surgery import Builder, Shape
from rfdetr_repro.spec.errors import InputError

from .boxes import Layout, relative_corners
from .forms import FEW, pair_of, required
from .yolo import flat_and_maps, masks_of

FLOAT = int(TensorProto.FLOAT)
INT = int(TensorProto.INT64)


def add_decoded(
    build: Builder, roles: Mapping[str, Shape], size: tuple[int, int], layout: Layout, halves: bool
) -> None:
    """Adds nodes that sort the scores, labels and boxes that a detector selected.

    ``halves``: the masks are in 0..1, so 0.5 is subtracted.
    """
    scores = build.one("Reshape", roles["scores"].name, build.constant([1, -1]))
    labels = build.one("Reshape", roles["labels"].name, build.constant([1, -1]))
    boxes = build.one("Reshape", roles["boxes"].name, build.constant([1, -1, 4]))
    count = roles["boxes"].dims[-2]
    if roles["labels"].dtype != "int64":
        labels = build.one("Cast", labels, to=INT)
    if "count" in roles:  # places beyond the count are empty
        last = build.one(
            "Cast", build.one("Reshape", roles["count"].name, build.constant([1, 1])), to=INT
        )
        there = build.one(
            "Cast", build.one("Less", build.constant(np.arange(count)[None]), last), to=FLOAT
        )
        scores = build.one("Mul", scores, there)
    best, index = build.add("TopK", [scores, build.constant([min(FEW, count)])], 2, axis=1)
    rows = build.one("Squeeze", index, build.constant([0]))
    results = {
        "scores": (best, FLOAT),
        "labels": (_labels(build, build.one("Gather", labels, rows, axis=1), best), INT),
        "boxes": (
            relative_corners(build, build.one("Gather", boxes, rows, axis=1), size, layout),
            FLOAT,
        ),
    }
    if "masks" in roles:
        masks = build.one("Gather", roles["masks"].name, rows, axis=1)
        results["masks"] = (
            build.one("Sub", masks, build.constant(0.5, np.float32)) if halves else masks,
            FLOAT,
        )
    build.results(**results)


def add_detr(
    build: Builder,
    form: str,
    outputs: Sequence[Shape],
    size: tuple[int, int],
    layout: Layout,
    odds_given: bool,
) -> None:
    """``detr``, ``detr-softmax`` and ``boxes-scores`` without suppression.

    ``odds_given``: the file already contains the softmax.
    """
    boxes, logits, masks = required(pair_of(outputs), form)
    queries, classes = logits.dims[1:]
    if form == "detr-softmax":
        odds = logits.name if odds_given else build.one("Softmax", logits.name, axis=2)
        real, _ = build.add("Split", [odds, build.constant([classes - 1, 1])], 2, axis=2)
        # one class per query, as in the authors' code
        value, which = build.add("TopK", [real, build.constant([1])], 2, axis=2)
        last = build.constant([2])
        best, index = build.add(
            "TopK",
            [build.one("Squeeze", value, last), build.constant([min(FEW, queries)])],
            2,
            axis=1,
        )
        rows = build.one("Squeeze", index, build.constant([0]))
        scores = best
        label = build.one("Gather", build.one("Squeeze", which, last), rows, axis=1)
    else:
        scores, label, rows = _best_pairs(build, logits.name, queries, classes)
        scores = build.one("Sigmoid", scores) if form == "detr" else scores
    corners = relative_corners(build, build.one("Gather", boxes.name, rows, axis=1), size, layout)
    results = {"scores": (scores, FLOAT), "labels": (label, INT), "boxes": (corners, FLOAT)}
    if masks is not None:
        results["masks"] = (build.one("Gather", masks.name, rows, axis=1), FLOAT)
    build.results(**results)


def _best_pairs(build: Builder, scores: str, boxes: int, classes: int) -> tuple[str, str, str]:
    """The best (box, class) pairs of scores (1, N, C): score (1, K), class (1, K), box (K,), where
    K is the smaller of N and MOST.
    """
    flat = build.one("Reshape", scores, build.constant([1, boxes * classes]))
    best, index = build.add("TopK", [flat, build.constant([min(MOST, boxes)])], 2, axis=1)
    query = build.one("Div", index, build.constant(classes))
    label = build.one("Sub", index, build.one("Mul", query, build.constant(classes)))
    return best, label, build.one("Squeeze", query, build.constant([0]))


def add_suppressed(
    build: Builder, outputs: Sequence[Shape], size: tuple[int, int], layout: Layout, nms: Nms
) -> None:
    """Adds suppression to ``boxes-scores`` with many boxes."""
    boxes, scores, _ = required(pair_of(outputs), "boxes-scores")
    corners = relative_corners(build, boxes.name, size, layout)
    anchors, classes = scores.dims[1:]
    kept = suppress(build, Raw(corners, scores.name, anchors, classes, corners=True), nms)
    build.results(
        scores=(kept.scores, FLOAT), labels=(kept.labels, INT), boxes=(kept.boxes_xyxy, FLOAT)
    )


def add_rt_detr(
    build: Builder, outputs: Sequence[Shape], size: tuple[int, int], layout: Layout
) -> None:
    """``rtdetr``: boxes and scores of the selected queries in one tensor."""
    (flat,) = outputs
    boxes, numbers = flat.dims[1:]
    corners, scores = build.add("Split", [flat.name, build.constant([4, numbers - 4])], 2, axis=2)
    best, label, rows = _best_pairs(build, scores, boxes, numbers - 4)
    relative = relative_corners(build, build.one("Gather", corners, rows, axis=1), size, layout)
    build.results(scores=(best, FLOAT), labels=(label, INT), boxes=(relative, FLOAT))


def add_rows(
    build: Builder,
    outputs: Sequence[Shape],
    size: tuple[int, int],
    layout: Layout,
    path: str | Path,
) -> None:
    """``rows`` and ``rows-seg``: sorts the detections that a detector selected inside the graph."""
    flat, protos = flat_and_maps(outputs)
    weights = protos.dims[1] if protos else 0
    if flat is None or flat.dims[2] != 6 + weights:
        raise InputError(
            "no output (1, N, 6), or (1, N, 6 + P) with prototypes (1, P, h, w)",
            path,
            "choose another form",
        )
    sizes = [4, 1, 1] + [weights] * (weights > 0)
    parts = build.add("Split", [flat.name, build.constant(sizes)], len(sizes), axis=2)
    axis = build.constant([2])
    kept = build.constant([min(FEW, flat.dims[1])])
    best, index = build.add("TopK", [build.one("Squeeze", parts[1], axis), kept], 2, axis=1)
    rows = build.one("Squeeze", index, build.constant([0]))
    labels = build.one(
        "Cast", build.one("Squeeze", build.one("Gather", parts[2], rows, axis=1), axis), to=INT
    )
    labels = _labels(build, labels, best)
    boxes = relative_corners(build, build.one("Gather", parts[0], rows, axis=1), size, layout)
    results = {"scores": (best, FLOAT), "labels": (labels, INT), "boxes": (boxes, FLOAT)}
    if protos is not None:
        results["masks"] = (
            masks_of(build, build.one("Gather", parts[3], rows, axis=1), protos, boxes),
            FLOAT,
        )
    build.results(**results)


def _labels(build: Builder, labels: str, scores: str) -> str:
    """Labels (1, K), 0 where the score is 0, because some programs fill empty places with -1."""
    there = build.one("Greater", scores, build.constant(0.0, np.float32))
    return build.one("Where", there, labels, build.constant(0))
