"""Resize rules: the plain one is PyTorch's without antialiasing, each origin of weights has its
own, and every path obeys.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples_coco import random_document, write_folder
from samples_export import CATEGORY_IDS, NAMES, tiny_artifact, tiny_detector

from rfdetr_repro.api import RFDETR
from rfdetr_repro.bench.accuracy import detect_split
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.loader import evaluation_batches
from rfdetr_repro.data.network_input import (
    Letterbox,
    network_input,
    normalise,
)
from rfdetr_repro.data.transforms import make_batch
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import load_pretrained, save_released
from rfdetr_repro.runtime.session import OrtSession, identity_of
from rfdetr_repro.spec import resize_rules
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import (
    ANTIALIASED,
    LETTERBOX,
    PLAIN,
    PLAIN_LETTERBOX,
    rule_of_upstream,
    with_antialias,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width"), [(48, 64), (97, 131), (7, 5), (1, 1), (32, 32), (500, 33)]
)
@pytest.mark.parametrize("size_hw", [(32, 32), (24, 40), (1, 3)])
def test_plain_is_pytorchs_bilinear_without_antialiasing(
    height: int, width: int, size_hw: tuple[int, int]
) -> None:
    image = noise(height, width)
    # what upstream's predict resizes
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    expected = torch.nn.functional.interpolate(
        tensor, size_hw, mode="bilinear", align_corners=False, antialias=False
    )
    np.testing.assert_allclose(network_input([image], size_hw, PLAIN), expected.numpy(), atol=2e-5)


def test_antialiased_is_pillows_and_differs() -> None:
    image = noise(200, 300)
    expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR))
    found = 255 * network_input([image], (20, 30), ANTIALIASED)[0]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-4)
    assert np.abs(network_input([image], (20, 30), PLAIN)[0] - found / 255).mean() > 10 / 255


def test_plain_letterbox_is_plain_inside_and_grey_outside() -> None:
    image = noise(50, 100)
    rows, columns = Letterbox((50, 100), (64, 64)).inside
    (found,) = network_input([image], (64, 64), PLAIN_LETTERBOX)
    (plain,) = network_input([image], (rows.stop - rows.start, columns.stop - columns.start), PLAIN)
    assert np.array_equal(found[:, rows, columns], plain)
    assert (found[:, : rows.start] == np.float32(114) / np.float32(255)).all()


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InputError, match="unknown resize rule"):
        network_input([noise(4, 4)], (2, 2), "nearest")
    with pytest.raises(ValueError, match="antialiasing"):
        make_batch([], (32, 32), np.random.default_rng(0), resize=PLAIN)


@pytest.mark.parametrize(
    ("version", "rule"),
    [
        (None, ANTIALIASED),
        ("", ANTIALIASED),
        ("1.4.1", ANTIALIASED),
        ("1.7.0", ANTIALIASED),
        ("dev", ANTIALIASED),
        ("1.8.0", PLAIN),
        ("1.8.0rc1", PLAIN),
        ("1.9.1", PLAIN),
        ("1.11.2", PLAIN),
        ("2.0", PLAIN),
    ],
)
def test_the_rule_of_upstreams_files_is_by_their_version(version: str | None, rule: str) -> None:
    assert rule_of_upstream({"rfdetr_version": version}) == rule


def test_what_we_wrote_ourselves_comes_first() -> None:
    assert rule_of_upstream({"rfdetr_version": "1.11.2", "resize_rule": ANTIALIASED}) == ANTIALIASED
    assert rule_of_upstream({"resize_rule": "rm -rf", "rfdetr_version": "1.9.0"}) == PLAIN


def test_the_switch_keeps_the_aspect_ratio() -> None:
    assert [with_antialias(rule, None) for rule in resize_rules.RULES] == list(resize_rules.RULES)
    assert (
        with_antialias(LETTERBOX, False) == PLAIN_LETTERBOX
        and with_antialias(PLAIN, True) == ANTIALIASED
    )


def card(resize: str | None = None) -> ModelCard:
    detector = tiny_detector()
    return ModelCard(detector.config, detector.arch, NAMES, CATEGORY_IDS, resize=resize)


def test_cards_keep_the_rule_and_older_cards_have_none() -> None:
    assert ModelCard.from_json(card(PLAIN).to_json()).resize_rule == PLAIN
    text = card().to_json()
    assert "resize" not in json.loads(text) and ModelCard.from_json(text).resize_rule == ANTIALIASED


def released(path: Path, version: str | None, resize: str | None = None) -> Path:
    """A checkpoint in upstream's layout as one of its versions writes it, or as we do."""
    save_released(path, tiny_detector(), card(resize))
    content: dict[str, Any] = torch.load(path, weights_only=False)
    if version is not None:
        del content["args"].resize_rule
        content["rfdetr_version"] = version
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("version", "expected"), [("1.5.0", ANTIALIASED), ("1.9.0", PLAIN)])
def test_predict_evaluate_and_export_follow_the_checkpoint(
    version: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = released(tmp_path / "model.pth", version)
    model = RFDETR(path, device="cpu")
    assert (
        f"{'with' if expected == ANTIALIASED else 'without'} antialiasing"
        in capsys.readouterr().out
    )
    assert model.card.resize_rule == expected
    picture = noise(300, 400)
    other = RFDETR(path, device="cpu", antialias=expected != ANTIALIASED)
    (as_stated,), (as_asked,) = model.detect([picture], 0.0), other.detect([picture], 0.0)
    assert not np.array_equal(as_stated.scores, as_asked.scores)
    artifact = model.export(tmp_path / "model.onnx")
    assert artifact.manifest.resize == load_artifact(artifact.path).manifest.resize == expected
    assert other.export(tmp_path / "other.onnx").manifest.resize != expected
    # The artifact's own path sees the same pictures.
    document = random_document(3)
    split = read_split(write_folder(tmp_path / "data", document, "val"), "val")
    from_file = detect_split(OrtSession(artifact, threads=1), split)
    for one, two in zip(
        single_detections(model.detector, split, masks=False, resize=expected),
        from_file,
        strict=True,
    ):
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)


