"""The plugin's node written out as standard operators, so that ONNX Runtime can run a file that is
meant for TensorRT's plugin.

The result is for comparisons alone: it holds GridSample, which the plugin replaces. The arithmetic
is that of ``ops/reference.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from .plugin import DOMAIN, OPERATOR

_OPSET = 17  # of the nodes below


def with_standard_operators(content: bytes) -> bytes:
    """The ONNX model in ``content`` with a body for the plugin's node; ``content`` itself without
    such a node. Raises ValueError for nodes with different levels.
    """
    model = onnx.load_model_from_string(content)
    levels = {
        tuple(one.ints)
        for node in model.graph.node
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR)
        for one in node.attribute
        if one.name == "level_sizes"
    }
    if not levels:
        return content
    if len(levels) > 1:
        raise ValueError(f"the nodes of the plugin have different levels: {sorted(levels)}")
    (sizes,) = levels
    model.functions.append(_body(list(zip(sizes[::2], sizes[1::2], strict=True))))
    return model.SerializeToString()


def _body(levels: Sequence[tuple[int, int]]) -> FunctionProto:
    """Inputs: value (B, S, M, D), offsets (B, Q, M, L, P, 2), boxes (B, Q, 4) cxcywh and logits
    (B, Q, M, L, P); output (B, Q, M * D) in the type of ``value``.
    """
    build = _Nodes()
    op, ints = build.op, build.ints
    wide = op("Cast", "value", to=TensorProto.FLOAT)
    offsets = op("Cast", "offsets", to=TensorProto.FLOAT)
    boxes = op("Unsqueeze", op("Cast", "boxes", to=TensorProto.FLOAT), ints(2, 3, 4))
    logits = op("Cast", "logits", to=TensorProto.FLOAT)
    batch, channels = op("Shape", wide, start=0, end=1), op("Shape", wide, start=3, end=4)
    queries = op("Shape", offsets, start=1, end=2)
    points = op("Shape", offsets, start=4, end=5)

    half = op("Mul", op("Slice", boxes, ints(2), ints(4), ints(-1)), build.floats(0.5))
    moved = op("Mul", op("Div", offsets, op("Cast", points, to=TensorProto.FLOAT)), half)
    centre = op("Slice", boxes, ints(0), ints(2), ints(-1))
    doubled = op("Mul", op("Add", centre, moved), build.floats(2.0))
    grids = op("Transpose", op("Sub", doubled, build.floats(1.0)), perm=[0, 2, 3, 1, 4, 5])
    maps = op("Transpose", wide, perm=[0, 2, 3, 1])  # (B, M, D, S)
    samples = []
    start = 0
    for level, (height, width) in enumerate(levels):
        part = op("Slice", maps, ints(start), ints(start + height * width), ints(3))
        start += height * width
        shape = op("Concat", ints(-1), channels, ints(height, width), axis=0)
        grid = op("Gather", grids, ints(level, scalar=True), axis=2)  # (B, M, Q, P, 2)
        flat = op("Reshape", grid, op("Concat", ints(-1), queries, points, ints(2), axis=0))
        samples.append(
            op(
                "GridSample",
                op("Reshape", part, shape),
                flat,
                mode="bilinear",
                padding_mode="zeros",
                align_corners=0,
            )
        )
    sampled = op("Concat", *samples, axis=-1)  # (B * M, D, Q, L * P)
    weights = op("Softmax", op("Reshape", logits, ints(0, 0, 0, -1)), axis=-1)
    every = op("Mul", points, ints(len(levels)))
    shape = op("Concat", ints(-1, 1), queries, every, axis=0)
    weights = op("Reshape", op("Transpose", weights, perm=[0, 2, 1, 3]), shape)
    total = op("ReduceSum", op("Mul", sampled, weights), ints(-1), keepdims=0)  # (B * M, D, Q)
    total = op("Reshape", total, op("Concat", batch, ints(-1), queries, axis=0))
    op("CastLike", op("Transpose", total, perm=[0, 2, 1]), "value", result="attended")
    return helper.make_function(
        DOMAIN,
        OPERATOR,
        ["value", "offsets", "boxes", "logits"],
        ["attended"],
        build.nodes,
        [helper.make_opsetid("", _OPSET)],
        attributes=["level_sizes", "plugin_version", "plugin_namespace"],
    )


class _Nodes:
    """The nodes of a function in their order."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def op(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        name = result or f"part_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def ints(self, *values: int, scalar: bool = False) -> str:
        """A constant of int64."""
        return self._constant(np.array(values[0] if scalar else values, np.int64))

    def floats(self, value: float) -> str:
        """A constant of float32."""
        return self._constant(np.array(value, np.float32))

    def _constant(self, value: np.ndarray[Any, Any]) -> str:
        return self.op("Constant", value=numpy_helper.from_array(value))
