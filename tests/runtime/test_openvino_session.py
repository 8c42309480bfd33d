"""OpenVINO: agrees with PyTorch, and computes in float32 or refuses to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_backends import WIDENED, Both, both_formats, rewritten, with_output_type
from samples_export import images, tiny_artifact

from rfdetr_repro.export.int8.attention import attention_products
from rfdetr_repro.export.int8.calibration import Noise
from rfdetr_repro.export.int8.conversion import int8_artifact
from rfdetr_repro.export.int8.products import prepared
from rfdetr_repro.runtime.agreement import Tolerance, check_against
from rfdetr_repro.spec.errors import InputError, StatedFailure

openvino = pytest.importorskip("openvino", reason="openvino is not installed")

from rfdetr_repro.runtime.openvino import OpenVinoSession  # noqa: E402 (after the skip)

STRICT = Tolerance(box=1e-4, score=1e-4, mask_logit=1e-4, matched=1.0)
has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both_formats(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(scope="module")
def session(both: Both) -> OpenVinoSession:
    return OpenVinoSession(both.onnx, threads=1)


def test_agrees_with_pytorch(both: Both, session: OpenVinoSession) -> None:
    assert check_against(both.subnet, session, images(3), STRICT).mask_logit is not None


def test_identity_names_what_changes_the_run(both: Both, session: OpenVinoSession) -> None:
    identity = session.artifact_id
    assert (identity.runtime, identity.sha256) == ("openvino-cpu", both.onnx.sha256)
    for part in (
        "threads=1",
        "precision=f32",
        "hint=LATENCY",
        "streams=1",
        f"openvino={openvino.__version__}",
    ):
        assert part in identity.options
    assert OpenVinoSession(both.onnx, threads=2).artifact_id.options != identity.options


def test_float32_means_float32(session: OpenVinoSession) -> None:
    census = session.census()
    assert census["f32"] > 100 and not {"bf16", "f16"} & set(census)


@pytest.mark.skipif(not has_bf16, reason="this processor has no bfloat16")
def test_the_census_sees_bfloat16(both: Both) -> None:
    session = OpenVinoSession(both.onnx, threads=1, precision="bf16")
    assert session.census()["bf16"] > 100 and "precision=bf16" in session.artifact_id.options
    with pytest.raises(StatedFailure):
        check_against(both.subnet, session, images(3), STRICT)


@pytest.mark.skipif(not has_bf16, reason="this processor has no bfloat16")
def test_a_runtime_that_ignores_the_hint_is_refused(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_model = openvino.Core.compile_model

    def ignoring(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        return compile_model(core, model, device, {**config, "INFERENCE_PRECISION_HINT": "bf16"})

    monkeypatch.setattr(openvino.Core, "compile_model", ignoring)
    with pytest.raises(
        StatedFailure, match="OpenVINO runs with INFERENCE_PRECISION_HINT bf16 instead of f32"
    ):
        OpenVinoSession(both.onnx, threads=1)


def test_a_node_in_half_precision_is_refused(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoSession, "census", lambda session: Counter(f32=9, f16=1))
    with pytest.raises(StatedFailure, match="tiny in half precision: nodes 1 in f16, 9 in f32"):
        OpenVinoSession(both.onnx, threads=1)


def test_launch_may_be_repeated_and_results_stay(session: OpenVinoSession) -> None:
    expected = session.run(images(1))
    kept = expected.boxes_xyxy.copy()
    session.bind(1 - images(1))
    for _ in range(2):
        session.launch()
    assert np.array_equal(expected.boxes_xyxy, kept) and not np.array_equal(
        session.outputs().boxes_xyxy, kept
    )
    assert session.gpu_ms is None and session.cuda_graph is None


def test_half_precision_outputs_are_read_as_such(
    both: Both, session: OpenVinoSession, tmp_path: Path
) -> None:
    """A file may hold half precision itself; its values arrive as the float32 of the same value."""
    artifact = both.onnx
    for output, dtype in WIDENED:
        artifact = with_output_type(artifact, output, dtype, tmp_path)
    found = OpenVinoSession(artifact, threads=1).run(images(1))
    expected = session.run(images(1))
    assert np.array_equal(found.labels, expected.labels) and found.labels.dtype == np.int64
    for name in ("scores", "boxes_xyxy", "masks"):
        got = getattr(found, name)
        want = getattr(expected, name)
        assert got.dtype == np.float32 and np.array_equal(
            got, want.astype(np.float16).astype(np.float32)
        ), name


@pytest.mark.parametrize(
    ("output", "dtype"), [("scores", "bfloat16"), ("masks", "bool"), ("boxes", "float64")]
)
def test_types_that_are_refused(both: Both, output: str, dtype: str, tmp_path: Path) -> None:
    """OpenVINO hands bfloat16 out as float16: the same bits, other numbers."""
    with pytest.raises(InputError, match=f"output {output} is {dtype}, which cannot become"):
        OpenVinoSession(with_output_type(both.onnx, output, dtype, tmp_path))


def test_bad_input(both: Both, session: OpenVinoSession, tmp_path: Path) -> None:
    whole = both.onnx.path.read_bytes()
    for number, content in enumerate((b"", b"nonsense", whole[: len(whole) // 2])):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(InputError, match="OpenVINO cannot load the model") as caught:
            OpenVinoSession(rewritten(both.onnx, content, tmp_path / str(number)))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"needs images float32 \(1, 3, 32, 32\), not float64"):
        session.bind(np.zeros((1, 3, 32, 32)))
    with pytest.raises(InputError, match="runs onnx files, not torch"):
        OpenVinoSession(both.torch)


def test_int8_files_run_on_integers(tmp_path: Path) -> None:
    """OpenVINO computes in INT8 every product with weights that the manifest says, and attention
    where it has a kernel; and float32 files without any of it.
    """
    wide = tiny_artifact(tmp_path)
    made = int8_artifact(wide, tmp_path / "int8.onnx", Noise())
    session = OpenVinoSession(made, threads=1)
    census = made.manifest.quantised
    assert census is not None and session.artifact_id.precision == "int8"
    integers = session.product_census()
    everything = census.products_int8 + census.convolutions_int8
    attention = len(attention_products(prepared(wide.path).graph))
    assert everything - attention <= integers["u8"] + integers["i8"] <= everything
    assert set(OpenVinoSession(wide, threads=1).product_census()) == {"f32"}
    claimed = replace(wide, manifest=replace(wide.manifest, precision="int8"))
    with pytest.raises(StatedFailure, match="computes no product of tiny in int8"):
        OpenVinoSession(claimed, threads=1)
