"""ONNX export: equal to PyTorch over the corners of a space, static standard ONNX, deterministic
bytes.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from samples_export import ARCH, CONFIG, Altered, images, meta, tiny_artifact, tiny_detector
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rfdetr_repro.export.onnx.exporter import export_onnx, fold_normalisation
from rfdetr_repro.export.onnx.trace import TraceError
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.runtime.agreement import Tolerance, check_against
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

STRICT = Tolerance(box=1e-4, score=1e-4, mask_logit=1e-4, matched=1.0)
CORNERS = [
    ARCH,
    Arch(32, 8, 2, 1, 3),
    Arch(48, 12, 2, 2, 8),
    Arch(32, 16, 1, 0, 2),
    Arch(40, 8, 1, 0, 8),
    Arch(32, 8, 2, 2, 8, 64),
]


@pytest.mark.parametrize("arch", CORNERS, ids=lambda arch: arch.key)
def test_agrees_with_pytorch(arch: Arch, tmp_path: Path) -> None:
    detector = tiny_detector()
    session = OrtSession(tiny_artifact(tmp_path, detector, arch), threads=1)
    agreement = check_against(detector.slice(arch), session, images(3, *arch.input_hw), STRICT)
    assert agreement.num_detections == 3 * arch.queries
    assert agreement.mask_logit is not None


def test_agrees_without_masks_and_layer_scale(tmp_path: Path) -> None:
    detector = tiny_detector(masks=False, layer_scale=False)
    session = OrtSession(tiny_artifact(tmp_path, detector), threads=1)
    assert check_against(detector.slice(ARCH), session, images(), STRICT).mask_logit is None
    assert session.run(images(1)).masks is None


def test_outputs_are_named_typed_and_static(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    shapes = {spec.name: (spec.shape, spec.dtype) for spec in artifact.manifest.outputs}
    assert shapes == {
        "scores": ((1, 8), "float32"),
        "labels": ((1, 8), "int64"),
        "boxes": ((1, 8, 4), "float32"),
        "masks": ((1, 8, 8, 8), "float32"),
    }
    found = OrtSession(artifact, threads=1).run(images(1))
    assert (
        (found.scores[0, :-1] >= found.scores[0, 1:]).all()
        and 0 < found.scores.min()
        and found.scores.max() < 1
    )
    assert found.labels.min() >= 0 and found.labels.max() < CONFIG.num_classes
    for (name, (shape, dtype)), array in zip(shapes.items(), found, strict=True):
        assert array.shape == shape and array.dtype == dtype, name


def test_graph_is_standard_and_static(tmp_path: Path) -> None:
    model = onnx.load(tiny_artifact(tmp_path).path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert {"LayerNormalization", "GridSample", "TopK"} <= kinds
    assert not kinds & {"If", "Loop", "NonZero", "Shape", "Identity"}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim), value.name
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_bytes_depend_on_the_weights_alone(tmp_path: Path) -> None:
    first = tiny_artifact(tmp_path / "a" / "some" / "folder")
    again = tiny_artifact(tmp_path / "b")
    other = tiny_artifact(tmp_path / "c", tiny_detector(seed=1))
    assert first.sha256 == again.sha256 != other.sha256
    content = first.path.read_bytes()
    for path in (str(tmp_path), str(Path(__file__).resolve().parents[2]), "site-packages", ".py"):
        assert path.encode() not in content
    model = onnx.load(first.path)
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_the_subnet_is_not_changed(tmp_path: Path) -> None:
    subnet = tiny_detector().slice(ARCH)
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    export_onnx(subnet, tmp_path / "m.onnx", meta=meta())
    assert all(torch.equal(tensor, before[name]) for name, tensor in subnet.state_dict().items())


def test_flops_are_those_of_pytorch(tmp_path: Path) -> None:
    """Matrix products, attention and convolutions, as FlopCounterMode counts them where attention
    is not fused.

    Less the values of the first self-attention: they come from the learned content alone and are
    folded into a constant.
    """
    subnet = tiny_detector().slice(ARCH).requires_grad_(False)
    artifact = export_onnx(subnet, tmp_path / "m.onnx", meta=meta())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        top_k(subnet(torch.zeros(1, 3, 32, 32)), ARCH.queries)
    folded = 2 * ARCH.queries * CONFIG.hidden**2
    assert artifact.manifest.flops == counter.get_total_flops() - folded
    assert artifact.manifest.params == subnet.num_params()


def test_normalisation_lost_is_noticed(tmp_path: Path) -> None:
    """The tolerance of the agreement is tight enough to see a wrong input scale."""
    subnet = tiny_detector().slice(ARCH)
    session = OrtSession(export_onnx(subnet, tmp_path / "m.onnx", meta=meta()), threads=1)
    shifted = Altered(session, lambda found: found)
    shifted.run = lambda image: session.run(image * 0.9)  # type: ignore[method-assign]
    with pytest.raises(Exception, match="disagrees with PyTorch"):
        check_against(subnet, shifted, images(), STRICT)


def test_a_model_without_patch_embedding_is_refused() -> None:
    with pytest.raises(TraceError, match="patch embedding"):
        fold_normalisation(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_classes_must_fit_the_head(tmp_path: Path) -> None:
    wrong = meta().__class__(meta().model, ("car",), (3,))
    with pytest.raises(InputError, match="1 names and 1 category ids for 3 classes"):
        export_onnx(tiny_detector().slice(ARCH), tmp_path / "m.onnx", meta=wrong)
    assert not list(tmp_path.iterdir())
