"""ONNX files as other programs write them: detectors that give fixed arrays whatever picture they
see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
}


@dataclass
class Written:
    """How a file is written. ``image``: shape of the input, symbols for open sides. ``scaled_by``:
    an input (1, 2) of width and height by which the output called boxes is multiplied, as the
    official D-FINE, RT-DETR and DEIM exports do. ``open_outputs``: the sides of the outputs are
    symbols. ``before``: nodes that make the value ``seen`` of the picture.
    """

    image: Sequence[Any] = (1, 3, 48, 64)
    dtype: str = "float32"
    name: str = "images"
    more_inputs: Mapping[str, tuple[str, Sequence[Any]]] = field(default_factory=dict)
    scaled_by: str = ""
    open_outputs: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int = 17
    before: Sequence[Any] = ()
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    seen: str = ""


def detector(path: Path, outputs: Mapping[str, np.ndarray], **written: Any) -> Path:
    """Writes a file that gives ``outputs``, which depend on the picture by nothing but a zero;
    ``written``: :class:`Written`.
    """
    how = Written(**written)
    fixed = [
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.array([1]), "second"),
    ]
    fixed += [numpy_helper.from_array(value, key) for key, value in how.constants.items()]
    nodes = [
        *how.before,
        helper.make_node("Cast", [how.seen or how.name], ["as_float"], to=TensorProto.FLOAT),
    ]
    nodes += [helper.make_node("ReduceMax", ["as_float"], ["brightest"], keepdims=0)]
    nodes += [helper.make_node("Mul", ["brightest", "zero"], ["nothing"])]
    results = []
    for key, value in outputs.items():
        kind = KINDS[str(value.dtype)]
        fixed.append(numpy_helper.from_array(value, f"{key}/fixed"))
        nodes.append(helper.make_node("Cast", ["nothing"], [f"{key}/nothing"], to=kind))
        last = f"{key}/unscaled" if how.scaled_by and key == "boxes" else key
        nodes.append(helper.make_node("Add", [f"{key}/fixed", f"{key}/nothing"], [last]))
        if last != key:
            nodes += [
                helper.make_node("Cast", [how.scaled_by], ["size"], to=TensorProto.FLOAT),
                helper.make_node("Concat", ["size", "size"], ["size_twice"], axis=1),
                helper.make_node("Unsqueeze", ["size_twice", "second"], ["scale"]),
                helper.make_node("Mul", [last, "scale"], [key]),
            ]
        shape = [
            f"{key}_{axis}" if how.open_outputs else size for axis, size in enumerate(value.shape)
        ]
        results.append(helper.make_tensor_value_info(key, kind, shape))
    inputs = [helper.make_tensor_value_info(how.name, KINDS[how.dtype], list(how.image))]
    inputs += [
        helper.make_tensor_value_info(key, KINDS[kind], list(dims))
        for key, (kind, dims) in how.more_inputs.items()
    ]
    graph = helper.make_graph(nodes, "detector", inputs, results, fixed)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", how.opset)], ir_version=9
    )
    for key, text in how.metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def ultralytics(
    task: str = "detect", head: str = "Detect", names: Sequence[str] = ("cat", "dog"), **more: str
) -> dict[str, str]:
    """Metadata as Ultralytics' exporter writes them."""
    return {
        "description": "Ultralytics model",
        "author": "Ultralytics",
        "version": "8.4.0",
        "stride": "32",
        "task": task,
        "head": head,
        "batch": "1",
        "imgsz": "[64, 64]",
        "names": str(dict(enumerate(names))),
        "args": "{'batch': 1, 'half': False, 'nms': False}",
        "channels": "3",
        "end2end": "False",
        **more,
    }
