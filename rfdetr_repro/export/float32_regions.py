"""The nodes of an ONNX detector that stay float32 when the rest becomes float16, with reasons.

Between the last matrix product and a coordinate every digit counts: near 1, float16 has steps of
1/2048 of the image. Therefore the nodes that compute the outputs ``boxes`` and ``scores``, the grid
of a GridSample, and a sine, cosine or exponential stay float32, back to the product that feeds
them. A softmax stays float32 too, unless only matrix products read its result: engines fuse such
attention into one kernel, whose statistics are float32, and users reported that casts around the
softmax prevent the fusion. LayerNormalization needs no island, because opset 17 keeps its
statistics in float32 (``stash_type``). All other islands are requested by name, for example by
:mod:`.fp16_audit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from rfdetr_repro.spec.errors import InputError

from .plugin import OPERATOR

LARGEST = 65504.0
PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"}
BOUNDARIES = PRODUCTS | {
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "BatchNormalization",
    "Softmax",
    "LogSoftmax",
    "GridSample",
    "Resize",
    "TopK",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    OPERATOR,
}
EXACT = {"Sin": "positions", "Cos": "positions", "Exp": "boxes", "Log": "boxes"}
OUTPUTS = {"boxes": "boxes", "dets": "boxes", "scores": "scores"}
TYPED_BY_ATTRIBUTE = {
    "ConstantOfShape",
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
}


class Wiring:
    """A graph with the types and producers of its values.

    ``types``: value -> ONNX element type; ``producer``: value -> index of its node.
    """

    def __init__(self, graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
        """``types``: value -> ONNX element type."""
        self.nodes = list(graph.node)
        self.types = types
        self.constants = {constant.name: constant for constant in graph.initializer}
        self.outputs = [value.name for value in graph.output]
        self.producer = {
            name: index for index, node in enumerate(self.nodes) for name in node.output if name
        }
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def name(self, index: int) -> str:
        """The name of a node, as :func:`rfdetr_repro.export.fp16_audit.audit` reports it."""
        return self.nodes[index].name or f"{self.nodes[index].op_type}_{index}"

    def is_float(self, name: str) -> bool:
        """Whether a value is float32."""
        return self.types.get(name) == TensorProto.FLOAT

    def traced(self, node: onnx.NodeProto) -> list[str]:
        """The float32 inputs of a node that are not constants."""
        return [name for name in node.input if self.is_float(name) and name not in self.constants]

    def behind(self, values: Iterable[str]) -> set[int]:
        """Indices of the nodes that compute these values, back to the nearest BOUNDARIES, which are
        excluded.
        """
        found: set[int] = set()
        waiting = list(values)
        while waiting:
            index = self.producer.get(waiting.pop())
            if (
                index is not None
                and index not in found
                and self.nodes[index].op_type not in BOUNDARIES
            ):
                found.add(index)
                waiting += self.traced(self.nodes[index])
        return found


def find_islands(wiring: Wiring, asked: Iterable[str]) -> dict[int, str]:
    """Index -> reason, for every node that stays float32.

    ``asked``: names of nodes, or of operators, which stand for every node of that kind. Raises
    :class:`InputError` for a name that is not in the graph.
    """
    reasons: dict[int, str] = {}

    def add(reason: str, indices: Iterable[int]) -> None:
        for index in sorted(indices):
            reasons.setdefault(index, reason)

    nodes = wiring.nodes
    add("asked", _asked(wiring, asked))
    add("operator", (i for i, node in enumerate(nodes) if node.op_type in TYPED_BY_ATTRIBUTE))
    add(
        "range",
        (
            i
            for i, node in enumerate(nodes)
            if any(_leaves_range(wiring.constants.get(name)) for name in node.input)
        ),
    )
    softmax = {i for i, node in enumerate(nodes) if node.op_type in ("Softmax", "LogSoftmax")}
    add("softmax", (i for i in softmax if not _is_attention(wiring, nodes[i])))
    for kind, reason in EXACT.items():
        of_kind = {i for i, node in enumerate(nodes) if node.op_type == kind}
        add(reason, of_kind | wiring.behind(nodes[i].input[0] for i in of_kind))
    # engines need the same type for image and grid
    grids = {i for i, node in enumerate(nodes) if node.op_type == "GridSample"}
    add("sampling", grids | wiring.behind(nodes[i].input[1] for i in grids))
    calls = [node for node in nodes if node.op_type == OPERATOR]
    add("sampling", wiring.behind(name for node in calls for name in node.input[1:3]))
    for output, reason in OUTPUTS.items():
        add(reason, wiring.behind([output] if output in wiring.outputs else []))
    return _joined(wiring, reasons)


def _joined(wiring: Wiring, reasons: dict[int, str]) -> dict[int, str]:
    """Adds the nodes that read only float32 values, up to the next boundary, because two casts
    would gain nothing.
    """
    for index, node in enumerate(wiring.nodes):
        inputs = wiring.traced(node)
        makers = [wiring.producer.get(name, -1) for name in inputs]
        if (
            inputs
            and index not in reasons
            and node.op_type not in BOUNDARIES
            and all(m == -1 or m in reasons for m in makers)
        ):
            reasons[index] = next((reasons[maker] for maker in makers if maker in reasons), "input")
    return reasons


def _asked(wiring: Wiring, asked: Iterable[str]) -> set[int]:
    by_name = {wiring.name(index): {index} for index in range(len(wiring.nodes))}
    by_kind: dict[str, set[int]] = {}
    for index, node in enumerate(wiring.nodes):
        by_kind.setdefault(node.op_type, set()).add(index)
    found: set[int] = set()
    for name in asked:
        if name not in by_name and name not in by_kind:
            raise InputError(
                f"there is no node or operator {name!r} to keep in float32",
                hint="use the names of the float32 graph",
            )
        found |= by_name.get(name) or by_kind[name]
    return found


def _is_attention(wiring: Wiring, softmax: onnx.NodeProto) -> bool:
    readers = wiring.readers.get(softmax.output[0], [])
    return bool(readers) and all(reader.op_type in PRODUCTS for reader in readers)


def _leaves_range(constant: TensorProto | None) -> bool:
    """Whether float16 cannot represent a constant: a value is too large, or a scalar is too small
    to keep two digits.
    """
    if constant is None or constant.data_type != TensorProto.FLOAT:
        return False
    value = numpy_helper.to_array(constant)
    finite = np.abs(value[np.isfinite(value)])
    if finite.size == 0 or finite.max() > LARGEST:
        return finite.size > 0
    return value.size == 1 and bool(
        abs(float(np.float16(finite.item())) - finite.item()) > 0.01 * finite.item()
    )
