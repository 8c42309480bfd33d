"""bfloat16 where runtime and processor have it, else one line; INT8 on runtimes without it."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest
from samples_export import images, tiny_artifact

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.bfloat16 import check_onnxruntime, in_bfloat16
from rfdetr_repro.spec.errors import InputError

ON_ARM = platform.machine().lower() in ("aarch64", "arm64")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("artifact"))


def test_the_file_stays_as_it_is(artifact: Artifact) -> None:
    found = in_bfloat16(artifact)
    assert found.manifest.precision == "bf16" and found.sha256 == artifact.sha256
    with pytest.raises(InputError, match="only a float32 ONNX file"):
        in_bfloat16(found)


@pytest.mark.parametrize(
    ("machine", "text", "said"),
    [
        ("x86_64", "flags : avx512_bf16 amx_bf16", "on ARM processors only, not on x86_64"),
        ("aarch64", "Features : fp asimd i8mm", "no instructions for bfloat16"),
        ("aarch64", None, "no instructions for bfloat16"),
        ("aarch64", "Features : fp asimd bf16", None),
    ],
)
def test_onnx_runtime(machine: str, text: str | None, said: str | None, tmp_path: Path) -> None:
    listed = tmp_path / "cpuinfo"
    if text is not None:
        listed.write_text(f"processor : 0\n{text}\n")
    if said is None:
        check_onnxruntime(machine, listed)
        return
    with pytest.raises(InputError, match=said):
        check_onnxruntime(machine, listed)


@pytest.mark.skipif(ON_ARM, reason="ARM processors may have bfloat16")
def test_onnx_runtime_refuses_on_this_processor(artifact: Artifact) -> None:
    with pytest.raises(InputError, match="on ARM processors only"):
        open_session(in_bfloat16(artifact))


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("backend", ["torch", "tensorrt", "onnxruntime-cuda"])
def test_other_runtimes_refuse(artifact: Artifact, precision: str, backend: str) -> None:
    file = replace(artifact, manifest=replace(artifact.manifest, precision=precision))
    with pytest.raises(InputError, match=f"{backend} does not compute this file in {precision}"):
        open_session(file, backend)


def test_openvino_computes_in_bfloat16_or_refuses(artifact: Artifact) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    file = in_bfloat16(artifact)
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(InputError, match="does not compute in bf16 on this processor"):
            open_session(file, "openvino")
        return
    session = open_session(file, "openvino")
    assert session.artifact_id.precision == "bf16" and session.census()["bf16"]
    session.run(images(1))
