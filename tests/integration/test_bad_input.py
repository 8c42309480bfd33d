"""Bad input at the command line: one clear line on stderr, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfdetr_repro import evaluate, predict
from rfdetr_repro import export_command as export
from rfdetr_repro.bench.command import run as bench
from rfdetr_repro.cli import main as cli
from rfdetr_repro.reproduce import command as reproduce
from rfdetr_repro.search import command as search
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.tables import command as tables
from rfdetr_repro.train import command as train

Break = Callable[[Path, dict], None]


def coco_folder(folder: Path) -> dict:
    """A valid folder with one image and one object; returns its document."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(folder / "train" / "a.jpg")
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 50, "height": 40}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": [5, 5, 10, 10],
                "area": 100,
                "iscrowd": 0,
                "segmentation": [],
            }
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    document["annotations"][0]["segmentation"] = [[5, 5, 15, 5, 15, 15, 5, 15]]
    return document


def refused(capsys: pytest.CaptureFixture[str], main: Callable, argv: list[str]) -> str:
    """Runs a command that must be refused; returns its one line."""
    assert run_main(main, argv) == 2
    captured = capsys.readouterr()
    lines = [
        line
        for line in captured.err.replace("\r", "\n").splitlines()
        if line.strip() and "step/s" not in line
    ]  # not the bar
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in captured.err
    return lines[0]


def remove_image(folder: Path, document: dict) -> None:
    (folder / "train" / "a.jpg").unlink()


def truncate_image(folder: Path, document: dict) -> None:
    path = folder / "train" / "a.jpg"
    path.write_bytes(path.read_bytes()[:200])


def edit(**fields: object) -> Break:
    return lambda folder, document: document["annotations"][0].update(fields)


BROKEN: dict[str, tuple[Break, str]] = {
    "missing image": (remove_image, "a.jpg"),
    "truncated image": (truncate_image, "a.jpg"),
    "unknown category": (edit(category_id=99), "99"),
    "zero width": (edit(bbox=[5, 5, 0, 10]), "annotation"),
    "negative height": (edit(bbox=[5, 5, 10, -3]), "annotation"),
    "outside the image": (edit(bbox=[500, 5, 10, 10]), "annotation"),
    "unknown image": (edit(image_id=5), "5"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = coco_folder(tmp_path / "data")
    breaks, named = BROKEN[name]
    breaks(tmp_path / "data", document)
    (tmp_path / "data/annotations/instances_train.json").write_text(json.dumps(document))
    out = tmp_path / "run"
    assert named in refused(
        capsys,
        train.main,
        ["--data", str(tmp_path / "data"), "--out", str(out), "--steps", "1", "--batch-size", "1"],
    )
    assert not out.exists() or {path.suffix for path in out.iterdir()} <= {".lock"}


@pytest.mark.parametrize(
    ("content", "named"), [("{", "not JSON"), ("[1, 2]", "COCO"), ('{"images": 3}', "COCO")]
)
def test_annotations_that_are_not_coco(
    content: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco_folder(tmp_path)
    (tmp_path / "annotations/instances_train.json").write_text(content)
    assert named in refused(
        capsys, train.main, ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    )


def test_wrong_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refused(
        capsys, train.main, ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    )
    assert "nowhere" in refused(
        capsys,
        reproduce.main,
        ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")],
    )


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--run", str(tmp_path), "--data", "y"]
    file = tmp_path / "x"
    file.touch()
    assert "from 1 to" in refused(
        capsys, train.main, ["--data", ".", "--out", str(tmp_path), "--steps", "0"]
    )
    assert "unknown size" in refused(
        capsys, train.main, ["--data", ".", "--out", str(tmp_path), "--size", "giant"]
    )
    assert "unknown campaign" in refused(capsys, reproduce.main, ["--campaign", "nothing"])
    assert "threshold" in refused(
        capsys, predict.main, ["a.jpg", "--checkpoint", str(file), "--threshold", "7"]
    )
    assert "invalid choice: 'speed'" in refused(capsys, search.main, [*run, "--metric", "speed"])
    assert "not a list of latencies" in refused(capsys, search.main, [*run, "--targets-ms", "fast"])
    assert "above 0 and at most 1" in refused(
        capsys, search.main, [*run, "--strategy", "race", "--first", "0"]
    )
    assert "--islands belongs to --precision fp16 and int8" in refused(
        capsys, export.main, ["--checkpoint", str(file), "--out", "y.onnx", "--islands", "Exp"]
    )
    assert "unknown table" in refused(capsys, tables.main, ["--table", "99"]).lower()


def test_no_legal_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "none.toml"
    file.write_text("[space]\nresolutions = [16]\npatches = [32]\n")
    document = coco_folder(tmp_path / "data")
    for split in ("train", "val"):
        (tmp_path / f"data/annotations/instances_{split}.json").write_text(json.dumps(document))
    (tmp_path / "data/val").symlink_to(tmp_path / "data/train")
    argv = [
        "--campaign",
        str(file),
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert "no legal configuration" in refused(capsys, reproduce.main, argv)


def test_a_broken_test_split_is_not_taken_for_a_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = coco_folder(tmp_path / "data")
    for split in ("train", "val"):
        (tmp_path / f"data/annotations/instances_{split}.json").write_text(json.dumps(document))
    (tmp_path / "data/val").symlink_to(tmp_path / "data/train")
    (tmp_path / "data/annotations/instances_test.json").write_text("{")
    (tmp_path / "data/test").mkdir()
    argv = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert "instances_test.json" in refused(capsys, reproduce.main, argv)


def test_corrupt_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "supernet.safetensors"
    records = tmp_path / "records.jsonl"
    checkpoint.write_bytes(b"\x10\x00\x00\x00garbage")
    records.write_text('{"schema": 1, "nonsense": true}\n{"schema": 1}\n')
    assert "not a checkpoint" in refused(
        capsys, export.main, ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "m.onnx")]
    )
    assert "corrupt checkpoint" in refused(
        capsys, search.main, ["--run", str(tmp_path), "--data", str(tmp_path)]
    )
    assert "records.jsonl:1" in refused(
        capsys, tables.main, ["--table", "frontier", "--records", str(records)]
    )
    assert "m.onnx" in refused(
        capsys, evaluate.main, ["--artifact", str(tmp_path / "m.onnx"), "--data", str(tmp_path)]
    )
    assert "m.onnx" in refused(capsys, bench.main, ["--onnx", str(tmp_path / "m.onnx")])
    assert not (tmp_path / "m.onnx").exists()


def test_unwritable_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file stands where the run folder should be: works as root too, unlike permissions."""
    document = coco_folder(tmp_path / "data")
    (tmp_path / "data/annotations/instances_train.json").write_text(json.dumps(document))
    (tmp_path / "taken").write_text("a file")
    argv = [
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "taken" / "run"),
        "--steps",
        "1",
        "--batch-size",
        "1",
    ]
    assert "taken" in refused(capsys, train.main, argv)
    assert (tmp_path / "taken").read_text() == "a file" and sorted(os.listdir(tmp_path)) == [
        "data",
        "taken",
    ]


def test_console_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli([]) == 2 and cli(["--help"]) == 0 and cli(["fly"]) == 2
    assert "unknown verb 'fly'" in capsys.readouterr().err
    assert cli(["tables", "--table", "2"]) == 0 and "RF-DETR" in capsys.readouterr().out
