"""Turns raw outputs of YOLO-like detectors into ranked detections inside the file: suppression, and
masks from prototypes.

- ``yolo``: (1, 4 + C, N), centre and size, then class scores in 0..1 (YOLOv8, v9, 11), or the same
  transposed, (1, N, 4 + C);
- ``yolo-seg``: (1, 4 + C + P, N) and prototypes (1, P, h, w): the last P numbers of a box are the
  weights of the prototypes in its mask;
- ``yolo-objectness``: (1, N, 5 + C), the fifth number multiplies the scores (YOLOX, YOLOv5, v7).

Masks are weighted sums of the prototypes, as logits, only for the boxes that are kept: MOST x h x w
float32 are written, 30.7 MB at 160 x 160. A reader scales the logits up and thresholds them at 0,
as the vendors' current code does, which then cuts each mask off at its box. So that a reader need
not cut, cells whose centre is outside the box have the negative of their size: the enlarged mask
ends between the last cell inside and the first outside, within half a prototype pixel of the box's
edge. Zeros there would let every mask reach a whole prototype pixel beyond its box. Older code of
the vendors thresholded a sigmoid at 0.5 after scaling, which moves edges by less than a prototype
pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto

from rfdetr_repro.export.onnx.nms import Nms, Raw, suppress
from rfdetr_repro.export.onnx.surgery import Builder, Shape
from rfdetr_repro.spec.errors import InputError

from .boxes import Layout, relative_corners

YOLO_FORMS = ("yolo", "yolo-seg", "yolo-objectness")


def flat_and_maps(outputs: Sequence[Shape]) -> tuple[Shape | None, Shape | None]:
    """The output (1, a, b) and the output (1, P, h, w); None where there is no such output, or
    several.
    """
    flat = [
        shape
        for shape in outputs
        if len(shape.dims) == 3 and shape.dims[0] == 1 and shape.dtype == "float32"
    ]
    maps = [shape for shape in outputs if len(shape.dims) == 4 and shape.dims[0] == 1]
    if len(flat) != 1 or len(maps) > 1 or len(flat) + len(maps) != len(outputs):
        return None, None
    return flat[0], maps[0] if maps else None


def adopt_yolo(
    build: Builder,
    form: str,
    outputs: Sequence[Shape],
    size: tuple[int, int],
    layout: Layout,
    *,
    nms: Nms,
    channels_last: bool = False,
    path: str | Path = "",
) -> int:
    """Adds suppression and masks to the graph; returns the number of classes.

    ``size``: (width, height) of the input. ``layout``: box format. ``channels_last``: ``yolo`` and
    ``yolo-seg`` outputs are (1, N, numbers). Raises :class:`InputError` if the outputs do not match
    ``form``.
    """
    flat = next((shape for shape in outputs if len(shape.dims) == 3 and shape.dims[0] == 1), None)
    protos = next((shape for shape in outputs if len(shape.dims) == 4), None)
    if flat is None or (form == "yolo-seg") != (protos is not None):
        raise InputError(f"the outputs do not have the form {form}", path, "choose another form")
    weights = protos.dims[1] if protos else 0
    lead = 5 if form == "yolo-objectness" else 4
    axis = 2 if channels_last or form == "yolo-objectness" else 1  # axis of the numbers of a box
    numbers = flat.dims[axis]
    anchors = flat.dims[3 - axis]
    classes = numbers - lead - weights
    if classes < 1:
        raise InputError(f"{numbers} numbers per box leave no class", path, "choose another form")
    sizes = [part for part in (4, lead - 4, classes, weights) if part]
    parts = build.add("Split", [flat.name, build.constant(sizes)], len(sizes), axis=axis)
    scores, objectness = (parts[2], parts[1]) if lead == 5 else (parts[1], None)
    if nms.inject is not None:
        if objectness is not None:
            scores, objectness = build.one("Mul", scores, objectness), None
        scores = _injected(build, scores, anchors, classes, nms.inject, axis, path)
    raw = Raw(parts[0], scores, anchors, classes, axis, objectness, layout.order == "xyxy")
    kept = suppress(build, raw, nms)
    relative = relative_corners(build, kept.boxes_xyxy, size, layout._replace(order="xyxy"))
    number = TensorProto.FLOAT
    whole = TensorProto.INT64
    results = {
        "scores": (kept.scores, number),
        "labels": (kept.labels, whole),
        "boxes": (relative, number),
    }
    if protos is not None:
        chosen = build.one("Gather", parts[-1], kept.anchors, axis=3 - axis)
        # (1, K, P)
        chosen = build.one("Transpose", chosen, perm=[0, 2, 1]) if axis == 1 else chosen
        results["masks"] = (masks_of(build, chosen, protos, relative), number)
    build.results(**results)
    return classes


def _injected(
    build: Builder, scores: str, anchors: int, classes: int, count: int, axis: int, path: str | Path
) -> str:
    """Scores, computed from the image, of which exactly ``count`` anchors, spread evenly, exceed
    any threshold below 0.5.
    """
    if not 0 <= count <= anchors:
        raise InputError(
            f"{count} candidates cannot be injected among {anchors} boxes",
            path,
            f"give 0 to {anchors}",
        )
    pattern = np.zeros((1, anchors, classes), np.float32)
    places = np.linspace(0, anchors - 1, count).astype(int) if count else np.zeros(0, int)
    pattern[0, places, np.arange(count) % classes] = np.linspace(0.9, 0.5, count)
    pattern = pattern if axis == 2 else pattern.transpose(0, 2, 1)
    return build.one(
        "Add",
        build.one("Mul", scores, build.constant(1e-6, np.float32)),
        build.constant(pattern, np.float32),
    )


def masks_of(build: Builder, weights: str, protos: Shape, boxes_xyxy: str) -> str:
    """Mask logits (1, K, h, w): weights (1, K, P) x prototypes; in cells with their centre outside
    the boxes (1, K, 4), which are in 0..1, never above 0.
    """
    _, count, height, width = protos.dims
    flat = build.one("Reshape", protos.name, build.constant([1, count, height * width]))
    logits = build.one(
        "Reshape", build.one("MatMul", weights, flat), build.constant([1, -1, height, width])
    )
    unit = build.constant(np.reshape([width, height] * 2, (1, 1, 4)), np.float32)
    # (1, K, 1)
    sides = build.add(
        "Split", [build.one("Mul", boxes_xyxy, unit), build.constant([1, 1, 1, 1])], 4, axis=2
    )
    left, top, right, bottom = (build.one("Unsqueeze", side, build.constant([3])) for side in sides)
    columns = build.constant(np.arange(width).reshape(1, 1, 1, width) + 0.5, np.float32)
    rows = build.constant(np.arange(height).reshape(1, 1, height, 1) + 0.5, np.float32)
    inside = [
        build.one(
            "And", build.one("Not", build.one("Less", ramp, low)), build.one("Less", ramp, high)
        )
        for ramp, low, high in ((columns, left, right), (rows, top, bottom))
    ]
    negative = build.one("Neg", build.one("Abs", logits))
    return build.one("Where", build.one("And", *inside), logits, negative)
