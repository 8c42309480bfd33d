"""One product for each of query, key and value, instead of one product whose result is split.

Exporters write the projection of attention as one product (K, 3 N). In INT8, its three parts need
different forms (:mod:`.attention`), and splitting the result copies all of it. Weights and bias
are constants, so each part becomes a product of its own, and a constant by which a part alone is
multiplied, as queries are, goes into its weights and its bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
_PART = "/part "


def original_name(name: str) -> str:
    """The name that a node has in the float32 file, of which ``name`` may be a part."""
    return name.split(_PART)[0]


def drop_unread_constants(graph: onnx.GraphProto) -> None:
    """Removes the initializers that no node of ``graph`` reads and that are no output."""
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    for constant in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(constant)


class _Part(NamedTuple):
    """A Gather, the Mul by ``factor`` after it, if there is one, and the name of the result."""

    nodes: list[onnx.NodeProto]
    factor: np.float32
    output: str


class _Projection(NamedTuple):
    """Gemm -> Reshape (..., n, h, d) -> Transpose (n, ...) -> each of the n parts."""

    product: onnx.NodeProto
    reshape: onnx.NodeProto
    transpose: onnx.NodeProto
    parts: dict[int, _Part]
    shape: list[int]
    perm: list[int]


def split_projections(graph: onnx.GraphProto) -> None:
    """Replaces every such product in ``graph``, whose constants are initializers and whose nodes
    have names. The number of operations stays the same, and the values but for rounding errors.
    """
    constants = {constant.name: constant for constant in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    gone: set[str] = set()
    for node in graph.node:
        found = _projection(node, readers, constants, outputs)
        if found is None:
            nodes.append(node)
            continue
        gone |= {found.reshape.name, found.transpose.name}
        gone |= {one.name for part in found.parts.values() for one in part.nodes}
        made, added = _parts(found, constants)
        nodes += made
        graph.initializer.extend(added)
    kept = [node for node in nodes if node.name not in gone]
    del graph.node[:]
    graph.node.extend(kept)
    drop_unread_constants(graph)


def _projection(
    node: onnx.NodeProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, TensorProto],
    outputs: set[str],
) -> _Projection | None:
    if node.op_type != "Gemm" or len(node.input) != 3 or not set(node.input[1:]) <= set(constants):
        return None
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    scales = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0))
    if scales != (1.0, 1.0) or attributes.get("transA", 0):
        return None
    reshape = _only_reader(node, "Reshape", readers, outputs)
    if reshape is None or reshape.input[1] not in constants:
        return None
    shape = [int(size) for size in numpy_helper.to_array(constants[reshape.input[1]])]
    transpose = _only_reader(reshape, "Transpose", readers, outputs)
    if transpose is None or len(shape) < 4:
        return None
    perm = [int(axis) for one in transpose.attribute if one.name == "perm" for axis in one.ints]
    count = shape[-3]
    width = constants[node.input[2]].dims
    is_whole = min(shape[-3:]) > 0 and list(width) == [count * shape[-2] * shape[-1]]
    if not perm or perm[0] != len(shape) - 3 or not is_whole or transpose.output[0] in outputs:
        return None
    parts = {}
    for reader in readers.get(transpose.output[0], []):
        index = constants.get(reader.input[1]) if reader.op_type == "Gather" else None
        axis = [one.i for one in reader.attribute if one.name == "axis"] or [0]
        if index is None or index.dims or axis != [0]:
            return None
        place = int(numpy_helper.to_array(index)) % count
        if place in parts:
            return None
        parts[place] = _part(reader, readers, constants, outputs)
    return _Projection(node, reshape, transpose, parts, shape, perm) if parts else None


def _part(
    gather: onnx.NodeProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, TensorProto],
    outputs: set[str],
) -> _Part:
    name = gather.output[0]
    after = readers.get(name, [])
    if name not in outputs and len(after) == 1 and after[0].op_type == "Mul":
        (other,) = [one for one in after[0].input if one != name] or [name]
        constant = constants.get(other)
        if constant is not None and not constant.dims:
            factor = np.float32(numpy_helper.to_array(constant))
            return _Part([gather, after[0]], factor, after[0].output[0])
    return _Part([gather], np.float32(1), name)


def _only_reader(
    node: onnx.NodeProto,
    kind: str,
    readers: Mapping[str, list[onnx.NodeProto]],
    outputs: set[str],
) -> onnx.NodeProto | None:
    name = node.output[0]
    found = readers.get(name, [])
    if name in outputs or len(found) != 1 or found[0].op_type != kind:
        return None
    return found[0] if found[0].input[0] == name else None


def _parts(
    found: _Projection, constants: Mapping[str, TensorProto]
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    product = found.product
    weight = numpy_helper.to_array(constants[product.input[1]])
    bias = numpy_helper.to_array(constants[product.input[2]])
    transposed = any(one.name == "transB" and one.i for one in product.attribute)
    count = found.shape[-3]
    stem = f"{product.name}{_PART}"
    shape = np.array([*found.shape[:-3], *found.shape[-2:]], dtype=np.int64)
    perm = [axis - (axis > len(found.shape) - 3) for axis in found.perm[1:]]
    added = [numpy_helper.from_array(shape, f"{stem}shape")]
    nodes = []
    weights = np.split(weight, count, axis=0 if transposed else 1)
    biases = np.split(bias, count)
    for place, part in sorted(found.parts.items()):
        name = f"{stem}{place}"
        for array, kind in ((weights[place], "weight"), (biases[place], "bias")):
            added.append(numpy_helper.from_array(array * part.factor, f"{name}/{kind}"))
        own = onnx.NodeProto()
        own.CopyFrom(product)
        own.name = name
        own.input[:] = [product.input[0], f"{name}/weight", f"{name}/bias"]
        own.output[:] = [f"{name}/product"]
        nodes += [
            own,
            helper.make_node(
                "Reshape",
                [own.output[0], f"{stem}shape"],
                [f"{name}/heads"],
                f"{part.nodes[0].name}/reshape",
            ),
            helper.make_node(
                "Transpose",
                [f"{name}/heads"],
                [part.output],
                f"{part.nodes[0].name}/transpose",
                perm=perm,
            ),
        ]
    return nodes, added
