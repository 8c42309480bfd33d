"""Finds the parts of an ONNX model that leave the range of float16, by running the float32 model on
a CPU.

    python -m rfdetr_repro.export.fp16_audit MODEL.onnx [--images DIR] [--count N]

A float16 graph on a CPU does not show overflows, because its nodes run in float32, and an overflow
in LayerNorm gives a wrong finite number rather than NaN. The audit therefore examines every
intermediate value of the float32 model: values above 65,504 overflow; a square, sum or exponential
of large inputs overflows inside its kernel; values far below 1 lose all digits; NaN and positive
infinity are errors. The nodes named are the islands to keep in float32.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below: the program loads them when it needs them
    from rfdetr_repro.spec.launch import Program

    Program("rfdetr_repro.export.fp16_audit_command").run()

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime

from rfdetr_repro.data.decoding import decode
from rfdetr_repro.data.image_files import is_picture
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.export.onnx_file import check_operators, load, load_whole
from rfdetr_repro.export.trial import check_size, run_once
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import files_below

Array = np.ndarray[Any, Any]
LARGEST = 65504.0
SUBNORMAL = 2.0**-14
# input limits of operators whose kernel squares, sums or exponentiates in the type of its input
RISKY_INPUT = 512.0
SUMMING = {
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "ReduceL2",
    "Exp",
    "ReduceSumSquare",
    "ReduceLogSumExp",
}
LOST = 0.5  # share of a value's non-zero elements that may be subnormal
MOST_BYTES = 2**26  # bytes of intermediate values that are fetched per run, to bound memory


class Range(NamedTuple):
    """The observed range of a float value: the largest finite magnitude, and the share of the
    non-zero elements that float16 cannot represent well.

    ``odd``: "NaN" or "infinite" where the float32 model itself gives such an element. Negative
    infinity, which masks contain, does not count, because float16 has it too.
    """

    largest: float
    subnormal: float
    odd: str = ""


class Risk(NamedTuple):
    """A node that should stay in float32, and the reason.

    ``value``: name of the node's input or output that leaves the range.
    """

    node: str
    op: str
    value: str
    kind: str  # "NaN", "infinite", "overflow", "overflow inside", "subnormal"
    largest: float


class Audit(NamedTuple):
    """Result of an audit: ``ranges`` by value name, ``risks`` in the order of the graph.

    ``islands``: names of the nodes to keep in float32.
    """

    ranges: dict[str, Range]
    risks: list[Risk]
    runs: int

    @property
    def islands(self) -> list[str]:
        """Names of the nodes to keep in float32: those that overflow, because subnormal elements
        only cost digits.
        """
        return list(dict.fromkeys(risk.node for risk in self.risks if risk.kind != "subnormal"))


def audit(path: str | Path, feeds: Iterable[dict[str, Array]]) -> Audit:
    """Runs the float32 model at ``path`` on every feed (input name -> array) and judges the inputs
    and outputs of its nodes.

    Raises :class:`InputError` for a file that is not an ONNX model, that does not run, or whose
    outputs are not finite, and if there is no feed.
    """
    model, _ = load_whole(path)
    check_operators(model, path)
    results = {value.name: _dims(value) for value in model.graph.output}
    names = _exposed(model)
    feeds = iter(feeds)
    first = next(feeds, None)
    if first is None:
        raise InputError("there is no image to run the model on", path, "give at least one image")
    shapes = {name: value.shape for name, value in first.items()}
    tried = run_once(model.SerializeToString(), path, optimised=False, shapes=shapes)
    session = _session(model, path)
    floats = {output.name for output in session.get_outputs() if output.type == "tensor(float)"}
    wanted = [name for name in names if name in floats]
    parts = list(_parts(wanted, {output.name: output.nbytes for output in tried}))
    ranges: dict[str, Range] = {}
    runs = 0
    for feed in itertools.chain([first], feeds):
        runs += 1
        for name, value in feed.items():
            if value.dtype == np.float32:
                ranges[name] = _wider(ranges.get(name), value)
        for part in parts:
            try:
                values = session.run(part, feed)
            except (
                Exception
            ) as error:  # ONNX Runtime's own exception types share no public base class
                raise InputError(
                    f"the model cannot be run ({error})", path, "check the inputs of the model"
                ) from error
            for name, value in zip(part, values, strict=True):
                _check_result(name, value, results, path)
                ranges[name] = _wider(ranges.get(name), value)
    for constant in model.graph.initializer:
        value = onnx.numpy_helper.to_array(constant)
        if value.dtype == np.float32 and value.size:
            ranges[constant.name] = _wider(None, value)
    return Audit(ranges, list(_risks(model, ranges)), runs)


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape that the file states for an output, with 0 for an open dimension; None where the
    file states no shape.
    """
    tensor = value.type.tensor_type
    return tuple(dim.dim_value for dim in tensor.shape.dim) if tensor.HasField("shape") else None


