"""Backends by name: each opens what it can run, and says in one line why it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from samples_backends import REFUSED, WIDENED, Both, both_formats, rewritten, with_output_type
from samples_export import images

from rfdetr_repro.runtime.backends import BACKENDS, WITH_GRAPH, check_backend, open_session
from rfdetr_repro.spec.errors import InputError


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both_formats(tmp_path_factory.mktemp("artifact"))


def test_names_of_runtimes(both: Both) -> None:
    assert set(WITH_GRAPH) < set(BACKENDS)
    assert open_session(both.onnx).artifact_id.runtime == "onnxruntime-cpu"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert open_session(both.torch, "torch").artifact_id.runtime == f"torch-{device}-eager"


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_one_interface(both: Both, name: str) -> None:
    """bind, launch, outputs: launch may be repeated, and what was handed out stays as it was."""
    session = open_session(
        getattr(both, name), {"onnx": "onnxruntime", "torch": "torch"}[name], threads=1
    )
    first = images(2)[:1]
    second = images(2)[1:]
    expected = session.run(first)
    session.bind(first)
    for _ in range(2):
        session.launch()
    found = session.outputs()
    kept = [part.copy() for part in found if part is not None]
    session.run(second)
    for got, copy, want in zip(found, kept, expected, strict=True):
        assert np.array_equal(got, copy) and np.array_equal(got, want)
    assert not np.array_equal(session.outputs().boxes_xyxy, expected.boxes_xyxy)
    assert session.gpu_ms is None or session.gpu_ms > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_that_is_refused_lacks_a_package_or_a_device(both: Both, backend: str) -> None:
    """None of ours: a module of this package that is not found is our own fault."""
    for use in (check_backend, lambda name: open_session(both.onnx, name)):
        try:
            use(backend)
        except InputError as error:
            assert "rfdetr_repro" not in str(error), error


def test_formats_do_not_cross(both: Both) -> None:
    for backend in ("onnxruntime", "onnxruntime-cuda", "openvino", "tensorrt"):
        with pytest.raises(InputError):
            open_session(both.torch, backend)
    with pytest.raises(
        InputError,
        match="runs onnx files, not torch .*; open the file with the backend torch, or export",
    ):
        open_session(both.torch)
    with pytest.raises(
        InputError,
        match="torch files, not onnx .*; open the file with the backend onnxruntime, or export",
    ):
        open_session(both.onnx, "torch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tflite"}, "unknown backend 'tflite'; choose one of onnxruntime, "),
        ({"backend": "onnxruntime", "cuda_graph": True}, "onnxruntime cannot replay a CUDA graph"),
        ({"backend": "torch", "cuda_graph": True}, "choose one of .*torch-graph"),
        ({"threads": 0}, "0 threads"),
        ({"build": -1}, "build -1"),
    ],
)
def test_bad_arguments(both: Both, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_session(both.onnx, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "package", "message"),
    [
        (
            "openvino",
            "openvino",
            r"openvino is not installed; pip install 'rfdetr-repro\[openvino\]'",
        ),
        (
            "tensorrt",
            "rfdetr_repro.runtime.tensorrt",
            "cannot be loaded: .*runtime.tensorrt.*; install the missing package",
        ),
    ],
)
def test_package_that_is_not_there(
    both: Both, backend: str, package: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"rfdetr_repro.runtime.{backend}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=message):
        open_session(both.onnx, backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_gpu(both: Both) -> None:
    with pytest.raises(
        InputError,
        match="torch-graph needs a CUDA device, and there is none; choose the backend torch",
    ):
        open_session(both.torch, "torch-graph")
    with pytest.raises(InputError, match="CUDAExecutionProvider"):
        open_session(both.onnx, "onnxruntime-cuda")


@pytest.mark.parametrize(("output", "dtype"), WIDENED)
def test_types_that_widen(both: Both, output: str, dtype: str, tmp_path: Path) -> None:
    """A float16 output arrives as the float32 of the same value."""
    found = open_session(with_output_type(both.onnx, output, dtype, tmp_path), threads=1).run(
        images(1)
    )
    expected = open_session(both.onnx, threads=1).run(images(1))
    for name, got, want in zip(
        ("scores", "labels", "boxes", "masks"), found, expected, strict=True
    ):
        assert got.dtype == want.dtype
        assert np.array_equal(
            got, want.astype(dtype).astype(want.dtype) if name == output else want
        ), name


@pytest.mark.parametrize(("output", "dtype"), REFUSED)
def test_types_that_do_not(both: Both, output: str, dtype: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"output {output} is {dtype}, which cannot become"):
        open_session(with_output_type(both.onnx, output, dtype, tmp_path))


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_bytes_that_are_no_model(both: Both, backend: str, tmp_path: Path) -> None:
    artifact = both.torch if backend == "torch" else both.onnx
    whole = artifact.path.read_bytes()
    for number, content in enumerate((b"", b"nonsense", whole[: len(whole) // 2])):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(InputError, match="cannot load the model|not a subnet") as caught:
            open_session(rewritten(artifact, content, tmp_path / str(number)), backend)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_wrong_images(both: Both, backend: str) -> None:
    session = open_session(both.torch if backend == "torch" else both.onnx, backend, threads=1)
    for wrong in (
        np.zeros((1, 3, 32, 40), np.float32),
        np.zeros((1, 3, 32, 32)),
        np.zeros((3, 32, 32), np.float32),
    ):
        with pytest.raises(InputError, match=r"needs images float32 \(1, 3, 32, 32\), not"):
            session.bind(wrong)
