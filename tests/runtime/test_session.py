"""The ONNX Runtime session: it hashes what it opens and refuses input that does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from samples_export import images, tiny_artifact

from rfdetr_repro.export.artifact import Artifact, Manifest, write_artifact
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_bytes, sha256_file


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("artifact"))


def test_identity_names_the_bytes_and_the_options(artifact: Artifact) -> None:
    identity = OrtSession(artifact, threads=1).artifact_id
    assert identity.sha256 == identity.onnx_sha256 == sha256_file(artifact.path)
    assert (identity.runtime, identity.precision) == ("onnxruntime-cpu", "fp32")
    assert identity.size_bytes == artifact.path.stat().st_size
    assert "threads=1" in identity.options and "graph=all" in identity.options
    assert OrtSession(artifact, threads=2).artifact_id.options != identity.options


def test_equal_input_gives_equal_output(artifact: Artifact) -> None:
    session = OrtSession(artifact, threads=1)
    first = session.run(images(1))
    second = session.run(images(1))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first.boxes_xyxy, session.run(1 - images(1)).boxes_xyxy)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 32, 40), np.float32),
        np.zeros((2, 3, 32, 32), np.float32),
        np.zeros((1, 3, 32, 32)),
        np.zeros((3, 32, 32)),
    ],
    ids=["size", "batch", "float64", "no batch"],
)
def test_wrong_input_is_refused(artifact: Artifact, wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"needs images float32 \(1, 3, 32, 32\), not"):
        OrtSession(artifact, threads=1).run(wrong)


def test_file_replaced_after_loading(artifact: Artifact, tmp_path: Path) -> None:
    moved = tmp_path / "m.onnx"
    moved.write_bytes(artifact.path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="changed since it was loaded"):
        OrtSession(Artifact(moved, artifact.manifest))


def renamed(manifest: Manifest, content: bytes) -> Manifest:
    return replace(manifest, sha256=sha256_bytes(content), size_bytes=len(content))


def test_bytes_that_are_no_model(artifact: Artifact, tmp_path: Path) -> None:
    content = b"nonsense"
    written = write_artifact(tmp_path / "m.onnx", content, renamed(artifact.manifest, content))
    with pytest.raises(InputError, match="cannot load the model"):
        OrtSession(written)


def test_model_that_is_no_detector(artifact: Artifact, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    written = write_artifact(tmp_path / "m.onnx", content, renamed(artifact.manifest, content))
    with pytest.raises(InputError, match=r"\['y'\] are not ranked detections"):
        OrtSession(written)
