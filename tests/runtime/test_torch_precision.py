"""PyTorch in float16 and bfloat16: which numbers stay float32, and that detections stay right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples_backends import Both, both_formats
from samples_export import ARCH, images, tiny_detector
from torch.utils._python_dispatch import TorchDispatchMode

from rfdetr_repro.export.half import half_artifact
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.runtime.agreement import Tolerance, check_against
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.bfloat16 import computed_in
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.runtime.torch import TorchSession
from rfdetr_repro.runtime.torch_precision import ALLOWED, check_half, in_dtype, in_precision
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Of random weights, rounding changes which of the nearly equal tokens are chosen, differently on
# every processor; the session itself compares all queries of the same tokens (ALLOWED).
CLOSE = Tolerance(box=2e-2, score=2e-2, mask_logit=0.5, matched=0.5)
EXACT = {"sin", "cos", "exp", "sigmoid"}  # of positions, boxes and scores
PRODUCTS = {"addmm", "mm", "bmm", "linear", "convolution"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both_formats(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)


class Types(TorchDispatchMode):
    """Notes the types of the floating-point arguments of every operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[tuple[torch.dtype, ...]]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        given = tuple(
            one.dtype for one in args if isinstance(one, torch.Tensor) and one.is_floating_point()
        )
        self.seen.setdefault(func.__name__.partition(".")[0], set()).add(given)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", HALVES)
def test_what_is_float32_in_the_onnx_file_is_float32_here(precision: str) -> None:
    dtype = HALVES[precision]
    half = in_dtype(tiny_detector().slice(ARCH), dtype)
    with torch.no_grad(), Types() as types:
        top_k(half(torch.from_numpy(images(1)).to(dtype)), ARCH.queries)
    for name in EXACT:
        assert types.seen[name] == {(torch.float32,)}, name
    for name in PRODUCTS & set(types.seen):
        assert {kind for kinds in types.seen[name] for kind in kinds} == {dtype}, name
    assert set(types.seen) >= {"addmm", "convolution"}
    # value; offsets, reference boxes, logits
    (attended,) = types.seen["ms_deform_attn_fused"]
    assert attended == (dtype, torch.float32, torch.float32, torch.float32)


@pytest.mark.parametrize("precision", HALVES)
def test_detections_are_those_of_float32(both: Both, precision: str) -> None:
    session = open_session(computed_in(both.torch, precision), "torch", threads=1)
    check_against(both.subnet, session, images(3), CLOSE)
    assert session.artifact_id.precision == precision
    assert session.artifact_id.sha256 == both.torch.sha256
    assert "float32=boxes,positions,sampling,scores" in session.artifact_id.options
    found = session.run(images(1))
    exact = TorchSession(both.torch, 1).run(images(1))
    for got, want in zip(found, exact, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
    assert not np.array_equal(found.scores, exact.scores)  # computed in another precision


def test_float16_agrees_with_onnx_runtime_in_float16(both: Both, tmp_path: Path) -> None:
    """Two programs in the same precision differ by no more than each differs from float32."""
    ours = open_session(computed_in(both.torch, "fp16"), "torch", threads=1).run(images(1))
    theirs = OrtSession(half_artifact(both.onnx, tmp_path / "half.onnx"), 1).run(images(1))
    np.testing.assert_allclose(np.sort(ours.scores), np.sort(theirs.scores), atol=2e-3)


def test_float32_boxes_survive_bfloat16(both: Both) -> None:
    """A box far from 0 keeps the digits that bfloat16 lacks there."""
    half = in_dtype(both.subnet, torch.bfloat16)
    with torch.inference_mode():
        boxes = half(torch.from_numpy(images(1)).bfloat16()).boxes_cxcywh
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())
    assert half.decoder.refpoint_embed.dtype == torch.float32


