"""A static-shape ONNX graph under construction: names for tensors, deduplicated constants, nodes,
and their multiply-add count.

Everything is in the order of recording, and nothing holds a file path, a date or a random name, so
that equal weights give equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from .trace import Trace, TraceError

# the first opset with LayerNormalization as one operator; engines keep its statistics in float32
# (facts # section 11)
OPSET = 17
# the version that opset 17 was released with, so that older runtimes can read the file
IR_VERSION = 8

_ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.bool: TensorProto.BOOL,
}


class Graph:
    """Builder of an ONNX graph.

    ``graph(tensor)`` is the ONNX name of a tensor: a traced value, or a constant stored once.
    """

    def __init__(self, trace: Trace, input_name: str) -> None:
        """An empty graph of the recorded calls in ``trace``, with the input ``input_name``."""
        self.trace = trace
        self.input_name = input_name
        self.nodes: list[onnx.NodeProto] = []
        self.producer: dict[str, onnx.NodeProto] = {}
        self.flops_of: dict[str, int] = {}  # first output -> 2 per multiply-add
        self.infos: dict[str, onnx.ValueInfoProto] = {}
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._names = {id(trace.input): input_name}
        self._constants: dict[str, str] = {}  # content hash -> name
        self._parameters = {self._place(tensor): name for name, tensor in trace.parameters.items()}

    def __call__(
        self, tensor: Tensor | float | int | bool, dtype: torch.dtype | None = None
    ) -> str:
        """Name of a tensor or number, in ``dtype`` if given: constants are converted, traced values
        are cast.
        """
        if not isinstance(tensor, Tensor):
            return self.constant(torch.tensor(tensor, dtype=dtype))
        name = self._names.get(id(tensor))
        if name is None:
            return self.constant(tensor if dtype is None else tensor.to(dtype))
        if dtype is None or dtype == tensor.dtype:
            return name
        return self.op("Cast", [name], to=_ONNX_TYPES[dtype])

    @staticmethod
    def _place(tensor: Tensor) -> tuple[int, int]:
        return tensor.data_ptr(), tensor.numel()

    def constant(self, value: Tensor | np.ndarray[Any, Any]) -> str:
        """Stores a constant, once per content, and returns its name: the parameter's name, or
        ``constant_N``.
        """
        array = value.detach().contiguous().numpy() if isinstance(value, Tensor) else value
        key = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
        if key not in self._constants:
            name = self._parameters.get(self._place(value)) if isinstance(value, Tensor) else None
            if name is None or name in self.initializers:
                name = f"constant_{len(self.initializers)}"
            self._constants[key] = name
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> str:
        """Name of a 1-D int64 constant, for shapes and axes."""
        return self.constant(np.asarray(list(values), dtype=np.int64))

    def op(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """Appends a node and returns the name of its first output; further outputs are NAME_1,
        NAME_2, ...
        """
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [name] + [f"{name}_{index}" for index in range(1, outputs)]
        node = helper.make_node(kind, list(inputs), names, name=name, **attributes)
        self.nodes.append(node)
        self.producer.update((output, node) for output in names)
        return name

    def bind(self, tensor: Tensor, name: str) -> None:
        """Binds ``name`` to ``tensor``; the tensor's type and shape are written to the file."""
        self._names[id(tensor)] = name
        self.infos.setdefault(
            name, helper.make_tensor_value_info(name, _ONNX_TYPES[tensor.dtype], list(tensor.shape))
        )

    def reshape(self, tensor: Tensor, out: Tensor) -> str:
        """Reshapes to ``out``'s shape; chains of reshapes become one node."""
        name = self(tensor)
        if tensor.shape == out.shape:
            return name
        before = self.producer.get(name)
        if before is not None and before.op_type == "Reshape":
            name = before.input[0]
        return self.op("Reshape", [name, self.integers(out.shape)])

    def model(self, outputs: dict[str, Tensor], producer: str) -> tuple[onnx.ModelProto, int]:
        """The finished model, without dead nodes and with renamed ``outputs``, and its number of
        floating-point operations.
        """
        renamed = {self(tensor): name for name, tensor in outputs.items()}
        if len(renamed) < len(outputs) or any(name not in self.producer for name in renamed):
            raise TraceError("an output is the input, a constant, or another output")
        live = self._live(set(renamed))
        for node in live:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        used = {name for node in live for name in (*node.input, *node.output)}
        source = self.trace.input
        graph = helper.make_graph(
            live,
            "detector",
            [
                helper.make_tensor_value_info(
                    self.input_name, _ONNX_TYPES[source.dtype], list(source.shape)
                )
            ],
            [
                helper.make_tensor_value_info(name, _ONNX_TYPES[t.dtype], list(t.shape))
                for name, t in outputs.items()
            ],
            [tensor for name, tensor in self.initializers.items() if name in used],
            value_info=[
                info for name, info in self.infos.items() if name in used and name not in renamed
            ],
        )
        flops = sum(self.flops_of.get(node.name, 0) for node in live)
        domains = sorted({node.domain for node in live if node.domain})
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(one, 1) for one in domains)]
        return helper.make_model(
            graph, producer_name=producer, opset_imports=opsets, ir_version=IR_VERSION
        ), flops

    def _live(self, wanted: set[str]) -> list[onnx.NodeProto]:
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1]
