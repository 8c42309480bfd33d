"""Files for several images at once: equal to one image at a time by ONNX Runtime, for every
consumer of an artifact; and graphs whose batch cannot be opened are refused.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from samples_coco import random_document, write_folder
from samples_export import ARCH, images, meta, tiny_detector

from rfdetr_repro.bench.accuracy import accuracy_of, audit_feeds, detect_split
from rfdetr_repro.bench.scopes import example_input, timed_call
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.export.artifact import OPEN_BATCH, Artifact, Manifest, load_artifact
from rfdetr_repro.export.half import audited_half
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.onnx.open_batch import RECORDED, with_open_batch
from rfdetr_repro.export.onnx.trace import TraceError
from rfdetr_repro.export.torch import export_torch
from rfdetr_repro.export.trial import tried
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.runtime.torch import TorchSession
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

ARCHS = [ARCH, Arch(32, 8, 2, 1, 3), Arch(40, 8, 1, 0, 8), Arch(48, 12, 2, 2, 8)]


def exported(folder: Path, batch: int | str, arch: Arch = ARCH, **changes: object) -> Artifact:
    subnet = tiny_detector(**changes).slice(arch)
    return export_onnx(subnet, folder / f"batch-{batch}.onnx", meta=meta(), batch=batch)


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.key)
@pytest.mark.parametrize("batch", [OPEN_BATCH, 3])
def test_equal_to_one_image_at_a_time(batch: int | str, arch: Arch, tmp_path: Path) -> None:
    """The oracle is the fixed file, run by ONNX Runtime itself."""
    alone, together = (
        onnxruntime.InferenceSession(
            str(exported(tmp_path, count, arch).path), providers=["CPUExecutionProvider"]
        )
        for count in (1, batch)
    )
    sizes = (1, 2, 5) if batch == OPEN_BATCH else (3,)
    given = images(5, *arch.input_hw)
    expected = [alone.run(None, {"images": one[None]}) for one in given]
    for size in sizes:
        found = together.run(None, {"images": given[:size]})
        for name, part, *single in zip(
            ("scores", "labels", "boxes", "masks"), found, *expected[:size], strict=True
        ):
            wanted = np.concatenate(single)
            if name == "labels":
                assert np.array_equal(part, wanted)
            else:
                scale = max(1.0, float(np.abs(wanted).max()))
                assert np.abs(part - wanted).max() <= 1e-5 * scale, name


def test_the_file_and_its_manifest_state_the_batch(tmp_path: Path) -> None:
    opened, four, one = (exported(tmp_path, batch) for batch in (OPEN_BATCH, 4, 1))
    dims = onnx.load(opened.path).graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 3)
    assert json.loads((tmp_path / "batch-dynamic.json").read_text())["batch"] == "dynamic"
    assert load_artifact(opened.path).manifest == opened.manifest
    assert opened.manifest.inputs[0].shape == (1, 3, 32, 32)
    assert four.manifest.inputs[0].shape == (4, 3, 32, 32)
    assert four.manifest.outputs[0].shape == (4, 8)
    assert opened.manifest.flops == four.manifest.flops == one.manifest.flops, "of one image"
    assert [opened.manifest.takes(n) for n in (1, 7)] == [True, True]
    assert [four.manifest.takes(n) for n in (1, 4)] == [False, True]
    assert not {node.op_type for node in onnx.load(opened.path).graph.node} & {"If", "Loop", "Scan"}


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (exported(tmp_path / name, OPEN_BATCH) for name in ("a", "b"))
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("batch", [0, -1, 4097, True, 1.5, "many", ""])
def test_other_batches_are_refused(batch: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a number of images nor dynamic"):
        exported(tmp_path, batch)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"batch": 2}, {"batch": "some"}, {"batch": True}])
def test_a_manifest_with_another_batch_than_its_shapes_is_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = exported(tmp_path, 1).path.with_suffix(".json")
    fields = {**json.loads(path.read_text()), **change}
    with pytest.raises(InputError, match="not an artifact manifest"):
        Manifest.from_json(fields, path)


def test_a_manifest_without_a_batch_is_of_one_image(tmp_path: Path) -> None:
    path = exported(tmp_path, 1).path.with_suffix(".json")
    fields = json.loads(path.read_text())
    del fields["batch"]
    assert Manifest.from_json(fields, path).batch == 1


@pytest.fixture
def split(tmp_path: Path) -> CocoSplit:
    return read_split(write_folder(tmp_path / "data", random_document(0, images=5), "val"), "val")


@pytest.mark.parametrize("batch", [OPEN_BATCH, 2, 4, 8])
def test_accuracy_does_not_depend_on_the_batch(
    batch: int | str, split: CocoSplit, tmp_path: Path
) -> None:
    """Five images, so that the last run is not full."""
    one, other = (OrtSession(exported(tmp_path, count), threads=1) for count in (1, batch))
    expected, found = (detect_split(session, split) for session in (one, other))
    assert [each.image_id for each in found] == [each.image_id for each in expected]
    for mine, wanted in zip(found, expected, strict=True):
        assert np.array_equal(mine.labels, wanted.labels)
        np.testing.assert_allclose(mine.scores, wanted.scores, atol=1e-5)
        np.testing.assert_allclose(mine.boxes_xyxy, wanted.boxes_xyxy, atol=1e-2)
    aps = [accuracy_of(session, split)[0].ap for session in (one, other)]
    assert aps[0] == pytest.approx(aps[1], abs=1e-5)


@pytest.mark.parametrize("batch", [OPEN_BATCH, 3])
def test_other_numbers_of_images_are_refused_by_a_session(batch: int | str, tmp_path: Path) -> None:
    session = OrtSession(exported(tmp_path, batch), threads=1)
    assert session.run(images(3)).scores.shape == (3, 8)
    if batch == OPEN_BATCH:
        assert session.run(images(2)).boxes_xyxy.shape == (2, 8, 4)
        wrong = images(1)[:0]
    else:
        wrong = images(2)
    with pytest.raises(InputError, match="the artifact needs images float32"):
        session.run(wrong)
    first = session.run(images(3))
    assert np.array_equal(first.of_image(1).scores, first.scores[1:2])


def test_the_scopes_run_the_whole_batch(split: CocoSplit, tmp_path: Path) -> None:
    session = OrtSession(exported(tmp_path, OPEN_BATCH), threads=1)
    assert example_input(session, split, 7).shape == (7, 3, 32, 32)
    assert example_input(session, None, 7).shape == (7, 3, 32, 32)
    timed_call(session, "engine", split, 3)()
    assert session.outputs().scores.shape == (3, 8)
    assert timed_call(session, "device", split, 2)().scores.shape == (2, 8)
    assert [len(one) for one in timed_call(session, "host", split, 3)()] == [8, 8, 8]


@pytest.mark.parametrize("batch", [OPEN_BATCH, 2])
def test_float16_keeps_the_batch(batch: int | str, split: CocoSplit, tmp_path: Path) -> None:
    wide = exported(tmp_path, batch)
    half = audited_half(wide, tmp_path / "half.onnx", feeds=audit_feeds(wide, split))
    assert half.manifest.batch == batch and half.manifest.precision == "fp16"
    noise = audited_half(wide, tmp_path / "noise.onnx")  # the audit makes its own inputs
    for artifact in (half, noise):
        found = OrtSession(tried(artifact), threads=1).run(images(2))
        expected = OrtSession(wide, threads=1).run(images(2))
        assert np.abs(np.sort(found.scores) - np.sort(expected.scores)).max() < 2e-2


def test_pytorch_runs_any_batch(tmp_path: Path) -> None:
    subnet = tiny_detector().slice(ARCH)
    artifact = export_torch(subnet, tmp_path / "x.safetensors", meta=meta(), batch=OPEN_BATCH)
    session = TorchSession(artifact, threads=1)
    given = images(3)
    found = session.run(given)
    single = [session.run(one[None]).boxes_xyxy for one in given]
    np.testing.assert_allclose(found.boxes_xyxy, np.concatenate(single), atol=1e-5)
    fixed = export_torch(subnet, tmp_path / "y.safetensors", meta=meta(), batch=2)
    assert TorchSession(fixed, threads=1).run(images(2)).scores.shape == (2, 8)
    with pytest.raises(InputError, match=r"float32 \(2, 3, 32, 32\)"):
        TorchSession(fixed, threads=1).run(images(1))


def test_a_file_of_a_fixed_batch_with_a_manifest_of_any_is_refused(tmp_path: Path) -> None:
    artifact = exported(tmp_path, 1)
    lying = replace(artifact, manifest=replace(artifact.manifest, batch=OPEN_BATCH))
    with pytest.raises(InputError, match="manifest states|shape"):
        OrtSession(lying, threads=1)
    opened = exported(tmp_path, OPEN_BATCH)
    lying = replace(opened, manifest=replace(opened.manifest, batch=1))
    with pytest.raises(InputError, match="manifest states"):
        OrtSession(lying, threads=1)


# -- graphs that cannot be opened ------------------------------------------------------------------


def recorded(kind: str, batch: int) -> onnx.ModelProto:
    """A graph that is recorded with ``batch`` images, of two numbers each."""
    source = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 2])
    constants = {}
    if kind == "reshape":
        constants["c"] = np.array([2 * batch], np.int64)
        node, shape = helper.make_node("Reshape", ["images", "c"], ["y"]), [2 * batch]
    elif kind == "two sizes":
        constants["c"] = np.array([batch, 1, batch * 2 // batch], np.int64)
        constants["c"][1:] = [batch, 2 // 2]
        constants["c"] = np.array([1, batch, batch], np.int64)
        node, shape = helper.make_node("Reshape", ["images", "c"], ["y"]), [1, batch, batch]
    elif kind == "constant":
        constants["c"] = np.ones((batch, 2), np.float32)
        node, shape = helper.make_node("Add", ["images", "c"], ["y"]), [batch, 2]
    elif kind == "numbered":
        constants["c"] = np.arange(batch * 2, dtype=np.float32).reshape(batch, 2)
        node, shape = helper.make_node("Add", ["images", "c"], ["y"]), [batch, 2]
    elif kind == "expand":
        constants["c"] = np.array([3, batch, 2], np.int64)
        node, shape = helper.make_node("Expand", ["images", "c"], ["y"]), [3, batch, 2]
    else:
        node = helper.make_node("Concat", ["images"] * batch, ["y"], axis=0)
        shape = [batch * batch, 2]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "g", [source], [target], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ["reshape", "constant", "expand"])
def test_what_depends_on_the_batch_is_opened(kind: str) -> None:
    opened = with_open_batch(*(recorded(kind, batch) for batch in RECORDED))
    onnx.checker.check_model(opened, full_check=True)
    session = onnxruntime.InferenceSession(opened.SerializeToString())
    for batch in (1, 2, 3, 7):
        fixed = onnxruntime.InferenceSession(recorded(kind, batch).SerializeToString())
        given = np.random.default_rng(batch).random((batch, 2), dtype=np.float32)
        found, expected = (one.run(None, {"images": given})[0] for one in (session, fixed))
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["two sizes", "numbered", "inputs"])
def test_what_cannot_be_opened_is_an_error(kind: str) -> None:
    with pytest.raises((TraceError, ValueError), match="batch|shorter|longer"):
        with_open_batch(*(recorded(kind, batch) for batch in RECORDED))
