"""Ways to spoil an ONNX model as a graph: versions, operators, sizes that lie, data elsewhere,
values that are no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from mutations import Mutation
from mutations_onnx_work import Change, endless_work, expensive
from onnx import ModelProto, TensorProto, helper, numpy_helper

HUGE = (2**31 - 1, 2**33, 2**62)


def of_onnx(content: bytes) -> Iterator[Mutation]:
    """Of a model whose first initializer is a scalar and whose last node reads a value ``zero``
    (see seeds.py).
    """

    def changed(name: str, change: Callable[[ModelProto], None], refuse: bool = False) -> Mutation:
        def write(path: Path) -> None:
            model = onnx.load_model_from_string(content)
            change(model)
            path.write_bytes(model.SerializeToString())

        return Mutation(f"graph: {name}", write, refuse)

    for name, change, refuse in (
        *_versions(),
        *_inputs(),
        *_declarations(),
        *_structure(),
        *_large(),
        *_absent(),
        *_constants(),
        *_constant_types(),
        *expensive(),
        *endless_work(),
        *_metadata(),
    ):
        yield changed(name, change, refuse)
    for name, entries, prepare in _external():

        def write(
            path: Path, entries: dict[str, str] = entries, prepare: Callable[[Path], None] = prepare
        ) -> None:
            model = onnx.load_model_from_string(content)
            tensor = model.graph.initializer[1]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            path.write_bytes(model.SerializeToString())
            prepare(path.parent)

        yield Mutation(f"graph: external data: {name}", write, True)


def _versions() -> Iterator[Change]:
    for number in (-1, 0, 1, 7, 12, 99, 999, 2**40):

        def opset(model: ModelProto, number: int = number) -> None:
            model.opset_import[0].version = number

        yield f"opset {number}", opset, number != 99
    for number in (0, 1, 99, 2**31, 2**62):

        def version(model: ModelProto, number: int = number) -> None:
            model.ir_version = number

        yield f"IR version {number}", version, number >= 99

    def nothing(model: ModelProto) -> None:
        del model.opset_import[:]

    yield "no opset", nothing, True
    yield (
        "two opsets",
        lambda model: model.opset_import.extend([helper.make_opsetid("", 13)]),
        False,
    )
    yield "unknown domain", lambda model: setattr(model.graph.node[0], "domain", "com.nobody"), True
    yield (
        "unknown operator",
        lambda model: setattr(model.graph.node[0], "op_type", "NoSuchOperator"),
        True,
    )
    yield "operator without a name", lambda model: setattr(model.graph.node[0], "op_type", ""), True


def _inputs() -> Iterator[Change]:
    for where in range(4):
        for size in (-1, 0, 2, 10**5, 2**31, 2**62):

            def dim(model: ModelProto, where: int = where, size: int = size) -> None:
                model.graph.input[0].type.tensor_type.shape.dim[where].dim_value = size

            yield (
                f"input dimension {where} = {size}",
                dim,
                (where == 1 and size not in (0, -1)) or size > 10**5,  # the audit takes a batch
            )
    for side in (10**5, 2**20):

        def square(model: ModelProto, side: int = side) -> None:
            for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
                dim.dim_value = side

        yield f"input of {side} x {side}", square, True
    for size in (-1, 0, 7, 2**62):  # 0 and less: left open

        def out(model: ModelProto, size: int = size) -> None:
            model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = size

        yield f"output dimension {size}", out, False


def _declarations() -> Iterator[Change]:
    for kind in (0, 2, 6, 7, 8, 9, 14, 16, 23, 99):

        def element(model: ModelProto, kind: int = kind) -> None:
            model.graph.input[0].type.tensor_type.elem_type = kind

        yield f"input type {kind}", element, True
        yield (
            f"output type {kind}",
            lambda m, k=kind: setattr(m.graph.output[0].type.tensor_type, "elem_type", k),
            False,
        )
    yield "no inputs", lambda model: model.graph.ClearField("input"), True
    yield "no outputs", lambda model: model.graph.ClearField("output"), True
    yield "one output", lambda model: model.graph.output.pop(), False  # the audit needs no more
    yield (
        "input without a shape",
        lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"),
        True,
    )
    yield "input without a type", lambda model: model.graph.input[0].ClearField("type"), True
    yield "input without a name", lambda model: setattr(model.graph.input[0], "name", ""), True
    yield (
        "output that nothing writes",
        lambda model: setattr(model.graph.output[0], "name", "nowhere"),
        True,
    )
    yield (
        "output that is the input",
        lambda model: setattr(model.graph.output[0], "name", "images"),
        False,
    )
    yield (
        "control characters",
        lambda model: setattr(model.graph.output[0], "name", "a\n\x1b[31mb\0"),
        True,
    )

    def wide(model: ModelProto) -> None:
        names = [
            helper.make_tensor_value_info(f"input {number}", TensorProto.FLOAT, [1, 3, 32, 32])
            for number in range(2000)
        ]
        model.graph.input.extend(names)

    yield "2,000 inputs", wide, True


def _structure() -> Iterator[Change]:
    def cycle(model: ModelProto) -> None:
        model.graph.node[1].input[0] = "pred_boxes"

    def itself(model: ModelProto) -> None:
        model.graph.node[0].input[0] = model.graph.node[0].output[0]

    def twice(model: ModelProto) -> None:
        model.graph.node.append(model.graph.node[0])

    def doubled(model: ModelProto) -> None:
        model.graph.initializer.append(model.graph.initializer[0])

    def order(model: ModelProto) -> None:
        nodes = list(model.graph.node)[::-1]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    def long_names(model: ModelProto) -> None:
        model.graph.node[0].name = "n" * 100_000
        model.graph.node[0].op_type = "N" * 100_000

    yield "cycle", cycle, True
    yield "node that reads itself", itself, True
    yield "node twice", twice, True
    yield "constant twice", doubled, False
    yield "nodes in reverse", order, False
    yield "long names", long_names, True


def _large() -> Iterator[Change]:
    def deep(model: ModelProto) -> None:
        graph = helper.make_graph([], "inner", [], [])
        for _ in range(20):
            outer = helper.make_graph(
                [helper.make_node("If", ["c"], ["o"], then_branch=graph, else_branch=graph)],
                "g",
                [],
                [],
            )
            del outer.node[0].attribute[1:]
            graph = outer
        model.graph.node.extend(graph.node)

    def many(model: ModelProto) -> None:
        for number in range(20_000):
            model.graph.node.append(
                helper.make_node(
                    "Identity", [f"m{number - 1}" if number else "mean"], [f"m{number}"]
                )
            )

    def sparse(model: ModelProto) -> None:
        values, indices = (
            numpy_helper.from_array(np.ones(1, kind)) for kind in (np.float32, np.int64)
        )
        values.name = "sparse"
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(values, indices, [2**31, 2**31])
        )

    yield "deep graphs", deep, True
    yield "20,000 nodes", many, False
    yield "sparse constant of 2^62", sparse, False


def _absent() -> Iterator[Change]:
    yield "no nodes", lambda model: model.graph.ClearField("node"), True
    yield "no graph", lambda model: model.ClearField("graph"), True
    yield "missing constant", lambda model: model.graph.initializer.pop(), True
    yield "node without inputs", lambda model: model.graph.node[0].ClearField("input"), True
    yield "node without outputs", lambda model: model.graph.node[0].ClearField("output"), True
    yield "empty output name", lambda model: model.graph.node[0].output.__setitem__(0, ""), True
    other = helper.make_attribute("keepdims", "x")
    yield (
        "attribute of another type",
        lambda model: model.graph.node[0].attribute[0].CopyFrom(other),
        True,
    )
    yield (
        "attribute twice",
        lambda model: model.graph.node[0].attribute.append(model.graph.node[0].attribute[0]),
        False,
    )


def _constants() -> Iterator[Change]:
    def values(value: float, number: int = 1) -> Callable[[ModelProto], None]:
        def change(model: ModelProto) -> None:
            old = numpy_helper.to_array(model.graph.initializer[number])
            new = numpy_helper.from_array(
                np.full_like(old, value), model.graph.initializer[number].name
            )
            model.graph.initializer[number].CopyFrom(new)

        return change

    for value in (np.nan, np.inf):
        for number, name in enumerate(("nil", "boxes", "logits")):
            yield f"{name} all {value}", values(value, number), True

    def one_nan(model: ModelProto) -> None:
        array = numpy_helper.to_array(model.graph.initializer[2]).copy()
        array[0, 3, 1] = np.nan
        model.graph.initializer[2].CopyFrom(numpy_helper.from_array(array, "logits_c"))

    yield "one NaN", one_nan, True


def _constant_types() -> Iterator[Change]:
    for dims in ([3, 10**12], [-1, 4], [0], [2**62, 2**62], [1] * 300, [1, 8, 5], []):

        def shaped(model: ModelProto, dims: list[int] = dims) -> None:
            del model.graph.initializer[1].dims[:]
            model.graph.initializer[1].dims.extend(dims)

        yield f"constant said to be {dims if len(dims) < 9 else '300-dimensional'}", shaped, True
    for length in (0, 1, 127, 129, 10_000):
        yield (
            f"{length} bytes of a constant",
            lambda m, n=length: setattr(m.graph.initializer[1], "raw_data", bytes(n)),
            True,
        )
    for kind in (0, 2, 7, 8, 14, 16, 17, 22, 23, 99):
        yield (
            f"constant of type {kind}",
            lambda m, k=kind: setattr(m.graph.initializer[1], "data_type", k),
            True,
        )

    def strings(model: ModelProto) -> None:
        model.graph.initializer[1].CopyFrom(
            helper.make_tensor("boxes_c", TensorProto.STRING, [1, 8, 4], [b"x"] * 32)
        )

    def segment(model: ModelProto) -> None:
        model.graph.initializer[1].segment.begin = 0
        model.graph.initializer[1].segment.end = 2**60

    yield "strings", strings, True
    yield "segment", segment, False
    yield (
        "constant without a name",
        lambda model: setattr(model.graph.initializer[1], "name", ""),
        True,
    )


def _metadata() -> Iterator[Change]:
    texts = (
        "[" * 5000,
        "9" * 5000,
        "{0: 'a'",
        "[-1, -1]",
        "[]",
        "{}",
        "[1e999, 2]",
        "{'x': [1]}",
        "\0",
        "__import__('os')",
    )
    for key in ("names", "imgsz", "args", "task", "stride", "author", "end2end"):
        for text in texts:

            def told(model: ModelProto, key: str = key, text: str = text) -> None:
                model.metadata_props.add(key=key, value=text)

            yield f"metadata {key} = {text[:20]!r}", told, False


def _external() -> Iterator[tuple[str, dict[str, str], Callable[[Path], None]]]:
    def nothing(folder: Path) -> None: ...

    def data(size: int) -> Callable[[Path], None]:
        return lambda folder: (folder / "weights.bin").write_bytes(bytes(size))  # type: ignore[return-value]

    def link(target: str) -> Callable[[Path], None]:
        return lambda folder: (folder / "weights.bin").symlink_to(target)

    def fifo(folder: Path) -> None:
        import os

        os.mkfifo(folder / "weights.bin")

    inside = {"location": "weights.bin"}
    yield "missing", inside, nothing
    yield "no location", {}, nothing
    yield "empty location", {"location": ""}, nothing
    yield "outside", {"location": "../weights.bin"}, nothing
    yield "absolute", {"location": "/etc/passwd"}, nothing
    yield "device", {"location": "/dev/zero"}, nothing
    yield "process", {"location": "/proc/self/environ"}, nothing
    yield "folder", {"location": "."}, nothing
    yield "nul", {"location": "a\0b"}, nothing
    yield "long name", {"location": "n" * 5000}, nothing
    yield "link to a device", inside, link("/dev/zero")
    yield "link outside", inside, link("/etc/passwd")
    yield "link to itself", inside, link("weights.bin")
    yield "fifo", inside, fifo
    yield "too short", inside, data(10)
    yield "empty file", inside, data(0)
    for key in ("offset", "length"):
        for value in ("x", "-1", "", "1e3", "9" * 30, "100000"):
            yield f"{key} {value!r}", {**inside, key: value}, data(128)
