"""Attention in INT8: the values of its products, where operands are rounded, and that no processor
overflows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from samples_export import images, tiny_artifact
from samples_onnx import runs, written

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.int8.attention import attention_products
from rfdetr_repro.export.int8.kernels import integer_kernels
from rfdetr_repro.export.int8.products import asked_for, prepared, products_of
from rfdetr_repro.export.int8.quantizer import Quantizer

TOKENS, HEADS, DEPTH = 7, 2, 8
WIDTH = HEADS * DEPTH
FACTOR = 0.3


def constants(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "w": random.normal(size=(3 * WIDTH, WIDTH)),
        "b": random.normal(size=3 * WIDTH),
        "factor": np.array(FACTOR),
    }


def attention(path: Path, factored: bool = True, axis: int = -1) -> Path:
    """y = self-attention of x (tokens, width), with one product for queries, keys and values, as
    the exporter writes it.
    """
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "w", "b"], ["g"], "qkv", transB=1),
        node("Reshape", ["g", "cut"], ["r"], "reshape"),
        node("Transpose", ["r"], ["t"], "transpose", perm=[2, 0, 3, 1, 4]),
        *(node("Gather", ["t", f"i{at}"], [f"p{at}"], f"gather{at}") for at in range(3)),
        node("Mul", ["p0", "factor"], ["q"], "scaled"),
        node("Transpose", ["p1"], ["k"], "keys", perm=[0, 1, 3, 2]),
        node("MatMul", ["q" if factored else "p0", "k"], ["s"], "scores"),
        node("Softmax", ["s"], ["p"], "softmax", axis=axis),
        node("MatMul", ["p", "p2"], ["o"], "values"),
        node("Transpose", ["o"], ["ot"], "back", perm=[0, 2, 1, 3]),
        node("Reshape", ["ot", "flat"], ["y"], "join"),
    ]
    if not factored:
        nodes = [one for one in nodes if one.name != "scaled"]
    written(path, nodes, constants(), [TOKENS, WIDTH])
    model = onnx.load(path)
    whole = {
        "cut": [1, TOKENS, 3, HEADS, DEPTH],
        "flat": [TOKENS, WIDTH],
        "i0": 0,
        "i1": 1,
        "i2": 2,
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, dtype=np.int64), name)
        for name, value in whole.items()
    )
    onnx.save(model, path)
    return path


def inputs(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(TOKENS, WIDTH)).astype(np.float32)


def calibrated(path: Path, feed: np.ndarray) -> Quantizer:
    quantizer = Quantizer(prepared(path), path)
    quantizer.calibrate([{"x": feed}])
    return quantizer


def heads(value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values (heads, tokens, depth) of :func:`attention` in float64."""
    given = constants()
    whole = value.astype(np.float64) @ given["w"].T + given["b"]
    cut = whole.reshape(TOKENS, 3, HEADS, DEPTH).transpose(1, 2, 0, 3)
    return cut[0] * FACTOR, cut[1], cut[2]


def softmax(value: np.ndarray) -> np.ndarray:
    power = np.exp(value - value.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def left(value: np.ndarray, low: float, high: float) -> np.ndarray:
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(value / step) + zero, 0, 255) - zero) * step


def right(value: np.ndarray, largest: float, limit: int) -> np.ndarray:
    step = largest / limit
    return np.clip(np.rint(value / step), -limit, limit) * step


