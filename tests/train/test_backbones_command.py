"""``--backbone`` and ``--backbone-weights`` of the training command, and the comparison of
backbones: small runs, and arguments that contradict each other.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples_backbones import shaken
from scipy import stats

from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.spec.backbones import BACKBONES, name_of
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.train import backbones_command, command
from rfdetr_repro.train.backbones import Result, interval_half, table

SHORT = ["--steps", "2", "--batch-size", "2", "--processes", "1", "--set", "evaluate_every=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedded(
        tmp_path_factory.mktemp("data"),
        EmbeddedConfig(96, train_images=6, val_images=3, test_images=2),
        workers=1,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv3 as small as pico's backbone, as transformers writes it."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.logging.set_verbosity_error()
    config = transformers.DINOv3ViTConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=768,
        num_register_tokens=4,
    )
    path = tmp_path_factory.mktemp("dinov3")
    shaken(transformers.DINOv3ViTModel(config)).save_pretrained(path)
    return path


def trained(data: Path, out: Path, *words: str) -> Any:
    command.main(["--data", str(data), "--out", str(out), *SHORT, *words])
    return load_supernet(out / "supernet.safetensors")


def test_a_named_backbone_is_trained_and_the_space_follows(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, card, _ = trained(data, tmp_path / "run", "--backbone", "convnext-pico")
    assert name_of(card.config) == "convnext-pico" and card.space is not None
    assert card.space.windows == (1,)
    assert "ConvNeXt: the windows 1, 2 become 1" in caplog.text
    # the model is trained further under its name, and refused without
    start = ["--weights", str(tmp_path / "run" / "supernet.safetensors")]
    with pytest.raises(InputError, match="the file has backbone convnext.*backbone"):
        trained(data, tmp_path / "other", *start)
    again, further, _ = trained(data, tmp_path / "more", "--backbone", "convnext-pico", *start)
    assert further.config == card.config and again.config == card.config


def test_weights_of_a_folder_are_where_training_starts(
    data: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Frozen, so that the weights are there unchanged after training; a second call resumes."""
    from safetensors.torch import load_file

    caplog.set_level(logging.INFO)
    words = ["--fixed", "--backbone-weights", str(folder), "--freeze", "backbone"]
    detector, card, sha256 = trained(data, tmp_path / "run", *words)
    theirs = load_file(folder / "model.safetensors")
    state = detector.state_dict()
    assert torch.equal(
        state["backbone.register_tokens"], theirs["embeddings.register_tokens"]
    ) and torch.equal(
        state["backbone.blocks.3.mlp.fc2.weight"], theirs["layer.3.mlp.down_proj.weight"]
    )
    assert card.config.layer_scale and card.config.backbone == "dinov3"
    assert f"backbone dinov3 from {folder.name}" in caplog.text
    _, _, again = trained(data, tmp_path / "run", *words)
    assert again == sha256 and "is complete" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "auto", "--backbone", "dinov3-pico"], "name a size"),
        (["--backbone", "dinov3-pica"], "dinov3-pic"),
        (
            ["--backbone", "dinov3-base", "--backbone-weights", "FOLDER"],
            "holds the backbone dinov3",
        ),
        (["--backbone-weights", "FOLDER", "--weights", "FOLDER"], "both bring a backbone"),
        (["--backbone-weights", "EMPTY"], "no config.json"),
        (["--backbone-weights", "BARE"], "a backbone without weights"),
        (["--size", "base", "--fixed", "--backbone", "convnext-tiny"], "no patches of 14 px"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    words: list[str], message: str, data: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((folder / "config.json").read_bytes())
    places = {
        "FOLDER": str(folder),
        "EMPTY": str(tmp_path / "empty"),
        "BARE": str(tmp_path / "bare"),
    }
    with pytest.raises(InputError, match=message) as caught:
        trained(data, tmp_path / "run", *(places.get(word, word) for word in words))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_backbones_are_compared_and_an_interrupted_comparison_is_resumed(
    data: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(data), "--out", str(tmp_path)]
    words += ["--steps", "1", "--batch-size", "2", "--seeds", "1", "--processes", "1"]
    words += ["--backbones", "dinov2-pico,dinov3-pico,convnext-pico"]
    backbones_command.main(words)
    printed = capsys.readouterr().out
    with (tmp_path / "backbones.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["backbone"] for row in rows] == ["dinov2-pico", "dinov3-pico", "convnext-pico"]
    assert {row["weights"] for row in rows} == {"random"} and {row["steps"] for row in rows} == {
        "1"
    }
    assert len({row["model_sha256"] for row in rows}) == 3
    for row in rows:
        assert 0 <= float(row["ap"]) <= 1 and row["backbone"] in printed
    assert "one seed says nothing about chance" in printed
    backbones_command.main(words)
    with (tmp_path / "backbones.csv").open() as stream:
        assert list(csv.DictReader(stream)) == rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbones", "dinov2-pico"], "two different backbones"),
        (["--backbones", "dinov2-pico,dinov2-pico"], "two different backbones"),
        (["--backbones", "dinov2-pico,dinov9"], "unknown backbone 'dinov9'"),
        (["--weights", "dinov3-pico"], "is not NAME=FOLDER"),
        (["--weights", "dinov3-base=FOLDER"], "which is not compared"),
        (["--weights", "dinov3-pico=FOLDER"], "not dinov3-pico"),
        (["--weights", "dinov3-pico=FOLDER"] * 2, "names dinov3-pico twice"),
        (["--size", "nano", "--backbones", "dinov2-small,convnext-tiny"], "different windows"),
        (["--size", "base", "--backbones", "dinov2-small,convnext-tiny"], "14 px"),
        (["--size", "huge"], "unknown size"),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(
    words: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    given = [word.replace("FOLDER", str(folder)) for word in words]
    with pytest.raises(InputError, match=message):
        backbones_command.main(["--out", str(tmp_path / "out"), *given])
    assert not (tmp_path / "out").exists()


def test_default_backbones_are_as_large_as_the_size() -> None:
    row = command.preset("pico")
    assert backbones_command._as_large(row, "pico") == tuple(
        name for name in BACKBONES if name.endswith("-pico")
    )
    small = backbones_command._as_large(command.preset("nano"), "nano")
    assert small == ("dinov2-small", "dinov2-registers-small", "dinov3-small")


def row(name: str, seed: int, ap: float | None) -> Result:
    return Result(name, "random", seed, 1, ap, ap, None, 10**6, 10**9, "0" * 64)


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    """The oracle is SciPy's paired test: the interval leaves out 0 exactly where p < 0.05."""
    rng = np.random.default_rng(0)
    for spread in (0.002, 0.02, 0.2):
        base = rng.normal(0.4, 0.1, 4)
        other = base + rng.normal(0.01, spread, 4)
        gaps = 100 * (other - base)
        expected = stats.ttest_rel(100 * other, 100 * base)
        low, high = expected.confidence_interval(0.95)
        assert gaps.mean() - interval_half(gaps) == pytest.approx(low)
        assert gaps.mean() + interval_half(gaps) == pytest.approx(high)
        rows = [row("a", seed, ap) for seed, ap in enumerate(base)]
        rows += [row("b", seed, ap) for seed, ap in enumerate(other)][::-1]
        last = table(rows)[-1]
        assert ("beyond chance" in last) == (expected.pvalue < 0.05)
        assert f"{gaps.mean():+.2f} points" in last


def test_what_is_unknown_is_said_so() -> None:
    lines = table([row("a", 0, None), row("b", 0, 0.5), row("b", 1, 0.25)])
    assert "unknown" in lines[1] and "37.50" in lines[2] and "2: 25.00 to 50.00" in lines[2]
    assert lines[-1] == "b against a: unknown"
