"""FP16 as the study emulates it, against PyTorch's own exporter and NumPy's float16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from benchmarks.studies.half_opsets import forms_of, rounded, without_layer_norms
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.spec.errors import InputError


class Norm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.norm(rows)


def exported(path: Path, opset: int) -> onnx.ModelProto:
    torch.manual_seed(0)
    module = Norm().eval()
    torch.nn.init.normal_(module.norm.weight)
    torch.nn.init.normal_(module.norm.bias)
    torch.onnx.export(
        module,
        (torch.rand(4, 8),),
        str(path),
        input_names=["images"],
        output_names=["rows"],
        opset_version=opset,
        dynamo=False,
    )
    return onnx.load(path)


def run(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"images": rows})[0]


ROWS = np.random.default_rng(0).normal(0, 3, (4, 8)).astype(np.float32)


def test_a_norm_is_written_as_pytorch_writes_it_for_opset_16(tmp_path: Path) -> None:
    wanted = exported(tmp_path / "16.onnx", 16)
    model = exported(tmp_path / "17.onnx", 17)
    assert [node.op_type for node in model.graph.node] == ["LayerNormalization"]
    found = without_layer_norms(model)
    kinds = [node.op_type for node in wanted.graph.node if node.op_type != "Constant"]
    assert [node.op_type for node in found.graph.node] == kinds
    np.testing.assert_allclose(run(found, ROWS), run(model, ROWS), atol=1e-5)


def test_every_result_is_rounded_to_float16() -> None:
    nodes = [
        helper.make_node("Mul", ["images", "factor"], ["product"]),
        helper.make_node("Add", ["product", "one"], ["sum"]),
    ]
    constants = {"factor": np.float32(1.7), "one": np.float32(1.0003)}
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    half = ROWS.astype(np.float16) * np.float16(1.7) + np.float16(1.0003)
    np.testing.assert_array_equal(run(rounded(model), ROWS), half.astype(np.float32))


def test_squares_beyond_the_range_destroy_the_norm_of_opset_16_alone(tmp_path: Path) -> None:
    model = exported(tmp_path / "17.onnx", 17)
    large = 200 * ROWS  # squares up to some 10^6, beyond 65,504
    exact = run(model, large)
    np.testing.assert_allclose(run(rounded(model), large), exact, atol=0.02)
    assert np.abs(run(rounded(without_layer_norms(model)), large) - exact).max() > 0.5


@pytest.mark.parametrize(
    ("opset", "precision", "told"),
    [
        (16, "fp32", "precision fp32 and the opset 16"),
        (17, "int8", "precision int8 and the opset 17"),
    ],
)
def test_files_of_another_kind_are_refused(
    opset: int, precision: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    exported(path, opset)
    manifest = SimpleNamespace(precision=precision)
    with pytest.raises(InputError, match=told):
        forms_of(Artifact(path, manifest), tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [path]
