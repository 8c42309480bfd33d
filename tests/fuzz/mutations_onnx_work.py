"""ONNX graphs that ask for far more memory or work than a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import ModelProto, TensorProto, helper

Change = tuple[str, Callable[[ModelProto], None], bool]


def _first(model: ModelProto, *nodes: onnx.NodeProto, zero: str = "big") -> None:
    """``nodes`` before all others; the boxes depend on a mean over ``zero``."""
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    model.graph.node.insert(
        len(nodes), helper.make_node("ReduceMax", [zero], ["big_max"], keepdims=0)
    )
    model.graph.node.insert(
        len(nodes) + 1, helper.make_node("Mul", ["big_max", "nil"], ["big_zero"])
    )
    for node in model.graph.node:
        if node.output[0] == "pred_boxes":
            node.input[0] = "boxes_more"
    model.graph.node.insert(
        len(nodes) + 2, helper.make_node("Add", ["boxes_c", "big_zero"], ["boxes_more"])
    )


def _number(name: str, *values: int) -> onnx.NodeProto:
    tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [name], value=tensor)


def expensive() -> Iterator[Change]:
    for shape in ((2**30,), (2**31,), (2**40,), (2**62,), (-1,), (2**20, 2**20, 2**20, 2**20)):

        def of_shape(model: ModelProto, shape: tuple[int, ...] = shape) -> None:
            _first(
                model,
                _number("shape", *shape),
                helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            )

        def expand(model: ModelProto, shape: tuple[int, ...] = shape) -> None:
            _first(
                model,
                _number("shape", *shape),
                helper.make_node("Expand", ["nil", "shape"], ["big"]),
            )

        def tile(model: ModelProto, shape: tuple[int, ...] = shape) -> None:
            one = helper.make_node("Constant", [], ["one"], value_floats=[0.0] * 1)
            _first(
                model,
                one,
                _number("shape", shape[0]),
                helper.make_node("Tile", ["one", "shape"], ["big"]),
            )

        def pixels(model: ModelProto, shape: tuple[int, ...] = shape) -> None:
            """As ``expand``, of a value that no optimiser can know."""
            mean = helper.make_node("ReduceMean", ["images"], ["grey"], keepdims=0)
            _first(
                model,
                mean,
                _number("shape", *shape),
                helper.make_node("Expand", ["grey", "shape"], ["big"]),
            )

        def pad(model: ModelProto, shape: tuple[int, ...] = shape) -> None:
            pads = _number("pads", 0, 0, 0, 0, 0, 0, 0, shape[0])
            _first(model, pads, helper.make_node("Pad", ["images", "pads"], ["big"]))

        exact = {"ConstantOfShape": of_shape, "Expand": expand, "Expand of pixels": pixels}
        # the last two look at the first size alone
        for op, change in {**exact, "Tile": tile, "Pad": pad}.items():
            yield f"{op} of {shape}", change, op in exact or 2**20 < shape[0]


def endless_work() -> Iterator[Change]:
    for limit in (10**9, 2**62):

        def numbers(model: ModelProto, limit: int = limit) -> None:
            ends = [
                helper.make_node("Constant", [], [name], value_float=float(value))
                for name, value in (("start", 0), ("limit", limit), ("step", 1))
            ]
            _first(model, *ends, helper.make_node("Range", ["start", "limit", "step"], ["big"]))

        yield f"Range to {limit}", numbers, True

    def product(model: ModelProto) -> None:
        shape = _number("shape", 9000, 9000)
        other = helper.make_node("Expand", ["grey", "shape"], ["square"])
        mean = helper.make_node("ReduceMean", ["images"], ["grey"], keepdims=0)
        products = [
            helper.make_node("MatMul", ["square" if i == 0 else f"p{i}", "square"], [f"p{i + 1}"])
            for i in range(40)
        ]
        _first(model, mean, shape, other, *products, zero="p40")

    yield "products without end", product, True
    for trips in (2**62, 0):

        def endless(model: ModelProto, trips: int = trips) -> None:
            _first(model, *_endless(trips), zero="big")

        yield f"Loop of {trips or 'no'} limit", endless, True

    def resize(model: ModelProto) -> None:
        scales = helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 1e6, 1e6])
        _first(model, scales, helper.make_node("Resize", ["images", "", "scales"], ["big"]))

    yield "Resize by a million", resize, True

    def one_hot(model: ModelProto) -> None:
        index = _number("index", *range(64))
        depth = helper.make_node("Constant", [], ["depth"], value_int=2**40)
        values = helper.make_node("Constant", [], ["values"], value_floats=[0.0, 1.0])
        _first(
            model,
            index,
            depth,
            values,
            helper.make_node("OneHot", ["index", "depth", "values"], ["big"]),
        )

    yield "OneHot of depth 2^40", one_hot, True


def _endless(trips: int) -> list[onnx.NodeProto]:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "state"], ["state_next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_next", TensorProto.FLOAT, []),
        ],
    )
    mean = helper.make_node("ReduceMean", ["images"], ["grey"], keepdims=0)
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    start = [mean, helper.make_node("Constant", [], ["true"], value=true)]
    if trips:
        limit = helper.make_tensor("trips", TensorProto.INT64, [], [trips])
        start.append(helper.make_node("Constant", [], ["trips"], value=limit))
    return [
        *start,
        helper.make_node("Loop", ["trips" if trips else "", "true", "grey"], ["big"], body=body),
    ]
