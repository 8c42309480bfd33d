"""Measures how much every product moves the detections when that product alone is in INT8, and from
that names the products that should stay in float32.

All products are in one model, each in both forms behind a switch (the operator If), so that a
single session measures any choice of products, with the runtime's own integer kernels. The measure
is :func:`disagreement` with the float32 model on calibration images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import linear_sum_assignment

from rfdetr_repro.spec.errors import InputError

from .products import CONVOLUTIONS, Product

Array = np.ndarray[Any, Any]
Progress = Callable[[Iterable[Any]], Iterable[Any]]
_SWITCHES = "int8_switches"
_DETECTIONS = ("scores", "labels", "boxes")


class Detected(NamedTuple):
    """Detections of one image: scores (K,), labels (K,), boxes (K, 4) as x0, y0, x1, y1."""

    scores: Array
    labels: Array
    boxes: Array


def disagreement(expected: Detected, found: Detected) -> float:
    """How far ``found`` is from ``expected``, 0 (the same detections, in any order) to 1 (none of
    them).

    Every expected detection is matched with one of the same label; its part is 1 - IoU + the
    difference of the scores, and at most 1, also without a partner. The mean over the detections
    is weighted by the square of the expected score, so that what the model is sure of decides.
    """
    weights = expected.scores.astype(np.float64) ** 2
    if not weights.sum():
        return 0.0 if not (found.scores.astype(np.float64) ** 2).sum() else 1.0
    apart = 1 - _iou(expected.boxes, found.boxes)
    apart += np.abs(expected.scores[:, None] - found.scores[None])
    apart[expected.labels[:, None] != found.labels[None]] = 1
    apart = np.minimum(np.nan_to_num(apart, nan=1.0), 1) * weights[:, None]
    rows, columns = linear_sum_assignment(apart)
    alone = np.ones(len(weights), dtype=bool)
    alone[rows] = False
    return float((apart[rows, columns].sum() + weights[alone].sum()) / weights.sum())


def _iou(first: Array, second: Array) -> Array:
    """IoU of each of (n, 4) boxes with each of (m, 4) boxes; 1 for two equal boxes without area."""
    first = first.astype(np.float64)
    second = second.astype(np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (first, second)]
    union = area[0][:, None] + area[1][None] - shared
    equal = (first[:, None] == second[None]).all(-1)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), equal.astype(np.float64))


class Switched:
    """A session in which every product of ``products`` can be switched to INT8."""

    def __init__(
        self,
        model: onnx.ModelProto,
        quantised: onnx.ModelProto,
        products: Sequence[Product],
        where: str | Path,
        threads: int = 2,
    ) -> None:
        """``model``: the float32 model; ``quantised``: the same with all ``products`` in INT8;
        ``where`` names the file in errors.
        """
        self.products = tuple(products)
        self._where = where
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        content = with_switches(model, quantised, [product.name for product in products])
        try:
            self._session = onnxruntime.InferenceSession(
                content.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise self._failed(error) from error

    def run(self, feed: Mapping[str, Array], names: Iterable[str]) -> list[Detected]:
        """Detections of every image of ``feed`` with the products ``names`` in INT8."""
        chosen = set(names)
        switches = np.array([product.name in chosen for product in self.products], dtype=bool)
        try:
            found = self._session.run(list(_DETECTIONS), {**feed, _SWITCHES: switches})
        except Exception as error:
            raise self._failed(error) from error
        return [Detected(*rows) for rows in zip(*found, strict=True)]

    def _failed(self, error: Exception) -> InputError:
        reason = " ".join(str(error).split())[:300]
        return InputError(
            f"ONNX Runtime cannot run products of the model in INT8 ({reason})",
            self._where,
            "choose --precision fp16 or fp32",
        )


class Audit(NamedTuple):
    """The measured effects: product -> disagreement with that product alone in INT8, and the number
    of images.
    """

    alone: dict[str, float]
    images: int

    def sensitive(self, products: Sequence[Product], share: float) -> tuple[str, ...]:
        """The products to keep in float32 if they may do ``share`` (0..1) of the operations of all
        ``products``, in the order of the graph.

        Those that move the detections most for their work come first; a product that no longer
        fits is passed over.
        """
        left = share * sum(product.flops for product in products)
        chosen = set()
        measured = [product for product in products if product.name in self.alone]
        for product in sorted(
            measured, key=lambda one: (-self.alone[one.name] / max(one.flops, 1), one.name)
        ):
            if product.flops <= left and self.alone[product.name] > 0:
                left -= product.flops
                chosen.add(product.name)
        return tuple(product.name for product in products if product.name in chosen)


def audit(
    switched: Switched, feeds: Sequence[Mapping[str, Array]], progress: Progress = iter
) -> Audit:
    """Measures every product alone on ``feeds``; ``progress`` wraps the sequence of products."""
    expected = [switched.run(feed, ()) for feed in feeds]
    alone = {}
    for product in progress(switched.products):
        apart = [
            disagreement(one, other)
            for feed, wanted in zip(feeds, expected, strict=True)
            for one, other in zip(wanted, switched.run(feed, [product.name]), strict=True)
        ]
        alone[product.name] = float(np.mean(apart))
    return Audit(alone, sum(len(wanted) for wanted in expected))


def with_switches(
    model: onnx.ModelProto, quantised: onnx.ModelProto, names: Sequence[str]
) -> onnx.ModelProto:
    """``model`` with a further input int8_switches, bool (n,), of which element i puts the product
    ``names[i]`` in INT8, as it is in ``quantised``.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    graph.input.append(
        helper.make_tensor_value_info(_SWITCHES, TensorProto.BOOL, [max(len(names), 1)])
    )
    there = {constant.name for constant in graph.initializer}
    forms = _IntegerForms(quantised.graph)
    place = {name: index for index, name in enumerate(names)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in place:
            nodes.append(node)
            continue
        index = place[node.name]
        branch, constants = forms.branch(node)
        graph.initializer.extend(one for one in constants if one.name not in there)
        there |= {one.name for one in constants}
        graph.initializer.append(
            numpy_helper.from_array(np.array(index, dtype=np.int64), f"{_SWITCHES}/place/{index}")
        )
        switch = f"{_SWITCHES}/{index}"
        nodes.append(
            helper.make_node("Gather", [_SWITCHES, f"{_SWITCHES}/place/{index}"], [switch])
        )
        nodes.append(
            helper.make_node(
                "If",
                [switch],
                [node.output[0]],
                name=f"{node.name}/switch",
                then_branch=branch,
                else_branch=_float_branch(node),
            )
        )
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _float_branch(node: onnx.NodeProto) -> onnx.GraphProto:
    own = onnx.NodeProto()
    own.CopyFrom(node)
    own.output[0] = f"{node.output[0]}/float32"
    return _branch([own], f"{node.name}/float32")


def _branch(nodes: Sequence[onnx.NodeProto], name: str) -> onnx.GraphProto:
    last = nodes[-1].output[0]
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [result])


