"""PyTorch artifacts: the file, and the session that runs it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from samples_backends import Both, both_formats, rewritten
from samples_export import ARCH, CATEGORY_IDS, NAMES, images, meta, tiny_detector

from rfdetr_repro.export.artifact import load_artifact
from rfdetr_repro.export.torch import FORMAT, export_torch
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.runtime.agreement import Tolerance, check_against
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.runtime.torch import TorchSession
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError, run_main

STRICT = Tolerance(box=1e-5, score=1e-5, mask_logit=1e-4, matched=1.0)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both_formats(tmp_path_factory.mktemp("artifact"))


def header(path: Path) -> dict:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_manifest_is_that_of_the_onnx_file(both: Both) -> None:
    """One model in two formats: all is equal but what says which file it is."""
    ours = load_artifact(both.torch.path).manifest
    other = load_artifact(both.onnx.path).manifest
    assert (ours.format, other.format) == (
        "torch",
        "onnx",
    ) and ours.size_bytes == both.torch.path.stat().st_size
    assert "inside the first convolution" in ours.normalisation
    own = {
        name: getattr(other, name)
        for name in ("sha256", "size_bytes", "format", "opset", "packages", "normalisation")
    }
    assert replace(ours, **own) == other
    assert ours.category_ids == CATEGORY_IDS and ours.class_names == NAMES


@pytest.mark.parametrize(
    "arch", [ARCH, Arch(48, 12, 2, 2, 8), Arch(32, 16, 1, 0, 2), Arch(32, 8, 2, 1, 3, 64)], ids=str
)
def test_agrees_with_the_subnet(arch: Arch, tmp_path: Path) -> None:
    subnet = tiny_detector().slice(arch)
    session = TorchSession(export_torch(subnet, tmp_path / "m.safetensors", meta=meta()), threads=1)
    check_against(subnet, session, images(2, *arch.input_hw), STRICT)


def test_agrees_with_onnx_runtime(both: Both) -> None:
    found = TorchSession(both.torch, 1).run(images(1))
    expected = OrtSession(both.onnx, 1).run(images(1))
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert np.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_without_masks(tmp_path: Path) -> None:
    subnet = tiny_detector(masks=False).slice(ARCH)
    artifact = export_torch(subnet, tmp_path / "m.safetensors", meta=meta())
    assert (
        TorchSession(artifact, 1).run(images(1)).masks is None
        and len(artifact.manifest.outputs) == 3
    )


def test_equal_weights_give_equal_bytes(both: Both, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in both.subnet.state_dict().items()}
    again = export_torch(both.subnet, tmp_path / "again.safetensors", meta=meta())
    assert again.sha256 == both.torch.sha256
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in both.subnet.state_dict().items()
    )
    # several would be written in any order
    assert list(header(again.path)["__metadata__"]) == [FORMAT]
    other = export_torch(
        tiny_detector(seed=1).slice(ARCH), tmp_path / "other.safetensors", meta=meta()
    )
    assert other.sha256 != both.torch.sha256


def test_files_of_one_name_keep_their_manifests(both: Both) -> None:
    assert (
        both.onnx.path.stem == both.torch.path.stem
        and both.onnx.path.parent == both.torch.path.parent
    )
    assert (
        load_artifact(both.onnx.path) == both.onnx and load_artifact(both.torch.path) == both.torch
    )
    both.torch.path.with_name(f"{both.torch.path.name}.json").rename(
        hidden := both.torch.path.with_name("hidden")
    )
    with pytest.raises(InputError, match="no manifest .*keep .*safetensors.json next to"):
        load_artifact(both.torch.path)
    hidden.rename(both.torch.path.with_name(f"{both.torch.path.name}.json"))


def test_it_is_no_checkpoint(both: Both) -> None:
    """Its first convolution takes other numbers than a checkpoint's."""
    with pytest.raises(InputError, match="this package did not write"):
        load_supernet(both.torch.path)