def broken(subnet: Detector, change: str) -> Detector:
    half = in_dtype(subnet, torch.float16)
    with torch.no_grad():
        if change == "overflow":
            half.projector.stages[0].norm.weight.fill_(6e4)
        elif change == "boxes":
            half.bbox_embed.layers[-1].bias.add_(0.5)
        elif change == "scores":
            half.class_embed.bias.add_(0.2)
        elif change == "masks":
            assert half.mask_head is not None
            half.mask_head.bias.add_(10)
        elif change == "choice":
            half.selection.class_embed.weight.neg_()
    return half


@pytest.mark.parametrize("change", ["overflow", "boxes", "scores", "masks", "choice"])
def test_a_half_that_disagrees_is_refused(change: str) -> None:
    subnet = tiny_detector().slice(ARCH)
    subnet.selection.class_embed.bias.data.zero_()  # confidences of tokens differ
    check_half(subnet, in_dtype(subnet, torch.float16), ALLOWED["fp16"], "m")
    with pytest.raises(StatedFailure, match="^m disagrees with float32: .*queries agree") as caught:
        check_half(subnet, broken(subnet, change), ALLOWED["fp16"], "m")
    assert "\n" not in str(caught.value)


def test_weights_beyond_the_range_of_float16() -> None:
    subnet = tiny_detector().slice(ARCH)
    with torch.no_grad():
        subnet.class_embed.weight[0, 0] = 1e5
    with pytest.raises(InputError, match="class_embed.weight has values beyond the range of float"):
        in_precision(subnet, "fp16", "m.safetensors")
    assert in_precision(subnet, "fp32") is subnet


def test_other_precisions_and_formats_are_refused(both: Both) -> None:
    with pytest.raises(InputError, match="torch does not compute this file in int8"):
        marked = replace(both.torch.manifest, precision="int8")
        open_session(replace(both.torch, manifest=marked), "torch")
    with pytest.raises(InputError, match="choose torch or torch-graph"):
        open_session(computed_in(both.torch, "bf16"), "onnxruntime")
    with pytest.raises(InputError, match="not onnx fp32 in fp16"):
        computed_in(both.onnx, "fp16")
    with pytest.raises(InputError, match="not torch bf16 in fp16"):
        computed_in(computed_in(both.torch, "bf16"), "fp16")


def test_the_benchmark_measures_all_three(
    both: Both, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rfdetr_repro.bench.command.run import main
    from rfdetr_repro.records.store import Store

    out = tmp_path / "out.jsonl"
    few = ["--quick", "--samples", "3", "--buffer-ms", "0", "--builds", "1", "--out", str(out)]
    what = ["--model", str(both.torch.path), "--backend", "torch"]
    assert run_main(main, [*what, "--precision", "fp32,fp16,bf16", *few]) == 0, (
        capsys.readouterr().err
    )
    records = Store(out).read()
    assert {record.artifact.precision for record in records} == {"fp32", "fp16", "bf16"}
    assert {record.artifact.sha256 for record in records} == {both.torch.sha256}
    assert not (tmp_path / "fp16").exists()  # the file itself is measured
    refused = [
        ["--backend", "torch,openvino"],
        ["--backend", "torch,torch-graph", "--cuda-graph", "both"],
        ["--backend", "torch", "--precision", "int8"],
    ]
    for more in refused:
        assert run_main(main, [*what[:2], *more, *few]) == 2
    told = capsys.readouterr().err
    assert "because they run the same files" in told and "--backend names several" in told
    assert "a file of the format torch cannot be converted to int8" in told


@pytest.mark.gpu
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("backend", ["torch", "torch-graph"])
def test_on_a_gpu(both: Both, precision: str, backend: str) -> None:
    session = open_session(computed_in(both.torch, precision), backend)
    check_against(both.subnet, session, images(3), CLOSE)
    assert session.artifact_id.precision == precision
    assert "tf32=no" in session.artifact_id.options
    assert session.gpu_ms is not None and session.gpu_ms > 0
    first = session.run(images(1))
    session.run(1 - images(1))
    again = session.run(images(1))
    assert np.array_equal(first.boxes_xyxy, again.boxes_xyxy)
    assert np.array_equal(first.scores, again.scores)
