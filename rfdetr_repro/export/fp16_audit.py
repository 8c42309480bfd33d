"""Which parts of an ONNX model leave the range of float16, found on a CPU by running the float32 model.

    python -m rfdetr_repro.export.fp16_audit MODEL.onnx [--images DIR] [--count N]

A float16 graph on a CPU does not show the collapse (its nodes run in float32), and a collapsed LayerNorm is a wrong finite
number, not NaN. So every intermediate value of the float32 model is looked at: above 65,504 it overflows; a square, sum or
exponential of large inputs overflows inside its kernel; far below 1 it loses all digits. The nodes named are the islands to keep
in float32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime

from ..data.decoding import decode
from ..data.resizing import model_input
from ..errors import EXIT_FAILED, EXIT_OK, ArgumentParser, InputError, run_main
from ..files import open_input

Array = np.ndarray[Any, Any]
LARGEST = 65504.0
SUBNORMAL = 2.0**-14
RISKY_INPUT = 512.0  # ahead of an operator whose kernel squares, sums or exponentiates in the type of its input
SUMMING = {"Pow", "ReduceMean", "ReduceSum", "ReduceL2", "Exp", "ReduceSumSquare", "ReduceLogSumExp"}
LOST = 0.5  # part of a value's non-zero numbers that may be subnormal
MOST_INPUTS = 100_000
AT_A_TIME = 48  # intermediate values fetched per run, to bound memory
SUFFIXES = {".png", ".jpg", ".jpeg"}


class Range(NamedTuple):
    """What was seen of one float value: largest magnitude, and the part of its non-zero numbers that float16 cannot hold well."""

    largest: float
    subnormal: float


class Risk(NamedTuple):
    """A node that should stay in float32, and why. ``value``: the name of the input or output meant."""

    node: str
    op: str
    value: str
    kind: str  # "overflow", "overflow inside", "subnormal"
    largest: float


class Audit(NamedTuple):
    """``ranges`` by value name; ``risks`` in order of the graph. ``islands``: names of the nodes to keep in float32."""

    ranges: dict[str, Range]
    risks: list[Risk]
    runs: int

    @property
    def islands(self) -> list[str]:
        """Overflows only: subnormal numbers cost digits, not the result."""
        return list(dict.fromkeys(risk.node for risk in self.risks if risk.kind != "subnormal"))


def audit(path: str | Path, feeds: Iterable[dict[str, Array]]) -> Audit:
    """Runs the float32 model at ``path`` on every feed (input name -> array) and judges what its nodes read and write.

    Raises :class:`InputError` for a file that is no ONNX model, one that does not run, and without any feed.
    """
    model = load(path)
    names = _exposed(model)
    session = _session(model, path)
    floats = {output.name for output in session.get_outputs() if output.type == "tensor(float)"}
    wanted = [name for name in names if name in floats]
    ranges: dict[str, Range] = {}
    runs = 0
    for feed in feeds:
        runs += 1
        for name, value in feed.items():
            if value.dtype == np.float32:
                ranges[name] = _wider(ranges.get(name), value)
        for start in range(0, len(wanted), AT_A_TIME):
            part = wanted[start : start + AT_A_TIME]
            try:
                values = session.run(part, feed)
            except Exception as error:  # ONNX Runtime's own exception types share no public base class
                raise InputError(f"the model does not run ({error})", path, "check its inputs") from error
            for name, value in zip(part, values, strict=True):
                ranges[name] = _wider(ranges.get(name), value)
    if not runs:
        raise InputError("nothing to run the model on", path, "give at least one image")
    for constant in model.graph.initializer:
        value = onnx.numpy_helper.to_array(constant)
        if value.dtype == np.float32 and value.size:
            ranges[constant.name] = _wider(None, value)
    return Audit(ranges, list(_risks(model, ranges)), runs)


def load(path: str | Path) -> onnx.ModelProto:
    """The ONNX model at ``path``; raises :class:`InputError` when there is none, or a broken one."""
    with open_input(Path(path)) as stream:
        content = stream.read()
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.node:
            raise ValueError("it has no nodes")
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise InputError(f"not an ONNX model ({error})", path, "export it again") from error
    return model


def _exposed(model: onnx.ModelProto) -> list[str]:
    """Makes every node's outputs outputs of the graph; returns their names in order."""
    names = [name for node in model.graph.node for name in node.output if name]
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    return names


