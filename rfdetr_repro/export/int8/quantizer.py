"""ONNX Runtime's static quantizer, with the settings that are right on every processor.

Activations are uint8 with one scale per tensor, weights are int8, symmetric, with one scale per
output channel, and use 7 of their 8 bits: a processor with AVX2 or AVX-512 and without VNNI adds
two products in 16 bits, which 8-bit weights overflow. (The embedded model loses 1.4 points of AP
on such a processor with 8 bits, and less than 0.1 with 7.) The result of a matrix product is not
quantised again unless another product reads it, because the operators between products compute in
float32; the result of a convolution is, because ONNX Runtime has no integer convolution with a
float32 result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rfdetr_repro.spec.errors import InputError, first_line
from rfdetr_repro.spec.unfinished import temporary_folder

from .attention import attention_products, put_in_int8
from .products import CONVOLUTIONS, KINDS, MATRIX_PRODUCTS

try:
    from onnxruntime import quantization
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
except ImportError as error:  # a build of ONNX Runtime for inference only
    hint = "install the package onnxruntime, or choose --precision fp16"
    raise InputError(f"this ONNX Runtime has no quantizer ({error})", hint=hint) from error

Array = np.ndarray[Any, Any]
SETTINGS = {
    "activations": "uint8, one scale per tensor, range from the least to the largest value",
    "weights": "int8 in 7 bits, symmetric, one scale per output channel",
}


class Quantizer:
    """The quantizer of one :func:`~.products.prepared` model, whose ranges are found once."""

    def __init__(self, model: onnx.ModelProto, where: str | Path) -> None:
        """``where`` names the file in errors."""
        self.model = model
        self.where = where
        self._ranges: Any = None

    def calibrate(self, feeds: Iterable[dict[str, Array]]) -> None:
        """Finds the ranges of the activations on ``feeds``: inputs by name, read one at a time.

        Raises :class:`InputError` for a model that does not run, and for values that are not
        finite.
        """
        reader = _reader(quantization.CalibrationDataReader, iter(feeds))
        with temporary_folder() as folder, _quiet():
            path = Path(folder, "float32.onnx")
            onnx.save(self.model, path)
            try:
                calibrator = quantization.create_calibrator(
                    path, list(KINDS), augmented_model_path=str(Path(folder, "ranges.onnx"))
                )
                calibrator.collect_data(reader)
                self._ranges = calibrator.compute_data()
            except Exception as error:  # ONNX Runtime's exceptions share no public base class
                raise InputError(
                    f"the ranges of the model cannot be measured ({first_line(error)})",
                    self.where,
                    "check that the file is a complete float32 model",
                ) from error
        for name, found in self._ranges.items():
            if not np.isfinite(np.asarray(found.range_value, dtype=np.float64)).all():
                raise InputError(
                    f"the float32 model itself gives values that are not finite in {name}",
                    self.where,
                    "quantise a model that works in float32",
                )

    def quantised(self, nodes: Sequence[str]) -> onnx.ModelProto:
        """The model with these nodes in INT8, and all others as they are.

        Raises :class:`InputError` before :meth:`calibrate`, and without a node.
        """
        if self._ranges is None or not nodes:
            raise InputError("there is nothing to quantise", self.where, "calibrate first")
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        attention = {
            name: role for name, role in attention_products(made.graph).items() if name in nodes
        }
        weighted = [name for name in nodes if name not in attention]
        if weighted:
            made = self._with_weights(made, weighted)
        ranges = {
            name: (float(np.min(found.range_value[0])), float(np.max(found.range_value[1])))
            for name, found in self._ranges.items()
        }
        put_in_int8(made.graph, attention, ranges)
        onnx.checker.check_model(made)
        return made

    def _with_weights(self, copy: onnx.ModelProto, nodes: Sequence[str]) -> onnx.ModelProto:
        kinds = quantization.QuantType
        with _quiet():
            quantizer = QDQQuantizer(
                copy,
                per_channel=True,
                reduce_range=True,
                weight_qType=kinds.QInt8,
                activation_qType=kinds.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=list(nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=list(KINDS),
                extra_options={
                    "WeightSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": list(MATRIX_PRODUCTS),
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        made: onnx.ModelProto = quantizer.model.model
        _restore_float_readers(made.graph, self.model.graph, set(nodes))
        return made


def _restore_float_readers(
    graph: onnx.GraphProto, before: onnx.GraphProto, quantised: set[str]
) -> None:
    """Lets the nodes that stay in float32 read what they read before.

    The quantizer gives the rounded value of an activation or a weight to all its readers, so that
    residual sums and normalisations would lose digits for nothing. The result of a convolution in
    INT8 exists in rounded form only.
    """
    there = {constant.name for constant in graph.initializer}
    constants = {constant.name: constant for constant in before.initializer}
    originals = {node.name: node for node in before.node}
    rounded = {
        node.output[0]
        for node in before.node
        if node.name in quantised and node.op_type in CONVOLUTIONS
    }
    for node in graph.node:
        original = originals.get(node.name)
        if original is None or node.name in quantised:
            continue
        for place, name in enumerate(original.input):
            if name in rounded or node.input[place] == name:
                continue
            node.input[place] = name
            if name in constants and name not in there:
                graph.initializer.append(constants[name])
                there.add(name)
    _remove_unread(graph)


def _remove_unread(graph: onnx.GraphProto) -> None:
    """Removes the nodes whose results nothing reads."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):  # the graph is in topological order
        if not read.isdisjoint(node.output):
            read.update(node.input)
            kept.append(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)


def _reader(kind: type, feeds: Iterator[dict[str, Array]]) -> Any:
    """The feeds as ONNX Runtime's calibration reads them."""

    def get_next(self: object) -> dict[str, Array] | None:
        return next(feeds, None)

    return type("_Reader", (kind,), {"get_next": get_next})()


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out the advice that the quantizer logs for its own command line."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
