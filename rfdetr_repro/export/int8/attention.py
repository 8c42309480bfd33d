"""The two products of attention in INT8: queries by keys, and probabilities by values.

Both operands are activations. The left operand is uint8, the right operand int8 and symmetric,
because ONNX Runtime's integer kernels for uint8 by int8 are its fast kernels (docs/precision.md has
times). Processors without VNNI add two such products in 16 bits, which must not overflow:

- Keys use 7 bits, and values beyond the calibrated range are cut at 64: 2 x 255 x 64 < 2^15.
- Probabilities of a row add up to 1, which is 255, or 256 if two are rounded up. So two products
  with an int8 value are at most 256 x 127 < 2^15, and values use 8 bits.

Rounding commutes with moving elements, so an operand is rounded where it is made, before it is
reshaped and transposed: a fourth of the bytes are moved, and the rounding is part of the product
that makes the operand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .projections import drop_unread_constants

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze")
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_BETWEEN = ("Mul", "Div", "Add")  # scale and mask, between the product and its Softmax
SEVEN_BITS = 64
EIGHT_BITS = 127
Range = tuple[float, float]


def attention_products(graph: onnx.GraphProto) -> dict[str, str]:
    """Name -> "scores" or "values" for the products of attention, in the order of the graph.

    ``graph``: named nodes, constants as initializers. A Softmax counts if it is over the last axis
    and says so by axis -1, which is the default from opset 13 on.
    """
    constants = {constant.name for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "MatMul" or not constants.isdisjoint(node.input):
            continue
        softmax = makers.get(node.input[0])
        if softmax is None or softmax.op_type != "Softmax" or not _is_over_last(softmax):
            continue
        found[node.name] = "values"
        scores = _scores(softmax, makers, constants)
        if scores is not None:
            found[scores.name] = "scores"
    return {node.name: found[node.name] for node in graph.node if node.name in found}


def _is_over_last(softmax: onnx.NodeProto) -> bool:
    return all(one.i == -1 for one in softmax.attribute if one.name == "axis")


def _scores(
    softmax: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constants: set[str]
) -> onnx.NodeProto | None:
    waiting = [softmax.input[0]]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None:
            continue
        if node.op_type == "MatMul" and constants.isdisjoint(node.input):
            return node
        if node.op_type in _BETWEEN:
            waiting += [name for name in node.input if name not in constants]
    return None


class _Form(NamedTuple):
    """How an operand is rounded: scale, zero point (uint8 or int8), and the largest magnitude."""

    scale: np.float32
    zero: np.ndarray
    limit: int | None = None


def _left(ends: Range) -> _Form:
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    scale = np.float32(max(high - low, 1e-10) / 255)
    return _Form(scale, np.array(np.clip(np.rint(-low / scale), 0, 255), dtype=np.uint8))


def _right(ends: Range, limit: int) -> _Form:
    scale = np.float32(max(abs(ends[0]), abs(ends[1]), 1e-10) / limit)
    return _Form(scale, np.array(0, dtype=np.int8), limit)


_PROBABILITIES = _Form(np.float32(1 / 255), np.array(0, dtype=np.uint8))


def put_in_int8(
    graph: onnx.GraphProto, roles: Mapping[str, str], ranges: Mapping[str, Range]
) -> None:
    """Rounds both operands of the products ``roles`` (name -> role, as of
    :func:`attention_products`) of ``graph``.

    ``ranges``: least and largest value of the operands, by name.
    """
    work = _Rounding(graph)
    for node in list(graph.node):
        role = roles.get(node.name)
        if role is None:
            continue
        left, right = (ranges[name] for name in work.originals(node))
        if role == "values":
            forms = (_PROBABILITIES, _right(right, EIGHT_BITS))
        else:
            forms = (_left(left), _right(right, SEVEN_BITS))
        for place, form in enumerate(forms):
            work.round(node, place, form)
    work.finish()


class _Rounding:
    """A graph into which nodes that round are put."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {constant.name: constant for constant in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.count: dict[str, int] = {}
        for name in (name for node in graph.node for name in node.input):
            self.count[name] = self.count.get(name, 0) + 1
        self.before: dict[str, list[onnx.NodeProto]] = {}  # by the name of the node that follows
        self.changed: set[str] = set()  # values that are integers now

    def originals(self, node: onnx.NodeProto) -> list[str]:
        """The operands as they are called in the float32 graph, which the result of a convolution
        in INT8 is not.
        """
        names = []
        for name in node.input:
            maker = self.makers.get(name)
            if maker is not None and maker.op_type == "DequantizeLinear":
                maker = self.makers[maker.input[0]]
                name = maker.input[0]
            names.append(name)
        return names

    def round(self, node: onnx.NodeProto, place: int, form: _Form) -> None:
        """Rounds input ``place`` of ``node``, as near to where the operand is made as possible."""
        path = self._path(node, place)
        maker = self.makers.get(path[-1].input[0] if path else node.input[place])
        if form.limit is not None and maker is not None and maker.op_type in _PRODUCTS:
            # ONNX Runtime has no product with an int8 result: it would compute a product in
            # float32 that this rounding follows directly, so a node that moves stays between
            path = path[:-1]
        value = path[-1].input[0] if path else node.input[place]
        stem = f"{node.name}/{('left', 'right')[place]}"
        nodes = self._rounded(stem, value, form)
        self.before.setdefault(path[-1].name if path else node.name, []).extend(nodes)
        last = nodes[-1].output[0]
        for move in reversed(path):
            move.input[0] = last
            last = move.output[0]
        self.changed |= {move.output[0] for move in path}
        node.input[place] = f"{stem}/value"
        ends = [last, f"{stem}_scale", f"{stem}_zero_point"]
        made = helper.make_node("DequantizeLinear", ends, [node.input[place]], node.input[place])
        self.before.setdefault(node.name, []).append(made)

    def _rounded(self, stem: str, value: str, form: _Form) -> list[onnx.NodeProto]:
        self._constant(f"{stem}_scale", form.scale)
        self._constant(f"{stem}_zero_point", form.zero)
        nodes = []
        if form.limit is not None:
            for name, end in (("least", -form.limit), ("most", form.limit)):
                self._constant(f"{stem}_{name}", np.float32(end * form.scale))
            cut = f"{stem}/cut"
            ends = [value, f"{stem}_least", f"{stem}_most"]
            nodes.append(helper.make_node("Clip", ends, [cut], cut))
            value = cut
        rounded = f"{stem}/rounded"
        inputs = [value, f"{stem}_scale", f"{stem}_zero_point"]
        return [*nodes, helper.make_node("QuantizeLinear", inputs, [rounded], rounded)]

    def _path(self, node: onnx.NodeProto, place: int) -> list[onnx.NodeProto]:
        """The nodes that move the operand and do nothing else, from ``node`` upwards."""
        path: list[onnx.NodeProto] = []
        value = node.input[place]
        while self.count[value] == 1 and value not in self.outputs:
            maker = self.makers.get(value)
            if maker is None or maker.op_type not in MOVES or maker.input[0] in self.constants:
                break
            path.append(maker)
            value = maker.input[0]
        return path

    def _constant(self, name: str, value: np.ndarray | np.float32) -> None:
        made = numpy_helper.from_array(np.asarray(value), name)
        self.graph.initializer.append(made)

    def finish(self) -> None:
        """Writes the nodes back, each after what it reads."""
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            nodes += [*self.before.get(node.name, []), node]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        stale = [one for one in self.graph.value_info if one.name in self.changed]
        for one in stale:
            self.graph.value_info.remove(one)
        drop_unread_constants(self.graph)
