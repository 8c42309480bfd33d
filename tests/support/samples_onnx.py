"""Small ONNX graphs made by hand: LayerNorm written out and native, and what is fed to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WIDTH = 64


def runs(model: onnx.ModelProto | Path, value: np.ndarray, optimised: bool = True) -> np.ndarray:
    """The first output of ``model`` for the input x on ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": value})[0]


def written(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    shape: list[Any],
    opset: int = 17,
) -> Path:
    names = {
        name: numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)
        for name, value in constants.items()
    }
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], list(names.values()))
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path
    )
    return path


def layer_norm(path: Path, opset: int) -> Path:
    """y = LayerNorm(x) over the last axis, written out as exporters did before opset 17, or
    native.
    """
    if opset >= 17:
        return written(
            path,
            [helper.make_node("LayerNormalization", ["x", "one", "zero"], ["y"], name="norm")],
            {"one": np.ones(WIDTH), "zero": np.zeros(WIDTH)},
            [1, WIDTH],
            opset,
        )
    steps = [
        ("ReduceMean", ["x"], "mean"),
        ("Sub", ["x", "mean"], "centred"),
        ("Pow", ["centred", "two"], "square"),
        ("ReduceMean", ["square"], "variance"),
        ("Add", ["variance", "eps"], "safe"),
        ("Sqrt", ["safe"], "deviation"),
        ("Div", ["centred", "deviation"], "y"),
    ]
    nodes = [
        helper.make_node(
            op,
            inputs,
            [out],
            name=f"/{out}",
            **({"axes": [-1], "keepdims": 1} if op == "ReduceMean" else {}),
        )
        for op, inputs, out in steps
    ]
    return written(path, nodes, {"two": 2.0, "eps": 1e-5}, [1, WIDTH], opset)


def noise(scale: float) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        {"x": (scale * random.standard_normal((1, WIDTH))).astype(np.float32)} for _ in range(3)
    ]
