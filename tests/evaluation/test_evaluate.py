"""``python -m rfdetr_repro.evaluate`` and ``python -m rfdetr_repro.export`` as a user meets
them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples_coco import random_detections, random_document, write_folder
from samples_export import ARCH, CATEGORY_IDS, CONFIG, NAMES, tiny_artifact, tiny_detector

from rfdetr_repro import evaluate
from rfdetr_repro import export_command as export
from rfdetr_repro.bench import accuracy
from rfdetr_repro.bench.accuracy import accuracy_of, detect_split
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.diagnosis import diagnose
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import save_released
from rfdetr_repro.reproduce import evaluation
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.labels import UNUSED
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.presets import parse_arch

SUFFIXES = (".png", ".svg")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), random_document(0), "val")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "supernet.safetensors"
    save_detector(path, tiny_detector().state_dict(), ModelCard(CONFIG, ARCH, NAMES, CATEGORY_IDS))
    return path


def test_checkpoint_to_metrics(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    metrics = tmp_path / "metrics.json"
    assert (
        run_main(
            export.main,
            ["--checkpoint", str(checkpoint), "--arch", "r32-p8-w2-d1-q5", "--out", str(out)],
        )
        == 0
    )
    artifact = load_artifact(out)
    assert artifact.sha256 in capsys.readouterr().out
    assert (
        artifact.manifest.model.arch.key == "r32-p8-w2-d1-q5"
        and artifact.manifest.category_ids == CATEGORY_IDS
    )
    assert artifact.manifest.model.checkpoint_sha256

    arguments = [
        "--artifact",
        str(out),
        "--data",
        str(data),
        "--threads",
        "1",
        "--json",
        str(metrics),
    ]
    assert run_main(evaluate.main, arguments) == 0
    written = json.loads(metrics.read_text())
    split = read_split(data, "val")
    boxes, masks = accuracy_of(OrtSession(artifact, threads=1), split)
    assert (written["boxes"]["ap"], written["boxes"]["ap50"]) == (boxes.ap, boxes.ap50)
    assert masks is not None and written["masks"]["ap"] == masks.ap
    assert (written["artifact"], written["data_sha256"], written["num_images"]) == (
        artifact.sha256,
        split.sha256,
        len(split),
    )
    assert "boxes   AP " in capsys.readouterr().out


def test_checkpoint_to_metrics_in_pytorch(
    checkpoint: Path,
    artifact: Artifact,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same subnet as a PyTorch file has the same AP, and says what ran."""
    out = tmp_path / "m.safetensors"
    metrics = tmp_path / "metrics.json"
    assert (
        run_main(export.main, ["--checkpoint", str(checkpoint), "--to", "torch", "--out", str(out)])
        == 0
    )
    arguments = [
        "--artifact",
        str(out),
        "--data",
        str(data),
        "--threads",
        "1",
        "--json",
        str(metrics),
        "--backend",
        "torch",
    ]
    assert run_main(evaluate.main, arguments) == 0
    found = json.loads(metrics.read_text())
    expected = evaluate.evaluate(artifact.path, data, threads=1)
    assert (found["runtime"].startswith("torch-"), expected["runtime"]) == (True, "onnxruntime-cpu")
    assert found["boxes"]["ap"] == pytest.approx(expected["boxes"]["ap"], abs=1e-6)
    assert (
        found["artifact"] == load_artifact(out).sha256
        and found["runtime"] in capsys.readouterr().out
    )


