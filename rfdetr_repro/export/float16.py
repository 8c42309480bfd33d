"""Converts a float32 ONNX graph to float16 with named float32 islands, strictly typed: the operand
types of every operator agree.

The conversion is a pure function of a graph and touches no file; :mod:`.half` converts artifacts.

Engines take types from the graph (in TensorRT 11 there is no other way, benchmark protocol section
5), so the graph must state the right types. The conversion starts from the finished float32 graph
rather than from a ``.half()`` module: constants are folded in float32, the audit and the islands
name the same nodes, and files of other programs are converted in the same way. Input and outputs
stay float32; Cast nodes occur only at the borders of islands. The nodes of islands are named
``float32/REASON/NAME``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rfdetr_repro.spec.errors import InputError, first_line
from rfdetr_repro.spec.files import sha256_bytes

from .artifact import Manifest
from .float32_regions import Wiring, find_islands
from .plugin import DOMAIN

HALF = int(TensorProto.FLOAT16)
FLOAT = int(TensorProto.FLOAT)
_SUFFIX = {HALF: "/float16", FLOAT: "/float32"}


class Half(NamedTuple):
    """A float16 graph and its float32 islands.

    ``islands``: reason -> names of the float32 graph's nodes, in order.
    """

    model: onnx.ModelProto
    islands: dict[str, tuple[str, ...]]

    def file(self, manifest: Manifest, audited: str = "no") -> tuple[bytes, Manifest]:
        """The bytes and the manifest of the float16 file, for the caller to write.

        ``manifest``: manifest of the float32 file. ``audited``: summary of the range audit, or
        "no".
        """
        content = self.model.SerializeToString(deterministic=True)
        build = {**manifest.build, "fp32_sha256": manifest.sha256, "audit": audited}
        described = replace(
            manifest,
            sha256=sha256_bytes(content),
            size_bytes=len(content),
            precision="fp16",
            build=build,
            islands=self.islands,
        )
        return content, described


def to_half(model: onnx.ModelProto, islands: Iterable[str] = (), where: object = "") -> Half:
    """Converts a float32 ``model``, which is not changed, to float16.

    ``islands``: further nodes or operators to keep in float32. Raises :class:`InputError`, which
    names ``where``, for graphs whose types cannot be inferred, because of custom operators or
    sub-graphs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inline_constants(copy.graph)
    wiring = Wiring(copy.graph, _types(copy, where))
    reasons = find_islands(wiring, islands)
    opset = next(entry.version for entry in copy.opset_import if entry.domain in ("", "ai.onnx"))
    named: dict[str, list[str]] = {}
    for index, reason in sorted(reasons.items()):
        named.setdefault(reason, []).append(wiring.name(index))
    _Rewriter(copy.graph, wiring, reasons, opset).run()
    onnx.checker.check_model(copy, full_check=True)
    return Half(copy, {reason: tuple(names) for reason, names in sorted(named.items())})


def inline_constants(graph: onnx.GraphProto) -> None:
    """Turns Constant nodes into initializers, so that each constant can be stored in the type that
    its readers need.
    """
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        given = node.attribute[0]
        value = helper.get_attribute_value(given)
        if given.name == "value":
            array = numpy_helper.to_array(value)
        elif given.name in ("value_float", "value_floats", "value_int", "value_ints"):
            array = np.asarray(value, dtype=np.float32 if "float" in given.name else np.int64)
        else:
            continue
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)


def _types(model: onnx.ModelProto, where: object) -> dict[str, int]:
    """ONNX element type of every value."""
    for node in model.graph.node:  # a file with the plugin's node states the type of its output
        if node.domain not in ("", "ai.onnx", DOMAIN) or any(
            attribute.HasField("g") for attribute in node.attribute
        ):
            hint = (
                "export the model in half precision with its own tool; python -m "
                "rfdetr_repro.export.fp16_audit names the islands"
            )
            raise InputError(
                f"the types of {node.op_type} {node.name} cannot be inferred, which the "
                f"conversion to float16 needs",
                where,
                hint,
            )
    try:
        inferred = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        ).graph
    except Exception as error:  # onnx's InferenceError has no stable import path
        raise InputError(
            f"the types of the model are inconsistent ({first_line(error)})",
            where,
            "export it again",
        ) from error
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {constant.name: constant.data_type for constant in inferred.initializer}


