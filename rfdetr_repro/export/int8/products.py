"""The matrix products and convolutions of an ONNX model, what they cost, and which of them can
become INT8.

A product can become INT8 if its weights are constant: those are what INT8 makes smaller, and nearly
all of the work. The two products of attention can, too (:mod:`.attention`). Other products of two
activations stay in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from rfdetr_repro.export.float16 import inline_constants
from rfdetr_repro.export.onnx_file import check_operators, load_whole
from rfdetr_repro.export.trial import run_once
from rfdetr_repro.spec.errors import InputError

from .attention import attention_products
from .projections import drop_unread_constants, original_name, split_projections

MATRIX_PRODUCTS = ("MatMul", "Gemm")
CONVOLUTIONS = ("Conv",)
KINDS = (*MATRIX_PRODUCTS, *CONVOLUTIONS)
# counted, but without an integer kernel that the quantizer uses
_FLOAT_ONLY = ("ConvTranspose", "Einsum")


@dataclass(frozen=True)
class Product:
    """A node that multiplies and adds.

    ``flops``: 2 per multiply-add, one image. ``why_float``: why the node cannot become INT8; ""
    where it can.
    """

    name: str
    op: str
    flops: int
    why_float: str = ""

    @property
    def is_convolution(self) -> bool:
        """Whether the node is a convolution."""
        return self.op in ("Conv", "ConvTranspose")


def prepared(path: str | Path) -> onnx.ModelProto:
    """The float32 model at ``path`` in the form that the quantizer needs: constants as
    initializers, a name for every node, and weights of MatMul with two axes.

    ONNX Runtime takes the scales of the columns of a weight only if the weight is a matrix. Its
    quantizer places them along axis 1, which is the inner axis of a weight (1, K, N): the file then
    loads and fails in QLinearMatMul. A leading axis of size 1 changes nothing in the product, so it
    is removed. Raises :class:`InputError` for a file that is no model of standard operators.
    """
    model, _ = load_whole(path)
    check_operators(model, path)
    inline_constants(model.graph)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    _flatten_weights(model.graph)
    split_projections(model.graph)
    # the quantizer passes over values whose type the file does not state
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _widen_biases(model.graph)
    return model


def _flatten_weights(graph: onnx.GraphProto) -> None:
    constants = {constant.name: constant for constant in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for name, constant in constants.items():
        matrix = len(constant.dims) > 2 and all(size == 1 for size in constant.dims[:-2])
        products = all(
            node.op_type == "MatMul" and node.input[1] == name and node.input[0] not in constants
            for node in readers.get(name, [])
        )
        if matrix and products and name in readers:
            size = tuple(constant.dims[-2:])
            del constant.dims[:]
            constant.dims.extend(size)


def _widen_biases(graph: onnx.GraphProto) -> None:
    constants = {constant.name: constant for constant in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    sums = {
        node.output[0]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    }
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for place, other in ((0, 1), (1, 0)):
            bias = constants.get(node.input[place])
            value = node.input[other]
            if bias is None or len(bias.dims) != 1 or value not in sums or ranks.get(value, 0) < 3:
                continue
            wide = onnx.TensorProto()
            wide.CopyFrom(bias)
            wide.name = f"{bias.name}/three axes"
            wide.dims[:] = [1, 1, *bias.dims]
            if wide.name not in constants:
                constants[wide.name] = wide
                graph.initializer.append(wide)
            node.input[place] = wide.name
    drop_unread_constants(graph)


def products_of(model: onnx.ModelProto, where: str | Path, batch: int = 1) -> list[Product]:
    """Every matrix product and convolution of a :func:`prepared` model, in the order of the graph.

    The shapes are those of one run on noise in another process, so that no rule of inference has to
    know them. ``batch``: images of that run, by which operations are divided. Raises
    :class:`InputError` for a model that does not run.
    """
    nodes = [node for node in model.graph.node if node.op_type in (*KINDS, *_FLOAT_ONLY)]
    shapes = _shapes(model, [*_operands(nodes)], where, batch)
    constants = {constant.name: constant for constant in model.graph.initializer}
    shapes |= {name: tuple(constant.dims) for name, constant in constants.items()}
    attention = attention_products(model.graph)
    return [
        Product(
            node.name,
            node.op_type,
            _flops(node, shapes) // batch,
            "" if node.name in attention else _why_float(node, constants),
        )
        for node in nodes
    ]


def _operands(nodes: Iterable[onnx.NodeProto]) -> dict[str, None]:
    return {name: None for node in nodes for name in (node.input[0], node.output[0])}


def _shapes(
    model: onnx.ModelProto, names: Sequence[str], where: str | Path, batch: int
) -> dict[str, tuple[int, ...]]:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    there = {value.name for value in (*exposed.graph.output, *exposed.graph.input)}
    exposed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in there
    )
    given = {}
    constants = {constant.name for constant in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
            given[value.name] = (sides[0] or batch, *sides[1:])
    found = run_once(exposed.SerializeToString(), where, optimised=False, shapes=given)
    return {**given, **{output.name: output.shape for output in found}}


def _flops(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    out = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return 2 * out * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        weight = shapes[node.input[1]]
        return 2 * math.prod(shapes[node.input[0]]) * math.prod(weight[1:])
    if node.op_type == "Einsum":
        return 0  # its products are not told apart, and the models here have none
    transposed = attribute(node, "transA", 0) if node.op_type == "Gemm" else 0
    return 2 * out * shapes[node.input[0]][-2 if transposed else -1]


def _why_float(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> str:
    if node.op_type in _FLOAT_ONLY:
        return "no integer kernel"
    weight = constants.get(node.input[1])
    if weight is None:
        return "two activations"
    if node.input[0] in constants or weight.data_type != TensorProto.FLOAT:
        return "no float32 activation and weight"
    if node.op_type in MATRIX_PRODUCTS and len(weight.dims) != 2:
        return "a weight that is no matrix"
    if node.op_type == "Gemm" and _is_scaled(node):
        return "a scaled product"
    if len(node.input) > 2 and node.input[2] and node.input[2] not in constants:
        return "a bias that is no constant"
    return ""


def _is_scaled(node: onnx.NodeProto) -> bool:
    scales = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
    return scales != (1.0, 1.0) or bool(attribute(node, "transA", 0))


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """The value of an attribute, or the default of the operator."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def asked_for(model: onnx.ModelProto, names: Iterable[str]) -> set[str]:
    """The nodes that ``names`` stand for: names of nodes, or of operators.

    Raises :class:`InputError` for a name that is not in the graph.
    """
    found: set[str] = set()
    for name in names:
        nodes = {
            node.name
            for node in model.graph.node
            if name in (node.name, original_name(node.name), node.op_type)
        }
        if not nodes:
            raise InputError(
                f"there is no node or operator {name!r} to keep in float32",
                hint="use the names of the float32 graph",
            )
        found |= nodes
    return found