def test_our_own_files_are_antialiased_in_both_layouts(tmp_path: Path) -> None:
    assert load_pretrained(released(tmp_path / "ours.pth", None))[1].resize_rule == ANTIALIASED
    assert load_pretrained(released(tmp_path / "theirs.pth", None, PLAIN))[1].resize_rule == PLAIN
    detector = tiny_detector()
    save_detector(tmp_path / "ours.safetensors", detector.state_dict(), card())
    assert load_pretrained(tmp_path / "ours.safetensors")[1].resize_rule == ANTIALIASED
    assert tiny_artifact(tmp_path).manifest.resize == ANTIALIASED


def test_a_model_keeps_its_rule_when_it_is_saved(tmp_path: Path) -> None:
    model = RFDETR(released(tmp_path / "theirs.pth", "1.11.2"), device="cpu")
    for name in ("again.safetensors", "again.pth"):
        model.save(tmp_path / name)
        assert RFDETR(tmp_path / name, device="cpu").card.resize_rule == PLAIN


def test_evaluation_batches_follow_the_rule(tmp_path: Path) -> None:
    split = read_split(write_folder(tmp_path, random_document(3), "val"), "val")
    for rule in (ANTIALIASED, PLAIN):
        (batch, *_) = evaluation_batches(split, (32, 32), 2, resize=rule)
        expected = normalise(network_input([split.load_image(0)], (32, 32), rule))[0]
        np.testing.assert_allclose(batch.images[0].numpy(), expected, atol=1e-6)


def test_one_file_under_two_rules_is_two_rows(tmp_path: Path) -> None:
    """The bytes and their SHA-256 are the same, AP is not: a Record says by its options which rule
    it is of.
    """
    usual = tiny_artifact(tmp_path)
    told = {}
    for rule in resize_rules.RULES:
        artifact = Artifact(usual.path, replace(usual.manifest, resize=rule))
        told[rule] = identity_of(artifact, "onnxruntime-cpu", "threads=1").options
    assert told[ANTIALIASED] == "threads=1" and told[PLAIN] == "threads=1 resize=plain"
    assert len(set(told.values())) == len(resize_rules.RULES)
