"""A graph that takes any number of images at once, from two recordings with fixed batches.

A recording fixes the batch in its shapes. Two recordings of the same subnet, with 2 and with 3
images, differ only where the batch enters, and each difference is one of four kinds: the target of
a Reshape, whose leading size becomes -1; the sizes of an Expand or a Resize, which are computed
from the input's size; and a constant with a copy per image, which is stored once and expanded.
Anything else is an error, so that no graph is written whose batch is fixed somewhere inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .trace import TraceError

RECORDED = (2, 3)  # batches of the two recordings; 1 would hide what is broadcast
BATCH = "batch"  # name of the open dimension in the file
_SIZES = {"Expand": 1, "Resize": 3}  # operator -> place of its sizes
# operators that broadcast a constant over the images by themselves
_BROADCASTING = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Where", "MatMul"}

Array = np.ndarray[Any, Any]


def with_open_batch(first: onnx.ModelProto, second: onnx.ModelProto) -> onnx.ModelProto:
    """The model for any batch; ``first`` and ``second`` are the same subnet recorded with the
    batches of RECORDED. Raises :class:`TraceError` where they differ in another way.
    """
    return _Opened(first, second).model()


class _Opened:
    """The graph under construction: nodes of the first recording, and the nodes that compute
    sizes.
    """

    def __init__(self, first: onnx.ModelProto, second: onnx.ModelProto) -> None:
        self.first = first
        self.second = second
        self.constants = [
            {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
            for model in (first, second)
        ]
        self.shapes = [_shapes(model) for model in (first, second)]
        self.added: dict[str, TensorProto] = {}
        self.sizes: list[onnx.NodeProto] = []
        self.images: dict[int, str] = {}  # k -> name of the number k * batch, int64 (1,)
        self.expanded: dict[
            str, str
        ] = {}  # constant with a copy per image -> name of its expansion

    def model(self) -> onnx.ModelProto:
        """The finished model; nothing of the recordings is changed."""
        nodes = []
        pairs = zip(self.first.graph.node, self.second.graph.node, strict=False)
        if len(self.first.graph.node) != len(self.second.graph.node):
            raise TraceError("the number of nodes depends on the batch")
        for mine, other in pairs:
            _check_alike(mine, other)
            node = onnx.NodeProto()
            node.CopyFrom(mine)
            for place, names in enumerate(zip(mine.input, other.input, strict=True)):
                node.input[place] = self._input(node, place, *names)
            nodes.append(node)
        opened = onnx.ModelProto()
        opened.CopyFrom(self.first)
        graph = opened.graph
        del graph.node[:], graph.initializer[:]
        graph.node.extend([*self.sizes, *nodes])
        used = {name for node in graph.node for name in node.input}
        stored = {constant.name: constant for constant in self.first.graph.initializer} | self.added
        graph.initializer.extend(stored[name] for name in stored if name in used)
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._open(value)
        return opened

    def _input(self, node: onnx.NodeProto, place: int, mine: str, other: str) -> str:
        """Name of the input at ``place`` in the opened graph."""
        values = [
            constants.get(name)
            for constants, name in zip(self.constants, (mine, other), strict=True)
        ]
        one, two = values
        if one is None or two is None:
            if mine != other:
                raise TraceError(f"{node.name} reads {mine} or {other}, by the batch")
            return mine
        if one.shape == two.shape and np.array_equal(one, two):
            return mine
        if one.dtype == np.int64 and one.ndim == 1 and one.shape == two.shape:
            if node.op_type == "Reshape" and place == 1:
                return self._target(node, one, two)
            if _SIZES.get(node.op_type) == place:
                return self._computed(node, one, two)
        return self._per_image(node, mine, one, two)

    def _target(self, node: onnx.NodeProto, one: Array, two: Array) -> str:
        """The target of a Reshape with -1 in place of the size that contains the batch."""
        place = _only_difference(node, one, two)
        target = one.copy()
        target[place] = -1
        return self._store(target)

    def _computed(self, node: onnx.NodeProto, one: Array, two: Array) -> str:
        """Sizes of which one is a multiple of the batch, computed from the input."""
        place = _only_difference(node, one, two)
        parts = [
            self._store(one[:place]) if place else "",
            self._multiple(int(one[place]) // RECORDED[0]),
            self._store(one[place + 1 :]) if place + 1 < len(one) else "",
        ]
        return self._add("Concat", [part for part in parts if part], axis=0)

    def _per_image(self, node: onnx.NodeProto, name: str, one: Array, two: Array) -> str:
        """A constant with equal copies, a multiple of the batch of them: one copy is stored, and
        expanded where the operator does not do so itself.
        """
        per_image = one.shape[0] // RECORDED[0] if one.ndim else 0
        copies = [count * per_image for count in RECORDED]
        same = one.ndim == two.ndim and one.shape[1:] == two.shape[1:]
        if not (
            per_image
            and same
            and [one.shape[0], two.shape[0]] == copies
            and (one == one[:1]).all()
            and (two == one[:1]).all()
        ):
            raise TraceError(
                f"the constant {name} of {node.name} depends on the batch, and is not a copy per "
                f"image"
            )
        single = self._store(one[:1])
        if node.op_type in _BROADCASTING and per_image == 1 and self._has_batch(node, one.ndim):
            return single
        if name not in self.expanded:
            sizes = [self._multiple(per_image), self._store(np.array(one.shape[1:], np.int64))]
            self.expanded[name] = self._add("Expand", [single, self._add("Concat", sizes, axis=0)])
        return self.expanded[name]

    def _has_batch(self, node: onnx.NodeProto, rank: int) -> bool:
        """Whether another input of ``node`` has a leading size for the batch, so that the result
        has it too.
        """
        others = [self.shapes[0].get(name, ()) for name in node.input]
        return any(len(shape) == rank and shape[0] == RECORDED[0] for shape in others)

    def _multiple(self, factor: int) -> str:
        """Name of ``factor`` times the batch, int64 (1,)."""
        if 1 not in self.images:
            source = self.first.graph.input[0].name
            self.images[1] = self._add("Shape", [source], start=0, end=1)
        if factor not in self.images:
            number = self._store(np.array([factor], np.int64))
            self.images[factor] = self._add("Mul", [self.images[1], number])
        return self.images[factor]

    def _store(self, value: Array) -> str:
        name = f"{BATCH}/constant_{len(self.added)}"
        for known, tensor in self.added.items():
            if tensor == numpy_helper.from_array(value, known):
                return known
        self.added[name] = numpy_helper.from_array(value, name)
        return name

    def _add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{BATCH}/{kind.lower()}_{len(self.sizes)}"
        self.sizes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _open(self, value: onnx.ValueInfoProto) -> None:
        """Names the dimensions of ``value`` that contain the batch."""
        sides = zip(
            value.type.tensor_type.shape.dim,
            self.shapes[0][value.name],
            self.shapes[1].get(value.name, ()),
            strict=True,
        )
        for dim, one, two in sides:
            if one != two:
                _check_multiple(value.name, one, two)
                factor = one // RECORDED[0]
                dim.ClearField("dim_value")
                dim.dim_param = BATCH if factor == 1 else f"{factor}*{BATCH}"


def _check_alike(mine: onnx.NodeProto, other: onnx.NodeProto) -> None:
    attributes = [sorted(str(one) for one in node.attribute) for node in (mine, other)]
    same = (mine.op_type, list(mine.output)) == (other.op_type, list(other.output))
    if not same or attributes[0] != attributes[1]:
        raise TraceError(f"{mine.op_type} {mine.name} depends on the batch")


def _only_difference(node: onnx.NodeProto, one: Array, two: Array) -> int:
    """Place of the only size that differs, which must be the same multiple of both batches."""
    places = np.flatnonzero(one != two)
    if len(places) != 1:
        raise TraceError(f"{len(places)} sizes of {node.op_type} {node.name} depend on the batch")
    place = int(places[0])
    _check_multiple(node.name, int(one[place]), int(two[place]))
    return place


def _check_multiple(name: str, one: int, two: int) -> None:
    if one * RECORDED[1] != two * RECORDED[0] or one % RECORDED[0]:
        raise TraceError(f"a size of {name} is {one} or {two}, which is no multiple of the batch")


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
