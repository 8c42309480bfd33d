"""Artifacts: manifest round trip, and every way in which file and manifest can fail to fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfdetr_repro.export.artifact import (
    Artifact,
    Manifest,
    TensorSpec,
    load_artifact,
    manifest_path,
    write_artifact,
)
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_bytes

CONTENT = b"not a real model"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    model = ModelId("rfdetr", "tiny", arch=Arch(32, 8, 1, 2, 8), checkpoint_sha256="c" * 64)
    manifest = Manifest(
        sha256=sha256_bytes(CONTENT),
        size_bytes=len(CONTENT),
        model=model,
        class_names=("car", "cat"),
        category_ids=(3, 17),
        inputs=(TensorSpec("images", (1, 3, 32, 48), "float32"),),
        outputs=(TensorSpec("scores", (1, 8), "float32"),),
        params=12,
        flops=34,
        opset=17,
        packages={"torch": "2"},
    )
    return write_artifact(tmp_path / "m.onnx", CONTENT, manifest)


def test_round_trip(artifact: Artifact) -> None:
    loaded = load_artifact(artifact.path)
    assert loaded == artifact
    assert loaded.manifest.model.arch == Arch(32, 8, 1, 2, 8)
    assert loaded.manifest.input_hw == (32, 48)
    assert loaded.manifest.cost.flops == 34.0


def test_manifest_states_how_to_feed_the_model(artifact: Artifact) -> None:
    fields = json.loads(manifest_path(artifact.path).read_text())
    assert fields["resize"].startswith("pillow bilinear") and fields["input_range"] == [0.0, 1.0]
    assert "inside the graph" in fields["normalisation"] and fields["category_ids"] == [3, 17]


def test_another_file_is_refused(artifact: Artifact) -> None:
    artifact.path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(InputError, match="differs from the hash in its manifest"):
        load_artifact(artifact.path)


def test_a_file_of_another_size_is_refused_unread(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of a file of any size could take hours."""
    monkeypatch.setattr(
        "rfdetr_repro.export.artifact.sha256_file", lambda path: pytest.fail("the file was read")
    )
    with artifact.path.open("r+b") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(InputError, match=r"it has 1099511627776 bytes instead of"):
        load_artifact(artifact.path)


@pytest.mark.parametrize(
    ("suffix", "message"), [(".onnx", "the artifact does not exist"), (".json", "no manifest")]
)
def test_missing_part(artifact: Artifact, suffix: str, message: str) -> None:
    artifact.path.with_suffix(suffix).unlink()
    with pytest.raises(InputError, match=message):
        load_artifact(artifact.path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"surprise": 1},
        {"resize": "nearest"},
        {"input_range": [0, 255]},
        {"model": None},
        {"inputs": [{"name": "x"}]},
        {"model": {"family": "a", "name": "b", "arch": "?"}},
        {"model": {"family": "a", "name": "", "arch": None}},
        {"format": "keras"},
        {"contract": ""},
        {"normalisation": " "},
        {"precision": "fp32\n"},
        {"opset": -1},
        {"class_names": [" "], "category_ids": [1]},
        {"class_names": ["a\x1b[2J"], "category_ids": [1]},
        {"class_names": ["a"], "category_ids": [2**63]},
        {"class_names": ["a", "b"], "category_ids": [1, 1]},
    ],
)
def test_foreign_manifest(artifact: Artifact, change: dict[str, object]) -> None:
    beside = manifest_path(artifact.path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **change}))
    with pytest.raises(InputError, match=r"not an artifact manifest.*m\.json"):
        load_artifact(artifact.path)


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_manifest_that_is_no_object(artifact: Artifact, text: str) -> None:
    manifest_path(artifact.path).write_text(text)
    with pytest.raises(InputError, match="m.json"):
        load_artifact(artifact.path)


def test_unwritable_folder_leaves_nothing(artifact: Artifact) -> None:
    blocked = artifact.path / "below-a-file" / "m.onnx"
    with pytest.raises(InputError, match="cannot write"):
        write_artifact(blocked, CONTENT, artifact.manifest)
    with pytest.raises(InputError, match="cannot end in .json"):
        write_artifact(artifact.path.with_name("n.json"), CONTENT, artifact.manifest)
    assert sorted(path.name for path in artifact.path.parent.iterdir()) == ["m.json", "m.onnx"]