class _Rewriter:
    """Rewrites the nodes in order; keeps for every value the types in which it exists, and the
    names.
    """

    def __init__(
        self, graph: onnx.GraphProto, wiring: Wiring, reasons: dict[int, str], opset: int
    ) -> None:
        self.graph = graph
        self.wiring = wiring
        self.reasons = reasons
        self.opset = opset
        self.names = {(value.name, FLOAT): value.name for value in graph.input}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def run(self) -> None:
        for index, node in enumerate(self.wiring.nodes):
            self._node(index, node)
        for value in self.graph.value_info:
            if self.names.get((value.name, HALF)) == value.name:
                value.type.tensor_type.elem_type = HALF
        untouched = [c for c in self.wiring.constants.values() if c.data_type != FLOAT]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend([*untouched, *self.constants.values()])

    def _node(self, index: int, node: onnx.NodeProto) -> None:
        wanted = FLOAT if index in self.reasons else HALF
        if node.domain == DOMAIN:
            reads = [wanted, *[FLOAT] * (len(node.input) - 1)]  # only the values may be float16
            writes = [wanted]
        else:
            schema = onnx.defs.get_schema(node.op_type, self.opset)
            reads = self._allowed(schema.inputs, len(node.input), wanted)
            writes = self._allowed(schema.outputs, len(node.output), wanted)
        for place, name in enumerate(node.input):
            if self.wiring.is_float(name):
                node.input[place] = self._read(
                    name,
                    reads[place],
                    as_it_is=node.op_type == "Cast",
                )
        if index in self.reasons:
            node.name = f"float32/{self.reasons[index]}/{self.wiring.name(index)}"
        if node.op_type == "LayerNormalization":
            kept = [attribute for attribute in node.attribute if attribute.name != "stash_type"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("stash_type", FLOAT)])
        self.nodes.append(node)
        for place, name in enumerate(node.output):
            if self.wiring.is_float(name):
                self._write(node, place, writes[place])

    @staticmethod
    def _allowed(
        formals: Sequence[onnx.defs.OpSchema.FormalParameter], count: int, wanted: int
    ) -> list[int]:
        """For each of ``count`` places ``wanted``, or float32 where the operator does not support
        float16.
        """
        last = len(formals) - 1
        types = [formals[min(place, last)].types for place in range(count)]
        return [wanted if "tensor(float16)" in one else FLOAT for one in types]

    def _read(self, name: str, kind: int, *, as_it_is: bool) -> str:
        """Name of a value in the type ``kind``; a Cast is added where the value exists in the other
        type only.
        """
        constant = self.wiring.constants.get(name)
        if constant is not None:
            return self._constant(constant, kind)
        if as_it_is and (name, FLOAT) not in self.names:
            kind = HALF
        if (name, kind) not in self.names:
            (source,) = (
                self.names[name, other] for other in (HALF, FLOAT) if (name, other) in self.names
            )
            self._cast(source, name + _SUFFIX[kind], kind)
            self.names[name, kind] = name + _SUFFIX[kind]
        return self.names[name, kind]

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(
            helper.make_node("Cast", [source], [target], name=f"cast/{target}", to=kind)
        )

    def _constant(self, constant: TensorProto, kind: int) -> str:
        name = constant.name if kind == FLOAT else constant.name + _SUFFIX[HALF]
        if name not in self.constants:
            array = numpy_helper.to_array(constant)
            self.constants[name] = numpy_helper.from_array(
                array.astype(np.float16) if kind == HALF else array, name
            )
        return name

    def _write(self, node: onnx.NodeProto, place: int, kind: int) -> None:
        name = node.output[place]
        if node.op_type == "Cast":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("to", kind))
        self.names[name, kind] = name
        if kind == HALF and name in self.wiring.outputs:  # a graph's outputs stay float32
            node.output[place] = self.names[name, HALF] = name + _SUFFIX[HALF]
            self._cast(name + _SUFFIX[HALF], name, FLOAT)
            self.names[name, FLOAT] = name
