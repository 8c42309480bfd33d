"""Static shapes of an ONNX graph: inferred, or, where inference fails, observed in one run; and the
multiply-adds that follow from the shapes.

Exporters leave chains of Shape, Gather and Reshape whose results inference cannot determine,
although they are constant for an image of fixed size. A graph with an operator whose result size
depends on the pixels is refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from rfdetr_repro.spec.errors import InputError, first_line

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
DEPENDS_ON_PIXELS = {"NonMaxSuppression", "NonZero", "Unique", "Compress", "If", "Loop", "Scan"}


def with_shapes(model: onnx.ModelProto, path: str | Path) -> onnx.ModelProto:
    """``model`` with the shapes of its outputs and of every operand of a product; ``path`` names
    the file in errors.
    """
    inferred, missing = inferred_shapes(model, path)
    if missing:
        _fill(inferred, _seen(inferred, missing, path))
    return inferred


def inferred_shapes(model: onnx.ModelProto, path: str | Path) -> tuple[onnx.ModelProto, list[str]]:
    """``model`` with the inferred shapes, and the values whose shapes cannot be inferred; the model
    is not run.

    Raises :class:`InputError` for inconsistent shapes, and for an operator whose results have no
    fixed size.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx's InferenceError has no stable import path
        raise InputError(
            f"the shapes of the model are inconsistent ({first_line(error)})",
            path,
            "export it again",
        ) from error
    missing = _missing(inferred)
    unfit = sorted({node.op_type for node in inferred.graph.node} & DEPENDS_ON_PIXELS)
    if missing and unfit:
        hint = "export the model with outputs of fixed size"
        raise InputError(f"the results of {', '.join(unfit)} have no fixed size", path, hint)
    return inferred, missing


def known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name -> dimensions, for every value whose shape the file states in numbers."""
    shapes = {constant.name: tuple(constant.dims) for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape") and 0 not in dims:
            shapes.setdefault(value.name, dims)
    return shapes


def _missing(model: onnx.ModelProto) -> list[str]:
    known = known_shapes(model)
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    wanted = [name for node in products for name in (*node.input[:2], node.output[0])]
    wanted += [value.name for value in model.graph.output]
    return [name for name in dict.fromkeys(wanted) if name not in known]


def _seen(model: onnx.ModelProto, names: list[str], path: str | Path) -> dict[str, Any]:
    """Name -> (shape, ONNX element type), from one run on an image of zeros that returns only
    shapes.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    constants = {constant.name for constant in exposed.graph.initializer}
    feed = {
        value.name: np.zeros(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim],
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in exposed.graph.input
        if value.name not in constants
    }
    known = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.output)
    }
    del exposed.graph.output[:]
    asked = [f"rfdetr_repro/shape_{index}" for index in range(len(names))]
    for name, answer in zip(names, asked, strict=True):
        exposed.graph.node.append(helper.make_node("Shape", [name], [answer]))
        exposed.graph.output.append(helper.make_tensor_value_info(answer, TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(asked, feed)
    except Exception as error:  # ONNX Runtime's own exception types share no public base class
        raise InputError(
            f"the model does not run on one image ({error})",
            path,
            "export the model with a batch of 1",
        ) from error
    return {
        name: (tuple(map(int, dims)), known.get(name, 0))
        for name, dims in zip(names, found, strict=True)
    }


def _fill(model: onnx.ModelProto, seen: dict[str, Any]) -> None:
    outputs = {value.name: value for value in model.graph.output}
    inner = {value.name: value for value in model.graph.value_info}
    for name, (shape, kind) in seen.items():
        information = helper.make_tensor_value_info(name, kind or TensorProto.FLOAT, shape)
        for known in (outputs, inner):
            if name in known:
                known[name].CopyFrom(information)
        if name not in outputs and name not in inner:
            model.graph.value_info.append(information)


def multiply_adds(model: onnx.ModelProto) -> int:
    """Number of multiply-adds of one run, counted as in the paper's tables: matrix products and
    convolutions only.

    ``model``: a graph after shape inference. Raises ValueError, which names the node, for a product
    whose shapes are unknown.
    """
    shapes = known_shapes(model)
    total = 0
    for index, node in enumerate(model.graph.node):
        if node.op_type in PRODUCTS:
            try:
                total += _multiply_adds_of(node, shapes)
            except KeyError as error:
                raise ValueError(
                    f"the shape of {error} at {node.op_type} {node.name or index} is not known"
                ) from error
    return total


def _multiply_adds_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
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
