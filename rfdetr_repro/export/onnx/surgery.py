"""Adds nodes and constants to an ONNX graph of another program, under distinct names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

BYTE = 1 / 255
# the file's own input: mean and standard deviation of RGB in 0..1, and whether the channels # are
# reversed
INPUTS = {
    "none": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False),
    "bytes": ((0.0, 0.0, 0.0), (BYTE, BYTE, BYTE), False),  # RGB in 0..255
    "bgr-bytes": ((0.0, 0.0, 0.0), (BYTE, BYTE, BYTE), True),
    "bgr": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True),  # BGR in 0..1
}
PREFIX = "rfdetr_repro/"


class Shape(NamedTuple):
    """A value of the graph: numpy dtype name and static shape."""

    name: str
    dtype: str
    dims: tuple[int, ...]


class Builder:
    """Appends nodes and constants under unique names.

    ``opset``: the model's opset, for operators that changed between opsets.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int = 17) -> None:
        """Appends to ``graph``."""
        self.graph = graph
        self.opset = opset
        self.part = ""  # prefix of new names, see scope()
        # both only grow, so that names are used once
        self.count = len(graph.node) + len(graph.initializer)

    @contextmanager
    def scope(self, part: str) -> Iterator[None]:
        """Inside the context, the names of new nodes and constants begin with this project's prefix
        and ``part``.
        """
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def constant(self, value: object, dtype: type = np.int64) -> str:
        """Adds a constant and returns its name."""
        self.count += 1
        name = f"{PREFIX}{self.part}constant_{self.count}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(
        self, op: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, **attributes: Any
    ) -> list[str]:
        """Adds a node and returns the names of its outputs; ``outputs`` is their number, or their
        names.
        """
        self.count += 1
        base = f"{PREFIX}{self.part}{op}_{self.count}"
        names = (
            list(outputs)
            if not isinstance(outputs, int)
            else [f"{base}_{i}" for i in range(outputs)]
        )
        self.graph.node.append(helper.make_node(op, list(inputs), names, name=base, **attributes))
        return names

    def one(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output and returns the output's name."""
        return self.add(op, inputs, **attributes)[0]

    def largest(self, value: str, axis: int) -> str:
        """The maximum along ``axis``; the axis is removed."""
        if self.opset < 18:  # in later opsets, the axes are an input
            return self.one("ReduceMax", value, axes=[axis], keepdims=0)
        return self.one("ReduceMax", value, self.constant([axis]), keepdims=0)

    def results(self, **results: tuple[str, int]) -> None:
        """Makes the named values, with their ONNX types, the outputs of the graph."""
        del self.graph.output[:]
        for name, (value, kind) in results.items():
            self.add("Identity", [value], [name])
            self.graph.output.append(helper.make_tensor_value_info(name, kind, None))


def renamed(graph: onnx.GraphProto, outputs: Sequence[Shape]) -> list[Shape]:
    """Renames values whose names are those of ranked detections: upstream, for example, names its
    logits "labels".
    """
    other = {name: f"{PREFIX}source_{name}" for name in ("scores", "labels", "boxes", "masks")}
    for node in graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]
        node.output[:] = [other.get(name, name) for name in node.output]
    for value in (*graph.value_info, *graph.output, *graph.initializer):
        value.name = other.get(value.name, value.name)
    return [shape._replace(name=other.get(shape.name, shape.name)) for shape in outputs]


def change_input(graph: onnx.GraphProto, image: str, kind: str) -> None:
    """Inserts the conversion INPUTS[kind] between the image, RGB in 0..1, and all nodes that read
    the image.
    """
    wanted = INPUTS[kind]
    if wanted is None:
        return
    mean, std, reverse = wanted
    inner = f"{PREFIX}input"
    for node in graph.node:
        node.input[:] = [inner if name == image else name for name in node.input]
    before = len(graph.node)
    build = Builder(graph)
    source = build.one("Gather", image, build.constant([2, 1, 0]), axis=1) if reverse else image
    low, scale = (
        build.constant(np.reshape(values, (1, 3, 1, 1)), np.float32) for values in (mean, std)
    )
    build.add("Div", [build.one("Sub", source, low), scale], [inner])
    added = [graph.node.pop() for _ in range(len(graph.node) - before)]
    for node in added:  # popped last first: ends in the right order ahead of the rest
        graph.node.insert(0, node)
