"""Raw outputs of YOLO-like detectors made into ranked detections inside the file: suppression, and masks from prototypes.

- ``yolo``: (1, 4 + C, N), centre and size in pixels of the input, then class scores in 0..1 (YOLOv8, v9, 11);
- ``yolo-seg``: (1, 4 + C + P, N) and prototypes (1, P, h, w): the last P numbers of a box weigh the prototypes to its mask;
- ``yolo-objectness``: (1, N, 5 + C), the fifth number multiplies the scores (YOLOX, YOLOv5, v7).

Masks are weighed, cropped to their box at the prototypes' resolution and left as logits (0 outside the box), only for the
boxes that are kept: MOST x h x w float32 are written, 30.7 MB at 160 x 160. A reader scales the logits up and cuts at 0, as the
vendors' current code does; older code cut a sigmoid at 0.5 after scaling, which moves edges by less than a prototype pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from ..errors import InputError
from .nms import Nms, suppress
from .surgery import Builder, Shape

YOLO_FORMS = ("yolo", "yolo-seg", "yolo-objectness")


def yolo_form(outputs: Sequence[Shape]) -> str | None:
    """Which of YOLO_FORMS the outputs are; None if none, or if it cannot be told."""
    flat = [shape for shape in outputs if len(shape.dims) == 3 and shape.dims[0] == 1 and shape.dtype == "float32"]
    maps = [shape for shape in outputs if len(shape.dims) == 4 and shape.dims[0] == 1]
    if len(flat) != 1 or len(flat) + len(maps) != len(outputs) or len(maps) > 1:
        return None
    numbers, anchors = flat[0].dims[1:]
    if maps:
        return "yolo-seg" if numbers > 4 + maps[0].dims[1] and anchors > numbers else None
    if anchors > numbers > 4:
        return "yolo"
    return "yolo-objectness" if numbers > anchors > 5 else None


def adopt_yolo(
    graph: onnx.GraphProto,
    form: str,
    outputs: Sequence[Shape],
    size: tuple[int, int],
    *,
    nms: Nms,
    path: str | Path = "",
) -> int:
    """Adds choice and masks to ``graph``; returns the number of classes. ``size``: input (width, height)."""
    flat = next((shape for shape in outputs if len(shape.dims) == 3 and shape.dims[0] == 1), None)
    protos = next((shape for shape in outputs if len(shape.dims) == 4), None)
    if flat is None or (form == "yolo-seg") != (protos is not None):
        raise InputError(f"the outputs are not of the form {form}", path, "choose another form")
    build, weights = Builder(graph), protos.dims[1] if protos else 0
    rows, anchors, numbers = _rows(build, flat, form)
    lead = 5 if form == "yolo-objectness" else 4
    classes = numbers - lead - weights
    if classes < 1:
        raise InputError(f"{numbers} numbers per box leave no class", path, "choose another form")
    sizes = [size for size in (4, lead - 4, classes, weights) if size]
    parts = build.add("Split", [rows, build.constant(sizes)], len(sizes), axis=2)
    boxes, scores = parts[0], parts[2] if lead == 5 else parts[1]
    if lead == 5:
        scores = build.one("Mul", scores, parts[1])
    if nms.inject is not None:
        scores = _injected(build, scores, anchors, classes, nms.inject, path)
    kept = suppress(build, boxes, scores, anchors, classes, nms)
    unit = build.constant(np.reshape([1 / size[0], 1 / size[1]] * 2, (1, 1, 4)), np.float32)
    relative = build.one("Mul", kept.boxes_xyxy, unit)
    number, whole = TensorProto.FLOAT, TensorProto.INT64
    results = {"scores": (kept.scores, number), "labels": (kept.labels, whole), "boxes": (relative, number)}
    if protos is not None:
        chosen = build.one("Gather", parts[-1], kept.anchors, axis=1)  # (1, K, P)
        results["masks"] = (_masks(build, chosen, protos, relative), number)
    build.results(**results)
    return classes


def _rows(build: Builder, flat: Shape, form: str) -> tuple[str, int, int]:
    """(value (1, N, numbers per box), N, numbers)."""
    if form == "yolo-objectness":
        return flat.name, flat.dims[1], flat.dims[2]
    return build.one("Transpose", flat.name, perm=[0, 2, 1]), flat.dims[2], flat.dims[1]


def _injected(build: Builder, scores: str, anchors: int, classes: int, count: int, path: str | Path) -> str:
    """Scores of which exactly ``count`` anchors, spread evenly, exceed any threshold below 0.5; still computed from the image."""
    if not 0 <= count <= anchors:
        raise InputError(f"{count} candidates of {anchors} boxes", path, f"give 0 to {anchors}")
    pattern = np.zeros((1, anchors, classes), np.float32)
    places = np.linspace(0, anchors - 1, count).astype(int) if count else np.zeros(0, int)
    pattern[0, places, np.arange(count) % classes] = np.linspace(0.9, 0.5, count)
    return build.one("Add", build.one("Mul", scores, build.constant(1e-6, np.float32)), build.constant(pattern, np.float32))


def _masks(build: Builder, weights: str, protos: Shape, boxes_xyxy: str) -> str:
    """(1, K, h, w) logits: weights (1, K, P) x prototypes, 0 outside the boxes (1, K, 4 in 0..1)."""
    _, count, height, width = protos.dims
    flat = build.one("Reshape", protos.name, build.constant([1, count, height * width]))
    logits = build.one("Reshape", build.one("MatMul", weights, flat), build.constant([1, -1, height, width]))
    unit = build.constant(np.reshape([width, height] * 2, (1, 1, 4)), np.float32)
    sides = build.add("Split", [build.one("Mul", boxes_xyxy, unit), build.constant([1, 1, 1, 1])], 4, axis=2)  # (1, K, 1)
    left, top, right, bottom = (build.one("Unsqueeze", side, build.constant([3])) for side in sides)
    columns = build.constant(np.arange(width).reshape(1, 1, 1, width), np.float32)
    rows = build.constant(np.arange(height).reshape(1, 1, height, 1), np.float32)
    inside = [
        build.one("And", build.one("Not", build.one("Less", ramp, low)), build.one("Less", ramp, high))
        for ramp, low, high in ((columns, left, right), (rows, top, bottom))
    ]
    return build.one("Mul", logits, build.one("Cast", build.one("And", *inside), to=TensorProto.FLOAT))
