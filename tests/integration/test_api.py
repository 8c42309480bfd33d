"""The Python interface and the predict command: pictures of every kind in, detections with the
data's own ids out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from samples_coco import CATEGORIES, picture, random_document, write_folder
from tiny import TINY, TRAIN, tiny_detector

import rfdetr_repro
from rfdetr_repro import predict as predict_command
from rfdetr_repro.api import RFDETR
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.data.segmentation import decode_mask
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import with_classes
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import Labels
from rfdetr_repro.spec.presets import PRESETS

NAMES = tuple(name for _, name in CATEGORIES)
IDS = tuple(key for key, _ in CATEGORIES)
SETTINGS = {
    name: getattr(TRAIN, name)
    for name in ("beta2", "dense_weight", "crop_probability", "checkpoint_every")
}


@pytest.fixture
def model(tmp_path: Path) -> RFDETR:
    """A tiny trained-looking model of three classes whose ids have holes, read from its file."""
    detector = with_classes(tiny_detector(), Labels(NAMES, IDS))
    save_detector(
        tmp_path / "tiny.safetensors",
        detector.state_dict(),
        ModelCard(detector.config, detector.arch, NAMES, IDS),
    )
    return RFDETR(tmp_path / "tiny.safetensors")


# -- prediction ------------------------------------------------------------------------------------


def test_predict_gives_supervision_detections_with_original_ids(model: RFDETR) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = model.predict(picture(), threshold=0.01)
    assert isinstance(found, supervision.Detections) and 0 < len(found) <= model.card.arch.queries
    assert set(found.class_id.tolist()) <= set(IDS)
    assert [model.class_names[key] for key in found.class_id] == list(found.data["class_name"])
    assert found.mask.dtype == bool and found.mask.shape == (len(found), 40, 60)
    assert (
        (found.xyxy >= 0).all()
        and (found.xyxy[:, 2] <= 60).all()
        and (np.diff(found.confidence) <= 0).all()
    )
    several = model.predict([picture(), picture(30, 80, 1)], threshold=0.01)
    assert np.allclose(several[0].xyxy, found.xyxy, atol=1e-3) and several[1].mask.shape[1:] == (
        30,
        80,
    )
    batch = torch.from_numpy(np.stack([picture(), picture(seed=2)])).permute(0, 3, 1, 2)
    assert len(model.predict(batch, threshold=0.0)) == 2
    assert len(model.predict(picture(), threshold=1.0)) == 0


def test_threshold_only_leaves_out(model: RFDETR) -> None:
    everything, some = (model.detect([picture()], threshold)[0] for threshold in (0.0, 0.02))
    kept = int((everything.scores >= 0.02).sum())
    assert np.array_equal(everything.scores[:kept], some.scores) and np.array_equal(
        everything.boxes_xyxy[:kept], some.boxes_xyxy
    )
    assert np.array_equal(everything.masks[:kept], some.masks)
    with pytest.raises(InputError, match="0..1"):
        model.detect([picture()], 1.5)


def test_zero_decoder_layers_predict(model: RFDETR, tmp_path: Path) -> None:
    shallow = RFDETR(tmp_path / "tiny.safetensors", arch="r64-p16-w1-d0-q10")
    assert (
        shallow.card.config.decoder_layers == 0
        and len(shallow.detect([picture()], 0.0)[0].scores) == 10
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_on_the_cpu(model: RFDETR, dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        outputs = model.detector(images)
    assert (
        outputs.logits.isfinite().all()
        and outputs.boxes_cxcywh.isfinite().all()
        and outputs.mask_logits.isfinite().all()
    )


# -- evaluation, export, files ---------------------------------------------------------------------


def test_evaluate_counts_everything(model: RFDETR, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", random_document(3), "val")
    metrics = model.evaluate(folder, "val")
    assert 0 <= metrics["boxes"].ap50 <= 1 and metrics["masks"] is not None
    document = random_document(3)
    document["categories"][0]["name"] = "lorry"
    with pytest.raises(InputError, match="lacks 1 category"):
        model.evaluate(write_folder(tmp_path / "other", document, "val"), "val")


def test_rectangular_inputs(model: RFDETR, tmp_path: Path) -> None:
    """The model's own shape is square: another is used for one call, exported, and refused where it
    does not divide.
    """
    square = model.detect([picture()], 0.0)[0]
    wide = model.detect([picture()], 0.0, shape=(64, 96))[0]
    assert len(wide.scores) == len(square.scores) and not np.allclose(
        wide.boxes_xyxy, square.boxes_xyxy
    )
    assert wide.masks.shape[1:] == (40, 60) and (wide.boxes_xyxy[:, 2] <= 60).all()
    session = OrtSession(model.export(tmp_path / "wide.onnx", shape=(64, 96)))
    assert session.manifest.input_hw == (64, 96) and session.manifest.model.arch == Arch(
        64, 16, 1, 2, 10, 96
    )
    found = session.run(network_input([picture()], (64, 96)))
    assert np.allclose(found.scores[0], wide.scores, atol=1e-5)
    folder = write_folder(tmp_path / "data", random_document(3), "val")
    assert model.evaluate(folder, "val", shape=(64, 96))["boxes"] is not None
    with pytest.raises(InputError, match="the nearest is 64x96"):
        model.evaluate(folder, "val", shape=(64, 99))
    for shape in ((64, 100), (0, 64)):
        with pytest.raises(InputError, match="not divisible by patch x windows = 16"):
            model.detect([picture()], shape=shape)
    for shape in ((64, 64, 3), (64.9, 96.7), ("64", "96"), 640, (64, None)):
        with pytest.raises(InputError, match="is not .height, width. in whole px"):
            model.detect([picture()], shape=shape)
    for name, message in (
        ("tpu", "unknown device"),
        ("meta", "no device"),
        ("cuda:77", "no device"),
    ):
        with pytest.raises(InputError, match=message):
            RFDETR(tmp_path / "tiny.safetensors", device=name)


@pytest.mark.parametrize("name", ["again.pth", "again.safetensors"])
def test_training_at_a_rectangle_is_kept_in_every_file(
    name: str, small_world: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "data", random_document(1, images=4), "train")
    model = RFDETR("tiny")
    settings = {
        "epochs": 1,
        "batch_size": 2,
        "grad_accum_steps": 1,
        "output_dir": tmp_path / "run",
        **SETTINGS,
    }
    model.train(folder, shape=(48, 96), **settings)
    assert model.card.arch.input_hw == (48, 96)
    model.save(tmp_path / name)
    again = RFDETR(tmp_path / name)
    assert again.card.arch == model.card.arch
    assert np.array_equal(
        again.detect([picture()], 0.0)[0].boxes_xyxy, model.detect([picture()], 0.0)[0].boxes_xyxy
    )
    predict_command.main([*_command(tmp_path, tmp_path / name), "--shape", "96x48"])
    with pytest.raises(InputError, match="the nearest is 48x96"):
        predict_command.main([*_command(tmp_path, tmp_path / name), "--shape", "50x90"])
    with pytest.raises(InputError, match="another --out|other data or settings"):
        RFDETR("tiny").train(folder, shape=(96, 48), **settings)
    sliced = RFDETR(tmp_path / name, arch="r48x96-p12-w1-d1-q5")
    with pytest.raises(InputError, match="square position tables"):
        sliced.save(tmp_path / "sliced.pth")


def _command(folder: Path, checkpoint: Path) -> list[str]:
    """Arguments of the predict command for one picture."""
    Image.fromarray(picture()).save(folder / "street.png")
    command = [str(folder / "street.png"), "--checkpoint", str(checkpoint), "--threshold", "0.01"]
    return [*command, "--out", str(folder / "out")]


def test_upstream_contract_gives_raw_outputs(model: RFDETR, tmp_path: Path) -> None:
    artifact = model.export(tmp_path / "upstream.onnx", contract="upstream")
    session = onnxruntime.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["input"]
    assert [item.name for item in session.get_outputs()] == ["dets", "labels", "masks"]
    images = torch.randn(1, 3, 64, 64)
    dets, logits, masks = session.run(None, {"input": images.numpy()})
    with torch.inference_mode():
        expected = model.detector(images)
    assert np.allclose(dets, expected.boxes_cxcywh, atol=1e-5) and np.allclose(
        logits, expected.logits, atol=1e-4
    )
    assert np.allclose(masks, expected.mask_logits.detach(), atol=1e-3)
    with pytest.raises(InputError, match="decoded contract"):
        OrtSession(artifact)
    with pytest.raises(InputError, match="unknown contract"):
        model.export(tmp_path / "x.onnx", contract="mine")
    assert OrtSession(model.export(tmp_path / "decoded.onnx")).manifest.category_ids == IDS


@pytest.mark.parametrize("name", ["again.pth", "again.safetensors"])
def test_saved_models_are_read_back(model: RFDETR, tmp_path: Path, name: str) -> None:
    model.save(tmp_path / name)
    again = RFDETR(tmp_path / name)
    assert again.class_names == model.class_names
    assert np.array_equal(
        again.detect([picture()], 0.0)[0].boxes_xyxy, model.detect([picture()], 0.0)[0].boxes_xyxy
    )


def test_what_cannot_be_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a size, a file or a run"):
        RFDETR("enormous")
    with pytest.raises(InputError, match="absent.pth"):
        RFDETR("nano", weights=tmp_path / "absent.pth")
    with pytest.raises(AttributeError, match="nothing"):
        _ = rfdetr_repro.nothing
    assert rfdetr_repro.RFDETR is RFDETR


# -- training --------------------------------------------------------------------------------------


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setitem(
        PRESETS, "tiny-boxes", replace(TINY, model=replace(TINY.model, masks=False))
    )
    return


def test_train_then_predict_then_resume(
    small_world: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "data", random_document(1, images=8), "train")
    write_folder(folder, random_document(2), "valid", roboflow=True)
    model = RFDETR("tiny")
    assert "random weights" in capsys.readouterr().out
    with pytest.raises(InputError, match="random weights"):
        model.evaluate(folder)
    path = model.train(
        folder,
        epochs=2,
        batch_size=2,
        grad_accum_steps=2,
        lr=1e-3,
        output_dir=tmp_path / "run",
        **SETTINGS,
    )
    printed = capsys.readouterr().out
    assert (
        "0 = car (id 3), 1 = cat (id 17), 2 = toothbrush (id 90)" in printed
        and "val box AP" in printed
    )
    assert (
        "2 epochs of 5 steps of 2 x 2 images; 8 images are fewer than 5 steps" in printed
        and "best: step" in printed
    )
    assert model.class_names == dict(CATEGORIES) and model.card.steps in (5, 10)
    again = RFDETR(tmp_path / "run")
    assert (
        torch.equal(again.detector.class_embed.weight, model.detector.class_embed.weight)
        and path.parent == tmp_path / "run"
    )
    with pytest.raises(InputError, match="holds a run"):
        RFDETR("tiny").train(folder, epochs=2, output_dir=tmp_path / "run", resume=False)
    with pytest.raises(InputError, match="nothing to resume"):
        RFDETR("tiny").train(folder, epochs=2, resume=tmp_path / "elsewhere")
    resumed = RFDETR("tiny")
    # done already: reads it
    resumed.train(folder, 2, 2, 2, 1e-3, resume=tmp_path / "run", **SETTINGS)
    assert torch.equal(resumed.detector.class_embed.weight, model.detector.class_embed.weight)


def test_train_refuses_what_cannot_work(
    small_world: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = random_document(1)
    folder = write_folder(tmp_path / "data", document, "train")
    with pytest.raises(InputError, match="epochs 0 is not positive"):
        RFDETR("tiny").train(folder, epochs=0, output_dir=tmp_path / "run")
    with pytest.raises(InputError, match="unknown setting learning_rate; did you mean"):
        RFDETR("tiny").train(folder, output_dir=tmp_path / "run", learning_rate=1.0)
    for entry in document["annotations"]:
        del entry["segmentation"]
    with pytest.raises(InputError, match="predicts masks"):
        RFDETR("tiny").train(
            write_folder(tmp_path / "boxes", document, "train"), output_dir=tmp_path / "run"
        )


@pytest.mark.parametrize("kind", ["one class", "two thousand objects"])
def test_unusual_data_sets_train(
    kind: str, small_world: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = random_document(1, images=4)
    if kind == "one class":
        document["categories"] = document["categories"][:1]
        document["annotations"] = [
            entry for entry in document["annotations"] if entry["category_id"] == CATEGORIES[0][0]
        ]
    else:
        first = document["annotations"][0]
        rng = np.random.default_rng(0)
        document["annotations"] = [
            {
                **first,
                "id": n + 1,
                "iscrowd": 0,
                "bbox": [*rng.uniform(0, 40, 2).tolist(), 5.0, 5.0],
            }
            for n in range(2000)
        ]
    folder = write_folder(tmp_path / "data", document, "train")
    model = RFDETR("tiny-boxes")
    model.train(
        folder, epochs=1, batch_size=2, grad_accum_steps=1, output_dir=tmp_path / "run", **SETTINGS
    )
    printed = capsys.readouterr().out
    assert ("an image has 2000 objects" in printed) == (kind == "two thousand objects")
    assert model.detector.config.num_classes == len(document["categories"])


def test_a_train_split_without_objects_is_refused(small_world: None, tmp_path: Path) -> None:
    document = {**random_document(1, images=4), "annotations": []}
    with pytest.raises(InputError, match="no usable object in the train split of 4 images"):
        RFDETR("tiny-boxes").train(
            write_folder(tmp_path / "data", document, "train"),
            epochs=1,
            output_dir=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


# -- the command -----------------------------------------------------------------------------------


def test_predict_command_writes_pictures_and_masks(
    model: RFDETR, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_command.main(_command(tmp_path, tmp_path / "tiny.safetensors"))
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (
        entry["image"] == "street.png"
        and entry["objects"]
        and (tmp_path / "out" / "street.png").stat().st_size > 1000
    )
    first = entry["objects"][0]
    assert first["category_id"] in IDS and decode_mask(first["mask_rle"], 40, 60).shape == (40, 60)
