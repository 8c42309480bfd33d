"""Multiply-adds of an ONNX graph, counted like in the paper's tables: matrix products and
convolutions only.
"""

from __future__ import annotations

import math

import onnx

from .shapes import PRODUCTS, known_shapes


def multiply_adds(model: onnx.ModelProto) -> int:
    """Number of multiply-adds of one run.

    ``model``: a graph after shape inference. Raises ValueError, which names the node, for a product
    whose shapes are unknown.
    """
    shapes = known_shapes(model)
    total = 0
    for index, node in enumerate(model.graph.node):
        if node.op_type in PRODUCTS:
            try:
                total += _of(node, shapes)
            except KeyError as error:
                raise ValueError(
                    f"the shape of {error} at {node.op_type} {node.name or index} is not known"
                ) from error
    return total


def _of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    left = shapes[node.input[0]]
    right = shapes[node.input[1]]
    out = shapes[node.output[0]]
    if node.op_type == "Conv":  # weight (out, in / groups, *kernel)
        return math.prod(out) * math.prod(right[1:])
    # weight (in, out / groups, *kernel): every input pixel meets the kernel once
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(out) * left[0 if transposed else 1]
    return math.prod(out) * left[-1]
