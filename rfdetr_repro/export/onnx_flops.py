"""Multiply-adds of an ONNX graph, counted as the paper's tables count them: matrix products and convolutions, nothing else."""

from __future__ import annotations

import math

import onnx


def multiply_adds(model: onnx.ModelProto) -> int:
    """Of one run. ``model`` after shape inference; a product whose shapes are not known raises ValueError with its name."""
    shapes = {constant.name: tuple(constant.dims) for constant in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape") and 0 not in dims:
            shapes.setdefault(value.name, dims)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            shapes.setdefault(node.output[0], tuple(node.attribute[0].t.dims))
    total = 0
    for index, node in enumerate(model.graph.node):
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            try:
                total += _of(node, shapes)
            except KeyError as error:
                raise ValueError(f"the shape of {error} at {node.op_type} {node.name or index} is not known") from error
    return total


def _of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    left, right, out = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":  # weight (out, in / groups, *kernel)
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":  # weight (in, out / groups, *kernel): every input pixel meets the kernel once
        return math.prod(left) * math.prod(right[1:])
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(out) * left[0 if transposed else 1]
    return math.prod(out) * left[-1]