def test_an_ap_of_no_detections_is_told(
    artifact: Artifact,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What COCO's rule calls AP 0.0 is that of a model that finds nothing, or of a broken chain."""
    metrics = tmp_path / "metrics.json"
    arguments = ["--artifact", str(artifact.path), "--data", str(data), "--json", str(metrics)]
    assert run_main(evaluate.main, [*arguments, "--threads", "1"]) == 0
    assert evaluate.NO_DETECTIONS not in capsys.readouterr().out
    split = read_split(data, "val")
    given = detect_split(OrtSession(artifact, threads=1), split)
    written = json.loads(metrics.read_text())
    assert written["boxes"]["detections"] == sum(len(one.scores) for one in given) > 0

    # its classes are none of the data's
    monkeypatch.setattr(accuracy, "label_map", lambda *_: np.full(len(NAMES), -1))
    assert run_main(evaluate.main, [*arguments, "--threads", "1"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count(evaluate.NO_DETECTIONS) == 2, told  # boxes, masks
    written = json.loads(metrics.read_text())
    assert written["boxes"]["ap"] == 0.0 and written["boxes"]["detections"] == 0


def test_missing_metric_is_a_dash() -> None:
    assert evaluate.percent(None, "-") == "-" and evaluate.percent(0.4567) == "45.7"


def test_random_weights_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tiny_artifact(tmp_path, weights="random")
    assert run_main(evaluate.main, ["--artifact", str(artifact.path), "--data", str(data)]) == 2
    assert "random weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        ("--artifact", "missing.onnx"),
        ("--data", "missing-folder"),
        ("--split", "nosuch"),
        ("--threads", "0"),
        ("--max-dets", "0"),
        ("--backend", "nosuch"),
        ("--backend", "torch"),
    ],
)
def test_evaluate_bad_input(
    change: tuple[str, str],
    artifact: Artifact,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "metrics.json"
    arguments = {
        "--artifact": str(artifact.path),
        "--data": str(data),
        "--json": str(out),
        **dict([change]),
    }
    assert run_main(evaluate.main, [part for pair in arguments.items() for part in pair]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--islands": "Add"}, "--islands belongs to --precision fp16 and int8"),
        (
            {"--precision": "fp16", "--to": "torch"},
            "writes a .safetensors file, and the file name in --out has .onnx",
        ),
        ({"--to": "torch"}, "writes a .safetensors file, and the file name in --out has .onnx"),
        ({"--arch": "r32-p8"}, "not an architecture"),
        ({"--arch": "huge"}, "unknown size"),
        ({"--arch": "r32-p8-w1-d9-q5"}, "stores 2 layers"),
        ({"--checkpoint": "missing.safetensors"}, "missing.safetensors"),
    ],
)
def test_export_bad_input(
    change: dict[str, str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "m.onnx"
    arguments = {"--checkpoint": str(checkpoint), "--out": str(out), **change}
    assert run_main(export.main, [part for pair in arguments.items() for part in pair]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_export_of_a_corrupt_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "supernet.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    assert (
        run_main(export.main, ["--checkpoint", str(path), "--out", str(tmp_path / "m.onnx")]) == 2
    )
    assert "supernet.safetensors" in capsys.readouterr().err


def test_a_file_that_leaves_its_labels_open_is_exported_with_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names for all logits but one, and no version: labels count from 0 or from 1."""
    path = tmp_path / "open.pth"
    save_released(path, tiny_detector(), ModelCard(CONFIG, ARCH, NAMES, CATEGORY_IDS))
    content = torch.load(path, weights_only=False)
    content = {
        "model": content["model"],
        "args": argparse.Namespace(
            **{
                key: value
                for key, value in vars(content["args"]).items()
                if key not in ("added_logits", "rfdetr_version", "category_ids", "label_convention")
            }
        ),
    }
    torch.save(content, path)
    out = tmp_path / "open.onnx"
    arguments = ["--checkpoint", str(path), "--out", str(out)]
    assert run_main(export.main, arguments) == 2 and not out.exists()
    assert "count from 0 or from 1" in capsys.readouterr().err
    for given, names in (
        ("from-0", (*NAMES, UNUSED)),
        ("from-1", (UNUSED, *NAMES)),
        ("a,b, c,d", ("a", "b", "c", "d")),
    ):
        assert run_main(export.main, [*arguments, "--labels", given]) == 0
        assert load_artifact(out).manifest.class_names == names
    assert run_main(export.main, [*arguments, "--labels", "a,b"]) == 2
    assert "2 names for 4 labels" in capsys.readouterr().err


def test_sizes_are_names_of_architectures() -> None:
    assert parse_arch("nano").key == "r384-p16-w2-d2-q300"
    assert parse_arch("r32-p8-w2-d1-q5").windows == 2


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the model, whose weights are random: detections near the objects."""
    monkeypatch.setattr(
        evaluation,
        "detect_split",
        lambda session, split, progress, tiling=None: random_detections(split, 1),
    )


def diagnosis_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.usefixtures("finding")
def test_out_writes_numbers_and_pictures(
    artifact: Artifact, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--artifact", str(artifact.path), "--data", str(data), "--out", str(out)]
    out.mkdir()
    (out / "boxes-old.png").write_bytes(b"of an earlier evaluation")
    (out / "mine.txt").write_text("a user's own")
    assert run_main(evaluate.main, arguments) == 0
    told = capsys.readouterr().out
    table = told[told.index("boxes by class") :]
    assert max(map(len, told[told.index("tiny (") :].splitlines()[:-1])) <= 80
    charts = {f"{name}{suffix}" for name in ("pr", "scores", "confusion") for suffix in SUFFIXES}
    kinds = ("boxes", "masks")
    expected = {f"{kind}-{name}" for kind in kinds for name in charts | {"worst.png"}}
    assert diagnosis_files(out) == expected | {"metrics.json", "mine.txt"}
    written = json.loads((out / "metrics.json").read_text())
    split = read_split(data, "val")
    boxes = written["diagnosis"]["boxes"]
    assert boxes["mean"]["ap"] == pytest.approx(written["boxes"]["ap"], abs=1e-12)
    for row, name in zip(boxes["classes"], split.classes.names, strict=True):
        line = next(line for line in table.splitlines() if line.startswith(name))
        assert line.split()[-7:] == [
            str(row["images"]),
            str(row["objects"]),
            *(percent(row[key], "-") for key in ("ap", "ap50", "precision", "recall", "f1")),
        ]
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size[0] == 1206
    assert (out / "boxes-pr.svg").read_text().startswith("<?xml")
    assert "the split that is evaluated: precision, recall and F1 are optimistic" in " ".join(
        told.split()
    )


@pytest.mark.usefixtures("finding")
def test_the_threshold_is_given_or_chosen_on_another_split(
    artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / "data", random_document(0, 12), "val")
    write_folder(data, random_document(7, 12), "test")
    base = ["--artifact", str(artifact.path), "--data", str(data), "--split", "test"]
    metrics = tmp_path / "metrics.json"

    def run(*more: str) -> dict:
        assert run_main(evaluate.main, [*base, *more, "--json", str(metrics)]) == 0
        return json.loads(metrics.read_text())["diagnosis"]["boxes"]

    own = run()
    of_val = run("--threshold-split", "val")
    given = run("--threshold", str(of_val["threshold"]["score"]))
    detections = random_detections(read_split(data, "val"), 1)
    best = diagnose(CocoEvaluator(read_split(data, "val")), detections).threshold.score
    assert of_val["threshold"]["score"] == best != own["threshold"]["score"]
    assert (own["threshold"]["chosen_on"], of_val["threshold"]["chosen_on"]) == ("test", "val")
    assert of_val["mean"]["f1"] <= own["mean"]["f1"] and of_val["mean"] == given["mean"]
    assert "on val, and used on test" in of_val["threshold"]["says"]
    assert "optimistic" not in of_val["threshold"]["says"]
    assert given["threshold"]["says"].endswith("as given.")
    capsys.readouterr()
    for more, message in (
        (["--threshold-split", "valid"], "valid"),
        (["--threshold", "1.5"], "1.5"),
        (["--threshold", "0.5", "--threshold-split", "val"], "not allowed with"),
    ):
        assert run_main(evaluate.main, [*base, *more, "--out", str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "no").exists()