class _IntegerForms:
    """The products of a quantised graph with the nodes that quantise around each of them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = {node.name: node for node in graph.node}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.constants = {constant.name: constant for constant in graph.initializer}
        self.rounding = {
            node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"
        }

    def branch(self, node: onnx.NodeProto) -> tuple[onnx.GraphProto, list[TensorProto]]:
        """The INT8 form of a node of the float32 graph, and the constants that it needs."""
        form = self.nodes[node.name]
        own = onnx.NodeProto()
        own.CopyFrom(form)
        nodes: list[onnx.NodeProto] = []
        needed: list[str] = []
        for place, name in enumerate(form.input):
            maker = self.makers.get(name)
            if maker is None or maker.op_type != "DequantizeLinear":
                continue
            needed += [one for one in maker.input if one in self.constants]
            dequantise = onnx.NodeProto()
            dequantise.CopyFrom(maker)
            stem = f"{node.name}/int8/{place}"
            if maker.input[0] not in self.constants:  # an activation
                rounded = f"{stem}/rounded"
                nodes.append(
                    helper.make_node(
                        "QuantizeLinear", [node.input[place], *maker.input[1:]], [rounded]
                    )
                )
                dequantise.input[0] = rounded
            dequantise.name = stem
            dequantise.output[0] = own.input[place] = f"{stem}/value"
            nodes.append(dequantise)
        own.output[0] = f"{node.name}/int8/result"
        nodes.append(own)
        after = self.rounding.get(form.output[0])
        if after is not None and node.op_type in CONVOLUTIONS:
            needed += after.input[1:]
            scale = list(after.input[1:])
            stem = own.output[0]
            nodes.append(helper.make_node("QuantizeLinear", [stem, *scale], [f"{stem}/rounded"]))
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{stem}/rounded", *scale], [f"{stem}/value"])
            )
        graph = _branch(nodes, f"{node.name}/int8")
        return graph, [self.constants[name] for name in dict.fromkeys(needed)]