def _check_result(
    name: str, value: Array, results: dict[str, tuple[int, ...] | None], path: str | Path
) -> None:
    """Raises :class:`InputError` for an output that is not finite, or whose shape is not the one
    that the file states.
    """
    if name not in results:
        return
    if np.isnan(value).any() or np.isposinf(value).any():
        what = f"the float32 model itself gives values that are not finite in {name}"
        raise InputError(what, path, "audit a model that works in float32")
    stated = results[name]
    if stated is None:
        return
    if len(stated) != value.ndim or any(
        side not in (0, found) for side, found in zip(stated, value.shape, strict=True)
    ):
        what = f"{name} has the shape {value.shape}, and the file states {stated}"
        raise InputError(what, path, "export it again")


def _parts(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Divides ``names``, in order, into parts of at most MOST_BYTES, or of one name; ``sizes`` are
    in bytes.
    """
    part: list[str] = []
    size = 0
    for name in names:
        if part and size + sizes[name] > MOST_BYTES:
            yield part
            part = []
            size = 0
        part.append(name)
        size += sizes[name]
    if part:
        yield part


def _exposed(model: onnx.ModelProto) -> list[str]:
    """Makes the outputs of every node outputs of the graph; returns their names in order."""
    names = [name for node in model.graph.node for name in node.output if name]
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    return names


def _session(model: onnx.ModelProto, path: str | Path) -> Any:
    options = onnxruntime.SessionOptions()
    # keeps every value under its name
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # failures raise exceptions
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise InputError(
            f"ONNX Runtime cannot load the model ({error})",
            path,
            "check that the file is a complete float32 model",
        ) from error


def _wider(known: Range | None, value: Array) -> Range:
    odd = "NaN" if np.isnan(value).any() else "infinite" if np.isposinf(value).any() else ""
    magnitude = np.abs(value[np.isfinite(value)])
    largest = float(magnitude.max(initial=0.0))
    there = magnitude[magnitude > 0]
    subnormal = float((there < SUBNORMAL).mean()) if there.size else 0.0
    if known is None:
        return Range(largest, subnormal, odd)
    return Range(max(known.largest, largest), max(known.subnormal, subnormal), known.odd or odd)


def _risks(model: onnx.ModelProto, ranges: dict[str, Range]) -> Iterator[Risk]:
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        seen = [(value, ranges[value]) for value in (*node.input, *node.output) if value in ranges]
        odd = [(value, found) for value, found in seen if found.odd]
        over = [(value, found) for value, found in seen if found.largest > LARGEST]
        reads = [
            (value, ranges[value])
            for value in node.input
            if value in ranges and ranges[value].largest > RISKY_INPUT
        ]
        writes = [
            (value, ranges[value])
            for value in node.output
            if value in ranges and ranges[value].subnormal > LOST
        ]
        if odd:
            yield Risk(name, node.op_type, odd[0][0], odd[0][1].odd, odd[0][1].largest)
        elif over:
            yield Risk(name, node.op_type, over[0][0], "overflow", over[0][1].largest)
        elif node.op_type in SUMMING and reads:
            yield Risk(name, node.op_type, reads[0][0], "overflow inside", reads[0][1].largest)
        elif writes:
            yield Risk(name, node.op_type, writes[0][0], "subnormal", writes[0][1].largest)


def feeds_of(path: str | Path, images: Path | None, count: int) -> Iterator[dict[str, Array]]:
    """Feeds with ``count`` images or more, input name -> float32 (B, 3, H, W) in 0..1: images from
    the folder ``images``, or seeded noise. B is the file's batch, 1 where the batch is open.

    Raises :class:`InputError` for a model with other inputs, and for a folder without images.
    """
    graph = load(path).graph
    constants = {constant.name for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    kind = inputs[0].type.tensor_type.elem_type if len(inputs) == 1 else 0
    if len(sizes) == 4 and _is_open(inputs[0]):
        sizes[0] = 1
    if len(sizes) != 4 or sizes[1] != 3 or min(sizes) < 1 or kind != onnx.TensorProto.FLOAT:
        what = (
            f"the model must have one float32 input (B, 3, H, W) of fixed height and width, not "
            f"{sizes or len(inputs)} of ONNX type {kind}"
        )
        raise InputError(what, path, "export the model with such an input")
    name = inputs[0].name
    batch, _, height, width = sizes
    check_size(height, width, path, batch)
    if images is None:
        random = np.random.default_rng(0)
        for _ in range(math.ceil(count / batch)):
            yield {name: random.random((batch, 3, height, width), dtype=np.float32)}
        return
    below = ((folder / name) for folder, names in files_below(images) for name in names)
    files = sorted(file for file in below if is_picture(file.name))
    if not files:
        raise InputError(
            "there are no images in the folder", images, "give a folder that holds pictures"
        )
    for place in range(0, min(count, len(files)), batch):
        # the next images fill up the last batch, and where there are no more, the first
        chosen = [files[index % len(files)] for index in range(place, place + batch)]
        yield {name: network_input([decode(file) for file in chosen], (height, width))}


def _is_open(value: onnx.ValueInfoProto) -> bool:
    """Whether the leading size of the input is open: a name, or nothing."""
    return not value.type.tensor_type.shape.dim[0].HasField("dim_value")