def oracle(value: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Attention with rounded operands in NumPy; ranges of the operands from ``calibration``."""
    query, key, content = heads(value)
    base = heads(calibration)
    query = left(query, min(base[0].min(), 0), max(base[0].max(), 0))
    key = right(key, np.abs(base[1]).max(), 64)
    content = right(content, np.abs(base[2]).max(), 127)
    weights = left(softmax(query @ key.transpose(0, 2, 1)), 0, 1)
    return (weights @ content).transpose(1, 0, 2).reshape(TOKENS, WIDTH)


@pytest.mark.parametrize("seed", [1, 2])
def test_values_are_those_of_rounded_operands(tmp_path: Path, seed: int) -> None:
    """For the images of the calibration, and for others with values beyond its ranges."""
    path = attention(tmp_path / "a.onnx")
    made = calibrated(path, inputs(1)).quantised(["scores", "values"])
    value = inputs(seed) * seed
    wanted = oracle(value, inputs(1))
    # float32 may round a value on the edge of a step to the other side: one step of one operand
    step = np.abs(heads(inputs(1))[2]).max() * (1 / 255 + 1 / 127)
    for optimised in (True, False):
        apart = np.abs(runs(made, value, optimised) - wanted)
        assert np.median(apart) < 1e-4 and np.quantile(apart, 0.9) <= step
    exact = runs(onnx.load(path), value)
    assert np.abs(exact - wanted).max() > 1e-3  # rounding is seen, so that the test can fail


def test_products_of_attention_run_on_integers(tmp_path: Path) -> None:
    path = attention(tmp_path / "a.onnx")
    quantizer = calibrated(path, inputs())
    assert integer_kernels(quantizer.quantised(["scores", "values"]).SerializeToString()) == 2
    names = [one.name for one in products_of(quantizer.model, path)]
    made = quantizer.quantised(names)
    assert integer_kernels(made.SerializeToString()) == len(names) == 5


def test_no_processor_overflows_16_bits(tmp_path: Path) -> None:
    """Processors without VNNI add two products of uint8 and int8 in 16 bits with a sign."""
    path = attention(tmp_path / "a.onnx")
    made = calibrated(path, inputs()).quantised(["scores", "values"])
    operands = {
        "keys": "scores/right/rounded",
        "probabilities": "values/left/rounded",
        "content": "values/right/rounded",
    }
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in operands.values())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    for scale in (1, 30):  # the second is far beyond the calibrated range
        found = session.run(list(operands.values()), {"x": inputs() * scale})
        keys, probabilities, content = (one.astype(int) for one in found)
        assert np.abs(keys).max() == 64 and np.abs(content).max() == 127
        assert 2 * 255 * np.abs(keys).max() < 2**15
        pairs = probabilities[..., :-1] + probabilities[..., 1:]
        assert pairs.max() * np.abs(content).max() < 2**15


def test_operands_are_rounded_before_they_are_moved(tmp_path: Path) -> None:
    path = attention(tmp_path / "a.onnx")
    quantizer = calibrated(path, inputs())
    made = quantizer.quantised([one.name for one in products_of(quantizer.model, path)])
    makers = {name: node for node in made.graph.node for name in node.output}
    rounded = {
        node.name: makers[node.input[0]]
        for node in made.graph.node
        if node.op_type == "QuantizeLinear" and "/rounded" in node.name
    }
    # queries directly after their product, which then has an integer result; keys and values after
    # their first move, because ONNX Runtime has no product with an int8 result
    assert rounded["scores/left/rounded"].op_type == "Gemm"
    for name in ("scores/right/rounded", "values/right/rounded"):
        assert rounded[name].op_type == "Clip"
        assert makers[rounded[name].input[0]].op_type == "Reshape"


@pytest.mark.parametrize("factored", [True, False])
def test_a_projection_is_split_without_changing_values(tmp_path: Path, factored: bool) -> None:
    path = attention(tmp_path / "a.onnx", factored)
    model = prepared(path)
    gemms = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    assert gemms == ["qkv/part 0", "qkv/part 1", "qkv/part 2"]
    assert not {"Gather", "Mul"} & {node.op_type for node in model.graph.node}
    assert runs(model, inputs()) == pytest.approx(runs(onnx.load(path), inputs()), abs=1e-4)
    flops = sum(one.flops for one in products_of(model, path))
    assert flops == 2 * TOKENS * WIDTH * 3 * WIDTH + 2 * 2 * HEADS * TOKENS * TOKENS * DEPTH
    # the name of the file still names the parts
    assert asked_for(model, ["qkv"]) == set(gemms)


def test_a_projection_whose_result_is_an_output_is_not_split(tmp_path: Path) -> None:
    path = attention(tmp_path / "a.onnx")
    model = onnx.load(path)
    shape = [3, 1, HEADS, TOKENS, DEPTH]
    model.graph.output.append(helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    assert [n.name for n in prepared(path).graph.node if n.op_type == "Gemm"] == ["qkv"]


def test_only_a_softmax_over_the_last_axis_makes_attention(tmp_path: Path) -> None:
    path = attention(tmp_path / "a.onnx")
    assert attention_products(prepared(path).graph) == {"scores": "scores", "values": "values"}
    other = attention(tmp_path / "b.onnx", axis=2)
    assert attention_products(prepared(other).graph) == {}
    assert {one.why_float for one in products_of(prepared(other), other)} == {"", "two activations"}


def test_every_attention_of_the_exporter_is_found(tmp_path: Path) -> None:
    made: Artifact = tiny_artifact(tmp_path)
    model = prepared(made.path)
    roles = list(attention_products(model.graph).values())
    softmaxes = sum(
        node.op_type == "Softmax" and "MatMul" in {one.op_type for one in readers(model, node)}
        for node in model.graph.node
    )
    assert softmaxes > 2 and roles.count("scores") == roles.count("values") == softmaxes
    feed = {"images": images(1)}
    names = ["scores", "labels", "boxes"]
    found = [
        onnxruntime.InferenceSession(one.SerializeToString()).run(names, feed)
        for one in (onnx.load(made.path), model)
    ]
    for first, second in zip(*found, strict=True):
        assert second == pytest.approx(first, abs=1e-4)


def readers(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [one for one in model.graph.node if node.output[0] in one.input]


def test_the_same_calibration_gives_the_same_bytes(tmp_path: Path) -> None:
    path = attention(tmp_path / "a.onnx")
    made = [
        calibrated(path, inputs())
        .quantised(["scores", "values"])
        .SerializeToString(deterministic=True)
        for _ in range(2)
    ]
    assert made[0] == made[1]
