"""Memory of a file: a process of its own, files of known size, and machines that do not tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rfdetr_repro.bench import memory
from rfdetr_repro.bench.memory import peak_memory_bytes
from rfdetr_repro.export.adopt.adoption import adopt
from rfdetr_repro.export.artifact import Artifact

MB = 10**6


def artifact(folder: Path, megabytes: int) -> Artifact:
    """A detector whose largest activation has ``megabytes``: the outer product of a column that
    depends on the image with a row of ones, then its largest value, times 0.
    """
    side = 1000
    rows = np.zeros((1, 20, 6), np.float32)
    rows[0, :2] = [[8, 8, 30, 30, 0.9, 0], [10, 12, 20, 40, 0.8, 1]]
    constants = {
        "column": np.ones((side, 1), np.float32),
        "row": np.ones((1, megabytes * MB // 4 // side), np.float32),
        "zero": np.float32(0),
        "rows": rows,
    }
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["column", "mean"], ["seen"]),
        helper.make_node("MatMul", ["seen", "row"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 48, 64])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, rows.shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "known.onnx")
    return adopt(folder / "known.onnx", folder / f"{megabytes}.onnx", form="rows")


@pytest.mark.skipif(not memory.STATUS.is_file(), reason="the system has no /proc/self/status")
def test_an_activation_of_known_size_is_found(tmp_path: Path) -> None:
    small, large = (
        peak_memory_bytes(artifact(tmp_path, megabytes), threads=1) for megabytes in (8, 136)
    )
    if small is None or large is None:
        pytest.skip("the system does not tell the largest resident memory of a process")
    assert 0.9 * 128 * MB < large - small < 1.5 * 128 * MB


def test_what_the_system_does_not_tell_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = artifact(tmp_path, 8)
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    assert peak_memory_bytes(made, threads=1) is None


def test_a_process_that_fails_is_unknown(tmp_path: Path) -> None:
    made = artifact(tmp_path, 8)
    made.path.write_bytes(b"not a model")
    assert peak_memory_bytes(made, threads=1) is None
