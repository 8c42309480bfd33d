"""The engine session on doubles of TensorRT and of a CUDA device: what it binds, launches,
captures, copies, and refuses.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_backends import with_output_type
from samples_export import ARCH, images, meta, tiny_artifact, tiny_detector
from samples_tensorrt import A10, T4, DataType, Setup

from rfdetr_repro.bench.cells import Row
from rfdetr_repro.bench.confirm import confirm_all
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.tensorrt import engine as build_module
from rfdetr_repro.export.tensorrt.engine import AHEAD_OF_TIME
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.runtime.tensorrt import TrtSession
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("onnx"))


@pytest.fixture
def setup(onnx_file: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    return Setup(onnx_file, tmp_path, monkeypatch)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_the_detections_are_those_of_the_file(setup: Setup, cuda_graph: bool) -> None:
    session = setup.open(cuda_graph=cuda_graph)
    expected = OrtSession(setup.onnx, threads=1)
    for image in images(3):
        found = session.run(image[None])
        right = expected.run(image[None])
        for array, other in zip(found, right, strict=True):
            assert array.dtype == other.dtype
            np.testing.assert_allclose(array, other, atol=1e-5)
    first = session.run(images(1)[:1])
    again = first.scores.copy()
    session.run(1 - images(1)[:1])
    assert np.array_equal(first.scores, again), "results are copies"


def test_a_graph_is_captured_once_after_one_plain_launch(setup: Setup) -> None:
    session = setup.open(cuda_graph=True)
    assert setup.trt.log.count("launch") == 2  # one to warm up, one recorded
    assert (
        setup.runtime.calls[0] == "cudaStreamBeginCapture"
        and setup.runtime.calls.count("cudaGraphLaunch") == 1
    )
    session.run(images(1)[:1])
    assert setup.trt.log.count("launch") == 2 and setup.runtime.calls.count("cudaGraphLaunch") == 2


def test_without_a_graph_nothing_is_captured(setup: Setup) -> None:
    session = setup.open()
    session.run(images(1)[:1])
    assert setup.trt.log.count("launch") == 2 and not setup.runtime.calls


def test_launch_waits_and_enqueue_does_not(setup: Setup) -> None:
    session = setup.open()
    session.bind(images(1)[:1])
    session.enqueue()
    assert setup.device.waiting
    session.launch()
    assert not setup.device.waiting and session.gpu_ms == 1.5


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_row_of_the_benchmark_tells_the_gpus_time_and_the_graph(
    setup: Setup, tmp_path: Path, cuda_graph: bool
) -> None:
    rows = {"a": Row(setup.onnx, lambda build: setup.open(cuda_graph=cuda_graph))}
    protocol = Protocol(buffer_ms=0, warmup=1, min_samples=3, max_samples=3)
    ((record,),) = confirm_all(rows, [protocol], Store(tmp_path / "records.jsonl")).records.values()
    assert record.latency.gpu_median_ms == 1.5 and record.latency.cuda_graph is cuda_graph


def test_the_identity_tells_graph_and_build(setup: Setup) -> None:
    plain = setup.open().artifact_id
    graph = setup.open(cuda_graph=True).artifact_id
    assert plain.sha256 == setup.engine.sha256 and plain.onnx_sha256 == setup.onnx.sha256
    assert (plain.runtime, plain.precision, plain.size_bytes) == (
        "tensorrt",
        "fp32",
        setup.engine.path.stat().st_size,
    )
    assert (
        "cuda_graph=off" in plain.options
        and "cuda_graph=on" in graph.options
        and "build=0" in plain.options
    )


@pytest.mark.parametrize(
    "failing", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_a_capture_that_fails_raises(setup: Setup, failing: str) -> None:
    setup.runtime.fails = failing
    with pytest.raises(StatedFailure, match=f"{failing} returned"):
        setup.open(cuda_graph=True)
    setup.open()  # plain launches were not asked for silently, but work


def test_an_engine_that_cannot_be_captured_says_so_before(setup: Setup) -> None:
    setup.trt.capturable = False
    with pytest.raises(StatedFailure, match="cannot be captured"):
        setup.open(cuda_graph=True)
    assert not setup.runtime.calls


def test_a_launch_that_fails_raises(setup: Setup) -> None:
    setup.trt.runs = False
    with pytest.raises(StatedFailure, match="(does not|cannot be) run"):
        setup.open()


def test_engines_of_elsewhere_are_refused(setup: Setup) -> None:
    setup.device.gpu = T4
    with pytest.raises(
        InputError, match="was built for NVIDIA A10 sm_86, and this GPU is Tesla T4 sm_75"
    ):
        setup.open()
    setup.device.gpu = A10
    setup.trt.__version__ = "11.4.0"
    with pytest.raises(InputError, match="was built by tensorrt 10.4.0, and 11.4.0 is installed"):
        setup.open()
    with pytest.raises(InputError, match="format is onnx, not an engine of tensorrt"):
        TrtSession(setup.onnx, "tensorrt", cuda_graph=False)


def test_engines_built_ahead_of_time_need_a_new_enough_gpu(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", setup.trt)  # type: ignore[arg-type]
    build = {**setup.engine.manifest.build, "gpu": AHEAD_OF_TIME}
    ahead = Artifact(
        setup.engine.path, replace(setup.engine.manifest, format="tensorrt-rtx", build=build)
    )
    # the double is 10.4
    monkeypatch.setattr(build_module, "VERSIONS", {"tensorrt-rtx": ((10, 4), (12, 0))})
    assert TrtSession(ahead, "tensorrt-rtx", cuda_graph=True).artifact_id.runtime == "tensorrt-rtx"
    setup.device.gpu = T4
    with pytest.raises(InputError, match="8.0 or later, and this GPU is Tesla T4 sm_75"):
        TrtSession(ahead, "tensorrt-rtx", cuda_graph=True)
    turing = replace(ahead.manifest, build={**build, "gpu": "compute capability 7.5"})
    assert TrtSession(replace(ahead, manifest=turing), "tensorrt-rtx", cuda_graph=True)
    setup.device.gpu = A10
    with pytest.raises(InputError, match="for compute capability 7.5, and this GPU is NVIDIA A10"):
        TrtSession(replace(ahead, manifest=turing), "tensorrt-rtx", cuda_graph=True)


def test_compiled_kernels_are_kept_and_foreign_ones_replaced(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", setup.trt)  # type: ignore[arg-type]
    monkeypatch.setitem(build_module.VERSIONS, "tensorrt-rtx", ((10, 4), (12, 0)))
    build = {**setup.engine.manifest.build, "gpu": AHEAD_OF_TIME}
    manifest = replace(setup.engine.manifest, format="tensorrt-rtx", build=build)
    engine = Artifact(setup.engine.path, manifest)
    kept = engine.path.with_name(f"{engine.path.name}.kernels")

    def tried() -> list[object]:
        setup.trt.log.clear()
        TrtSession(engine, "tensorrt-rtx", cuda_graph=False)
        return [entry for entry in setup.trt.log if entry[0] == "kernels"]

    assert tried() == [] and kept.read_bytes() == b"KERNELS compiled"
    made = kept.stat().st_mtime_ns
    assert tried() == [("kernels", True)] and kept.stat().st_mtime_ns == made
    kept.write_bytes(b"of another GPU")
    assert tried() == [("kernels", False)] and kept.read_bytes() == b"KERNELS compiled"
    setup.open()
    assert "context" in setup.trt.log  # TensorRT itself has no such file


def test_corrupt_and_replaced_engines(setup: Setup) -> None:
    corrupt = setup.altered(b"not an engine")
    with pytest.raises(InputError, match="the engine cannot be loaded: magic tag does not match"):
        TrtSession(corrupt, "tensorrt", cuda_graph=False)
    setup.engine.path.write_bytes(b"ENGINE")
    with pytest.raises(InputError, match="changed since it was loaded"):
        setup.open()


def test_types_and_shapes_are_never_guessed(setup: Setup) -> None:
    setup.trt.types = {"scores": DataType.BF16}
    with pytest.raises(InputError, match="scores is BF16, which has no numpy type"):
        setup.open()
    setup.trt.types = {"boxes": DataType.HALF}
    with pytest.raises(
        InputError,
        match=r"boxes is float16 \(1, 8, 4\), its manifest says \(\(1, 8, 4\), 'float32'\)",
    ):
        setup.open()
    setup.trt.types = {}
    setup.trt.shapes = {"scores": [1, -1]}
    with pytest.raises(InputError, match=r"scores has the shape \(1, -1\), which is not fixed"):
        setup.open()


def test_outputs_are_those_of_the_contract(setup: Setup, tmp_path: Path) -> None:
    """float16 scores arrive as float32; a file of upstream's contract, which has no scores, is
    refused in one line.
    """
    half = with_output_type(setup.onnx, "scores", "float16", tmp_path)
    specs = tuple(
        replace(one, dtype="float16" if one.name == "scores" else one.dtype)
        for one in half.manifest.outputs
    )
    half = Artifact(half.path, replace(half.manifest, outputs=specs))
    found = open_session(half, "tensorrt").run(images(1)[:1]).scores
    right = OrtSession(setup.onnx, 1).run(images(1)[:1]).scores
    assert found.dtype == np.float32 and np.array_equal(
        found, right.astype(np.float16).astype(np.float32)
    )
    upstream = export_onnx(
        tiny_detector().slice(ARCH), tmp_path / "upstream.onnx", meta=meta(), contract="upstream"
    )
    with pytest.raises(
        InputError, match=r"\['dets', 'labels', 'masks'\] are not ranked detections"
    ):
        open_session(upstream, "tensorrt")


def test_the_identity_tells_injected_candidates(setup: Setup) -> None:
    packages = {**setup.engine.manifest.packages, "injected_candidates": "300"}
    session = TrtSession(
        Artifact(setup.engine.path, replace(setup.engine.manifest, packages=packages)),
        "tensorrt",
        cuda_graph=False,
    )
    assert "injected_candidates=300" in session.artifact_id.options


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 3, 32, 40), np.float32), np.zeros((1, 3, 32, 32))], ids=["size", "type"]
)
def test_wrong_input_is_refused(setup: Setup, wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"needs images float32 \(1, 3, 32, 32\), not"):
        setup.open().bind(wrong)


def test_opened_by_name_an_onnx_file_is_built_first(setup: Setup) -> None:
    session = open_session(setup.onnx, "tensorrt", cuda_graph=True)
    assert session.artifact_id.onnx_sha256 == setup.onnx.sha256 != session.artifact_id.sha256
    with pytest.raises(InputError, match="choose one of onnxruntime, .*tensorrt"):
        open_session(setup.onnx, "trt")


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_on_a_gpu(backend: str, cuda_graph: bool, tmp_path: Path) -> None:
    pytest.importorskip(backend.replace("-", "_"), reason=f"{backend} is not installed")
    onnx = tiny_artifact(tmp_path)
    session = open_session(onnx, backend, cuda_graph=cuda_graph)
    found = session.run(images(1)[:1])
    expected = OrtSession(onnx).run(images(1)[:1])
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    assert session.gpu_ms is not None and session.gpu_ms > 0 and session.cuda_graph is cuda_graph


# -- any number of images --------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    subnet = tiny_detector().slice(ARCH)
    onnx = export_onnx(subnet, tmp_path / "any.onnx", meta=meta(), batch="dynamic")
    return Setup(onnx, tmp_path, monkeypatch)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_engine_for_any_number_of_images(opened: Setup, cuda_graph: bool) -> None:
    session = opened.open(cuda_graph=cuda_graph)
    expected = OrtSession(opened.onnx, threads=1)
    assert "batches=1,8,32" in session.artifact_id.options
    for count in (1, 3, 2, 2, 32):
        given = images(count)
        found = session.run(given)
        for array, other in zip(found, expected.run(given), strict=True):
            assert array.shape == other.shape
            np.testing.assert_allclose(array, other, atol=1e-5)
        assert session.cuda_graph is cuda_graph
    captures = opened.runtime.calls.count("cudaStreamBeginCapture")
    assert captures == (4 if cuda_graph else 0), "one per change of the batch, and the first"


def test_more_images_than_the_profile_are_refused(opened: Setup) -> None:
    session = opened.open()
    with pytest.raises(InputError, match="takes 1 to 32 images at once, not 33.*--batches"):
        session.run(images(33))
    assert session.run(images(2)).scores.shape == (2, 8)
