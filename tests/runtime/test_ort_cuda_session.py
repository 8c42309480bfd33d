"""ONNX Runtime with bound buffers: the binding itself runs on the CPU provider; the refusals need
no GPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from samples_backends import Both, both_formats, rewritten, with_output_type
from samples_export import images

from rfdetr_repro.runtime.agreement import check_against
from rfdetr_repro.runtime.ort_cuda import OrtCudaSession
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError, StatedFailure

PROVIDERS = onnxruntime.get_available_providers()


class OnCpu(OrtCudaSession):
    """The same code with buffers in host memory."""

    provider = "CPUExecutionProvider"
    device = "cpu"
    runtime = "onnxruntime-bound"
    provider_options: dict[str, str] = {}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both_formats(tmp_path_factory.mktemp("artifact"))


def test_bound_buffers_give_the_same(both: Both) -> None:
    bound = OnCpu(both.onnx, 1)
    plain = OrtSession(both.onnx, 1)
    for image in images(3):
        for got, want in zip(bound.run(image[None]), plain.run(image[None]), strict=True):
            assert np.array_equal(got, want) and got.dtype == want.dtype
    check_against(both.subnet, bound, images())
    assert (
        bound.artifact_id.runtime == "onnxruntime-bound"
        and bound.artifact_id.sha256 == plain.artifact_id.sha256
    )


def test_buffers_are_reused_and_results_are_not(both: Both) -> None:
    session = OnCpu(both.onnx, 1)
    first = session.run(images(1))
    kept = first.boxes_xyxy.copy()
    addresses = [buffer.data_ptr() for buffer in session._output_buffers]
    session.run(1 - images(1))
    assert np.array_equal(first.boxes_xyxy, kept)
    assert [buffer.data_ptr() for buffer in session._output_buffers] == addresses


def test_half_precision_buffers(both: Both, tmp_path: Path) -> None:
    half = OnCpu(with_output_type(both.onnx, "scores", "float16", tmp_path), 1).run(images(1))
    exact = OrtSession(both.onnx, 1).run(images(1))
    assert np.array_equal(half.scores, exact.scores.astype(np.float16).astype(np.float32))


def test_outputs_without_a_fixed_shape(both: Both, tmp_path: Path) -> None:
    """Memory of unknown size cannot be bound; the plain CPU session needs none."""
    model = onnx.load(both.onnx.path)
    for node in model.graph.node:
        node.output[:] = ["before" if name == "scores" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.arange(8) % 2 == 0, "kept"))
    model.graph.node.append(helper.make_node("Compress", ["before", "kept"], ["scores"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "K"
    changed = rewritten(both.onnx, model.SerializeToString(), tmp_path)
    expected = OrtSession(both.onnx, 1).run(images(1)).scores
    assert np.array_equal(OrtSession(changed, 1).run(images(1)).scores, expected[:, ::2])
    with pytest.raises(InputError, match="scores has the shape .*, which is not fixed"):
        OnCpu(changed, 1)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in PROVIDERS, reason="this onnxruntime has the CUDA provider"
)
def test_a_build_without_cuda(both: Both) -> None:
    with pytest.raises(
        InputError, match="this onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu"
    ):
        OrtCudaSession(both.onnx)


@pytest.mark.skipif(
    "AzureExecutionProvider" not in PROVIDERS,
    reason="this onnxruntime has no provider that runs nothing",
)
def test_nodes_left_to_the_cpu_are_refused(both: Both, capfd: pytest.CaptureFixture[str]) -> None:
    class RunsNothing(OrtCudaSession):
        provider = "AzureExecutionProvider"
        provider_options: dict[str, str] = {}

    with pytest.raises(
        InputError, match="AzureExecutionProvider cannot run all nodes of the model"
    ):
        RunsNothing(both.onnx)
    assert capfd.readouterr().err == ""


def test_a_provider_that_does_not_load(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda session: ["OtherExecutionProvider"]
    )
    with pytest.raises(
        InputError, match="CPUExecutionProvider did not load .*would run on OtherExecutionProvider"
    ):
        OnCpu(both.onnx)


def test_an_option_that_is_not_taken(both: Both) -> None:
    class WithOption(OnCpu):
        provider_options = {"use_tf32": "0"}

    with pytest.raises(StatedFailure, match="ignores the options use_tf32=0"):
        WithOption(both.onnx)


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in PROVIDERS, reason="this onnxruntime has no CUDA provider"
)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_on_a_gpu(both: Both, cuda_graph: bool) -> None:
    session = OrtCudaSession(both.onnx, cuda_graph=cuda_graph)
    check_against(both.subnet, session, images(3))
    assert session.artifact_id.runtime == "onnxruntime-cuda"
    assert (
        "enable_cuda_graph=1" in session.artifact_id.options
    ) == cuda_graph and session.cuda_graph is cuda_graph