def _session(model: onnx.ModelProto, path: str | Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # keeps every value by its name
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot load the model ({error})", path, "is it a complete float32 model?") from error


def _wider(known: Range | None, value: Array) -> Range:
    magnitude = np.abs(value[np.isfinite(value)])  # float16 has infinities, too
    largest = float(magnitude.max(initial=0.0))
    there = magnitude[magnitude > 0]
    subnormal = float((there < SUBNORMAL).mean()) if there.size else 0.0
    return Range(largest, subnormal) if known is None else Range(max(known.largest, largest), max(known.subnormal, subnormal))


def _risks(model: onnx.ModelProto, ranges: dict[str, Range]) -> Iterator[Risk]:
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        seen = [(value, ranges[value]) for value in (*node.input, *node.output) if value in ranges]
        over = [(value, found) for value, found in seen if found.largest > LARGEST]
        reads = [(value, ranges[value]) for value in node.input if value in ranges and ranges[value].largest > RISKY_INPUT]
        writes = [(value, ranges[value]) for value in node.output if value in ranges and ranges[value].subnormal > LOST]
        if over:
            yield Risk(name, node.op_type, over[0][0], "overflow", over[0][1].largest)
        elif node.op_type in SUMMING and reads:
            yield Risk(name, node.op_type, reads[0][0], "overflow inside", reads[0][1].largest)
        elif writes:
            yield Risk(name, node.op_type, writes[0][0], "subnormal", writes[0][1].largest)


def feeds_of(path: str | Path, images: Path | None, count: int) -> Iterator[dict[str, Array]]:
    """``count`` inputs for a model with one float input (1, 3, H, W) in 0..1: pictures of ``images``, else seeded noise."""
    graph = load(path).graph
    constants = {constant.name for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    if len(sizes) != 4 or sizes[:2] != [1, 3] or 0 in sizes:
        raise InputError(f"the model must have one input (1, 3, H, W) of fixed size, not {sizes or len(inputs)}", path)
    name, (height, width) = inputs[0].name, sizes[2:]
    if images is None:
        random = np.random.default_rng(0)
        for _ in range(count):
            yield {name: random.random((1, 3, height, width), dtype=np.float32)}
        return
    files = sorted(file for file in images.rglob("*") if file.suffix.lower() in SUFFIXES) if images.is_dir() else []
    if not files:
        raise InputError("no pictures", images, "give a folder with .jpg or .png files")
    for file in files[:count]:
        yield {name: model_input(decode(file), (height, width))}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything fits float16, 1 when islands are needed."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="float32 ONNX file")
    parser.add_argument("--images", type=Path, help="folder of pictures; without it the model sees noise, which proves less")
    parser.add_argument("--count", type=int, default=8, help=f"number of inputs, 1 to {MOST_INPUTS}")
    args = parser.parse_args(argv)
    if not 1 <= args.count <= MOST_INPUTS:
        raise InputError(f"--count {args.count} is not from 1 to {MOST_INPUTS}")
    found = audit(args.model, feeds_of(args.model, args.images, args.count))
    for risk in found.risks:
        print(f"{risk.kind:<16} {risk.op:<20} {risk.node}: {risk.value} up to {risk.largest:.4g}")
    source = f"{found.runs} pictures" if args.images else f"{found.runs} inputs of noise"
    islands = found.islands
    verdict = f"{len(islands)} nodes to keep in float32" if islands else "all fit float16"
    print(f"{len(found.ranges)} values on {source}: {verdict}")
    return EXIT_FAILED if islands else EXIT_OK


if __name__ == "__main__":
    sys.exit(run_main(main))
