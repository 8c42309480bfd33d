"""Every kind of backbone in an ONNX file: equal to the detector in PyTorch, with one image and with
any number, in float32 and float16, and with operations as PyTorch counts them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from samples_backbones import FIELDS, small, small_detector
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rfdetr_repro.data.network_input import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_repro.export.artifact import ArtifactMeta, Manifest, load_artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.torch import export_torch
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.records.record import ModelId, Record
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.runtime.torch import TorchSession
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.flops import total_flops

META = ArtifactMeta(
    ModelId("rfdetr", "tiny", weights="random"),
    tuple(f"class {index}" for index in range(18)),
    tuple(range(18)),
)


def archs_of(kind: str) -> list[Arch]:
    if kind == "convnext":  # an odd grid, of which the last stage has half, rounded up
        return [Arch(64, 16, 1, 2, 10), Arch(60, 12, 1, 1, 7), Arch(60, 20, 1, 0, 5, 100)]
    return [Arch(64, 16, 2, 2, 10), Arch(60, 12, 1, 1, 7), Arch(40, 10, 2, 0, 5, 60)]


def pictures(arch: Arch, count: int) -> np.ndarray:
    shape = (count, 3, *arch.input_hw)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def normalised(images: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.from_numpy(images) - mean) / std


@pytest.mark.parametrize("kind", FIELDS)
@torch.no_grad()
def test_the_file_equals_the_detector(kind: str, tmp_path: Path) -> None:
    detector = small_detector(kind)
    for arch in archs_of(kind):
        artifact = export_onnx(detector.slice(arch), tmp_path / f"{arch.key}.onnx", meta=META)
        images = pictures(arch, 1)
        found = OrtSession(artifact, threads=1).run(images)
        expected = top_k(detector(normalised(images), arch), found.scores.shape[1])
        assert np.allclose(found.scores, expected.scores.numpy(), atol=1e-5), arch.key
        assert np.array_equal(found.labels, expected.labels.numpy()), arch.key
        assert np.allclose(found.boxes_xyxy, expected.boxes_xyxy.numpy(), atol=1e-4), arch.key
        assert np.allclose(found.masks, expected.mask_logits.numpy(), atol=1e-3), arch.key


@pytest.mark.parametrize("kind", FIELDS)
def test_a_file_for_any_number_of_images_equals_one_at_a_time(kind: str, tmp_path: Path) -> None:
    arch = archs_of(kind)[1]
    subnet = small_detector(kind).slice(arch)
    opened, alone = (
        OrtSession(export_onnx(subnet, tmp_path / f"{batch}.onnx", meta=META, batch=batch), 1)
        for batch in ("dynamic", 1)
    )
    images = pictures(arch, 3)
    together = opened.run(images)
    for index in range(3):
        single = alone.run(images[index : index + 1])
        for whole, part in zip(together, single, strict=True):
            assert np.allclose(whole[index], part[0], atol=1e-5)


@pytest.mark.parametrize("kind", FIELDS)
def test_half_precision_stays_near(kind: str, tmp_path: Path) -> None:
    arch = archs_of(kind)[0]
    subnet = small_detector(kind).slice(arch)
    whole, half = (
        export_onnx(subnet, tmp_path / f"{name}.onnx", meta=META, precision=name)
        for name in ("fp32", "fp16")
    )
    images = pictures(arch, 1)
    scores = [np.sort(OrtSession(one, threads=1).run(images).scores) for one in (whole, half)]
    assert np.abs(scores[0] - scores[1]).max() < 0.02
    assert half.path.stat().st_size < 0.75 * whole.path.stat().st_size


@pytest.mark.parametrize("kind", FIELDS)
def test_operations_are_those_that_pytorch_counts(kind: str) -> None:
    """The formula against PyTorch's count of one forward pass of the sliced subnet."""
    for arch in archs_of(kind):
        model = small(kind, masks=False).model
        fit = replace(model, groups=1, patch=arch.patch, pos_grid=arch.grid_hw)
        with torch.device("meta"):
            subnet = Detector(replace(fit, queries=arch.queries), arch).eval()
            images = torch.empty(1, 3, *arch.input_hw)
        with (
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):
            subnet(images)
        assert counter.get_total_flops() == total_flops(model, arch), arch.key


def test_constants_of_positions_are_folded(tmp_path: Path) -> None:
    """The angles of rotary positions do not depend on the picture, so the graph holds no sine."""
    subnet = small_detector("dinov3").slice(Arch(64, 16, 2, 2, 10))
    artifact = export_onnx(subnet, tmp_path / "m.onnx", meta=META)
    operators = {node.op_type for node in onnx.load(artifact.path).graph.node}
    # the decoder's positions of queries depend on the picture
    plain = export_onnx(
        small_detector("dinov2").slice(Arch(64, 16, 2, 2, 10)), tmp_path / "p.onnx", meta=META
    )
    sines = [
        sum(node.op_type == "Sin" for node in onnx.load(one.path).graph.node)
        for one in (artifact, plain)
    ]
    assert sines[0] == sines[1] and "Pad" not in operators


@pytest.mark.parametrize("kind", FIELDS)
def test_the_manifest_names_the_backbone_and_refuses_an_unknown_one(
    kind: str, tmp_path: Path
) -> None:
    subnet = small_detector(kind).slice(archs_of(kind)[0])
    artifact = export_onnx(subnet, tmp_path / "m.onnx", meta=META)
    stated = json.loads(artifact.manifest.to_json())["model"]
    plain = kind == "dinov2"
    assert stated.get("backbone") == (None if plain else subnet.config.backbone)
    assert "backbone" in stated or plain
    again = load_artifact(artifact.path).manifest
    assert again == artifact.manifest
    content = json.loads(artifact.manifest.to_json())
    content["model"]["backbone"] = "dinov9"
    with pytest.raises(InputError, match="unknown backbone 'dinov9'"):
        Manifest.from_json(content, "m.json")
    record = Record("cost", artifact.manifest.model, cost=artifact.manifest.cost)
    assert Record.from_json(record.to_json()).model.backbone == stated.get("backbone")
    with pytest.raises(InputError, match="unknown backbone"):
        replace(record, model=replace(record.model, backbone="dinov9"))


@pytest.mark.parametrize("kind", FIELDS)
@torch.no_grad()
def test_the_artifact_for_pytorch_equals_the_detector(kind: str, tmp_path: Path) -> None:
    detector = small_detector(kind)
    arch = archs_of(kind)[1]
    artifact = export_torch(detector.slice(arch), tmp_path / "m.safetensors", meta=META)
    images = pictures(arch, 2)
    found = TorchSession(artifact).run(images[:1])
    expected = top_k(detector(normalised(images[:1]), arch), found.scores.shape[1])
    assert np.allclose(found.scores, expected.scores.numpy(), atol=1e-5)
    assert np.allclose(found.boxes_xyxy, expected.boxes_xyxy.numpy(), atol=1e-4)