def test_threads_are_set(both: Both) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            session = TorchSession(both.torch, threads)
            seen = []
            session._subnet.register_forward_hook(
                lambda *_, seen=seen: seen.append(torch.get_num_threads())
            )
            torch.set_num_threads(3)
            session.run(images(1))
            # what others use is left as it was
            assert set(seen) == {threads} and torch.get_num_threads() == 3
            assert f"threads={threads} " in session.artifact_id.options
    finally:
        torch.set_num_threads(before)


def altered(both: Both, change: str) -> bytes:
    content = both.torch.path.read_bytes()
    tensors = load(content)
    metadata = header(both.torch.path)["__metadata__"]
    card = json.loads(metadata[FORMAT])
    if change == "half":
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    elif change == "no card":
        metadata = {"format": "pt"}
    elif change == "weight missing":
        tensors.pop("class_embed.weight")
    elif change == "weight of another shape":
        tensors["class_embed.weight"] = torch.zeros(2, 2)
    elif change == "another architecture":
        card["config"]["hidden"] = 32
        metadata = {FORMAT: json.dumps(card)}
    elif change == "unknown field":
        card["surprise"] = 1
        metadata = {FORMAT: json.dumps(card)}
    elif change == "pickle":
        return pickle.dumps(tensors)
    return save(tensors, metadata)


@pytest.mark.parametrize(
    "change",
    [
        "half",
        "no card",
        "weight missing",
        "weight of another shape",
        "another architecture",
        "unknown field",
        "pickle",
    ],
)
def test_files_that_are_no_subnets(both: Both, change: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="not a subnet that --to torch wrote .*export the model again"
    ) as caught:
        TorchSession(rewritten(both.torch, altered(both, change), tmp_path))
    assert "\n" not in str(caught.value)


def test_a_manifest_of_another_size(both: Both) -> None:
    manifest = both.torch.manifest
    wrong = replace(manifest, inputs=(replace(manifest.inputs[0], shape=(1, 3, 64, 64)),))
    with pytest.raises(
        InputError,
        match=r"inputs are images float32 \(1, 3, 32, 32\), and its manifest states images",
    ):
        TorchSession(replace(both.torch, manifest=wrong))


def test_exporter_refuses(both: Both, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot end in .onnx"):
        export_torch(both.subnet, tmp_path / "m.onnx", meta=meta())
    with pytest.raises(InputError, match="1 names and 1 category ids for 3 classes"):
        export_torch(
            both.subnet,
            tmp_path / "m.safetensors",
            meta=replace(meta(), class_names=("car",), category_ids=(3,)),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_on_a_gpu(both: Both, graph: bool) -> None:
    session = TorchSession(both.torch, graph=graph)
    check_against(both.subnet, session, images(3))
    assert session.artifact_id.runtime == f"torch-cuda-{'graph' if graph else 'eager'}"
    assert session.gpu_ms is not None and session.gpu_ms > 0
    first = session.run(images(1)).boxes_xyxy
    assert not np.array_equal(first, session.run(1 - images(1)).boxes_xyxy), (
        "the graph reads what is bound"
    )
    assert np.array_equal(first, session.run(images(1)).boxes_xyxy)


def test_our_models_by_name_run_in_pytorch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny import TINY

    from rfdetr_repro.bench import models as by_name
    from rfdetr_repro.bench.command.run import main
    from rfdetr_repro.records.store import Store

    classes = len(by_name.coco_labels().names)
    monkeypatch.setitem(
        by_name.PRESETS, "nano", replace(TINY, model=replace(TINY.model, num_classes=classes))
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # on the CPU wherever this runs
    out = tmp_path / "out.jsonl"
    few = ["--samples", "3", "--buffer-ms", "0", "--builds", "1", "--out", str(out)]
    for backend in ("onnxruntime", "torch"):
        assert run_main(main, ["--models", "rfdetr-nano", "--backend", backend, *few]) == 0, (
            capsys.readouterr().err
        )
    runtimes = [record.artifact.runtime for record in Store(out).read()]
    assert [name.split("-")[0] for name in runtimes] == ["onnxruntime", "torch"]
