"""The preprocessing that an ONNX file expects, with reasons: normalisation, resize and
antialiasing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx

from rfdetr_repro.data.network_input import Letterbox, network_input
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import with_antialias

from .file import ImageInput, Metadata
from .probe import stand_in
from .seen import Picture, Truth
from .wishes import RESIZE, Wishes
from .yolo import YOLO_FORMS

Array = np.ndarray[Any, Any]


def chosen_normalisation(
    model: onnx.ModelProto, image: ImageInput, metadata: Metadata, wishes: Wishes
) -> tuple[str, str]:
    """The normalisation, one of NORMALISE, and the reason in words."""
    inputs = [value.name for value in model.graph.input]
    upstream = {"dets", "labels"} <= {
        value.name for value in model.graph.output
    } and "input" in inputs
    if image.dtype == "uint8":
        if wishes.normalise not in (None, "none", "bytes", "bgr-bytes", "bgr"):
            raise InputError(
                f"a uint8 input cannot hold {wishes.normalise} values", hint="leave --normalise out"
            )
        return (
            ("bgr", "")
            if wishes.normalise in ("bgr", "bgr-bytes")
            else ("none", " (bytes, as the input's type says)")
        )
    if wishes.normalise is not None:
        return wishes.normalise, " (as asked)"
    if upstream and not _normalises_itself(model.graph, image.shape.name):
        return (
            "imagenet",
            " (the input and outputs are named as upstream RF-DETR exports them, and it "
            "normalises outside)",
        )
    if metadata.ultralytics:
        return "none", " (as its authors do)"
    inside = _normalises_itself(model.graph, image.shape.name)
    return (
        "none",
        " (the file does so itself)"
        if inside
        else " (assumed: RGB in 0..1; --normalise imagenet is the other way)",
    )


def _normalises_itself(graph: onnx.GraphProto, image: str) -> bool:
    """Whether the graph subtracts a constant from the image, or scales its channels, before any
    other operation.
    """
    constants = {constant.name for constant in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    values = {image}
    for node in graph.node:
        if not values & set(node.input):
            continue
        others = [name for name in node.input if name not in values]
        if (
            node.op_type in ("Sub", "Add", "BatchNormalization")
            and others
            and all(name in constants for name in others)
        ):
            return True
        if node.op_type in ("Cast", "Transpose", "Identity", "Reshape", "Resize", "Mul", "Div"):
            values |= set(node.output)
    return False


def chosen_resize(metadata: Metadata, wishes: Wishes) -> tuple[str, str]:
    """The resize, one of RESIZE, and the reason in words; for YOLO's formats the format decides
    later.
    """
    if wishes.resize is not None:
        return wishes.resize, " (as asked)"
    if metadata.ultralytics:
        return (
            ("stretch", " (as its authors do)")
            if metadata.rt_detr
            else ("letterbox", " (as its authors do)")
        )
    return "stretch", " (assumed; --resize letterbox is the other way)"


def chosen_filter(rule: str, metadata: Metadata, form: str, wishes: Wishes) -> tuple[str, str]:
    """The resize rule with or without antialiasing, and the reason in words.

    Ultralytics and the other YOLO authors resize with OpenCV, which does not average; other authors
    resize with Pillow or torchvision, which do.
    """
    if wishes.antialias is not None:
        return with_antialias(
            rule, wishes.antialias
        ), f"{'with' if wishes.antialias else 'without'} antialiasing (as asked)"
    if metadata.ultralytics:
        return with_antialias(rule, False), "without antialiasing (as its authors do)"
    if "rfdetr_notes" in metadata.entries:
        return with_antialias(
            rule, False
        ), "without antialiasing (the file is of upstream RF-DETR >= 1.8)"
    if form in YOLO_FORMS:
        return with_antialias(
            rule, False
        ), "without antialiasing (usual for this form; --antialias is the other way)"
    return with_antialias(
        rule, True
    ), "with antialiasing (assumed; --no-antialias is the other way)"


def network_inputs(
    pictures: Sequence[Callable[[], Picture]], image: ImageInput, resize: str
) -> list[Callable[[], Array]]:
    """Makers of what the network sees of each picture, float32 (1, 3, H, W) in 0..1; without
    pictures of a drawn one.
    """
    hw = image.shape.dims[2], image.shape.dims[3]

    def seen(picture: Callable[[], Picture]) -> Array:
        return network_input([picture().pixels], hw, RESIZE[resize])

    return [partial(seen, picture) for picture in pictures] or [partial(stand_in, hw)]


def truths_of(
    pictures: Sequence[Callable[[], Picture]], image: ImageInput, resize: str
) -> list[Callable[[], Truth]]:
    """Each image's objects in the coordinates of the network's input: boxes (n, 4) xyxy in 0..1,
    category ids (n,).
    """
    hw = image.shape.dims[2], image.shape.dims[3]

    def truth(picture: Callable[[], Picture]) -> Truth:
        pixels, boxes, ids = picture()
        height, width = pixels.shape[:2]
        if resize == "stretch":
            return Truth(boxes / [width, height, width, height], ids)
        letterbox = Letterbox((height, width), hw)
        top, left = letterbox.top_left
        input_h, input_w = hw
        return Truth(
            (boxes * letterbox.scale + [left, top, left, top])
            / [input_w, input_h, input_w, input_h],
            ids,
        )

    return [partial(truth, picture) for picture in pictures]
