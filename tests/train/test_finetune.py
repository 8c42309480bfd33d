"""Fine-tuning of a found architecture: from the supernet's weights, before and after measured from
two files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.export.onnx import exporter
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.records.store import Store
from rfdetr_repro.search import finetune as module
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import MODEL, Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = EmbeddedConfig(64, train_images=8, val_images=2, test_images=2)
    return write_embedded(tmp_path_factory.mktemp("data"), config, workers=1)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    split: CocoSplit = read_split(data, "train")
    folder = tmp_path_factory.mktemp("run")
    Trainer(Recipe(TINY, replace(TRAIN, steps=2), SPACE), split, folder).run()
    return folder


def arguments(run: Path, data: Path, out: Path, arch: str) -> list[str]:
    return [
        "--run",
        str(run),
        "--data",
        str(data),
        "--out",
        str(out),
        "--arch",
        arch,
        "--steps",
        "2",
        "--processes",
        "1",
    ]


def test_before_and_after_are_two_files_of_one_architecture(
    run: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = replace(module.MEASURED, min_samples=2, max_samples=2, warmup=1, buffer_ms=0.0)
    monkeypatch.setattr(module, "MEASURED", short)
    out = tmp_path / "tuned"
    given = [*arguments(run, data, out, "r64-p16-w1-d1-q7"), "--set", "batch_size=2"]
    assert run_main(module.main, given) == 0
    records = Store(out / "records.jsonl").read()
    assert [(record.model.variant, record.data.split) for record in records] == [
        (variant, split) for variant in ("nas", "nas+fine-tuning") for split in ("val", "test")
    ]
    assert all(
        record.model.arch.key == "r64-p16-w1-d1-q7" and record.accuracy is not None
        for record in records
    )
    assert len({record.artifact.sha256 for record in records}) == 2
    before = load_supernet(run / MODEL)[0].state_dict()
    after = load_supernet(out / MODEL)[0].state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("backbone.") for name in moved) and any(
        name.startswith("decoder.layers.0") for name in moved
    )
    said = capsys.readouterr().out
    assert "before" in said and records[0].artifact.sha256[:12] in said
    lines = (out / "records.jsonl").read_bytes()
    files = sorted((out / "artifacts").glob("*.onnx"))
    content = [file.read_bytes() for file in files]
    exported = []
    plain = exporter.export_onnx
    monkeypatch.setattr(
        exporter, "export_onnx", lambda *a, **k: exported.append(a[1]) or plain(*a, **k)
    )
    # nothing is done twice
    assert run_main(module.main, given) == 0 and (out / "records.jsonl").read_bytes() == lines
    assert len(files) == 2 and exported == []
    # a file that is damaged, and one without its manifest, are made again
    capsys.readouterr()
    files[0].write_bytes(content[0][:-1] + b"x")
    files[1].with_suffix(".json").unlink()
    assert run_main(module.main, given) == 0 and sorted(exported) == files
    captured = capsys.readouterr()
    told = captured.out + captured.err
    assert told.count("exported again") == 1 and files[0].name in told
    assert [file.read_bytes() for file in files] == content
    assert (out / "records.jsonl").read_bytes() == lines


def test_files_for_pytorch_are_measured_by_pytorch(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(module.MEASURED, min_samples=2, max_samples=2, warmup=1, buffer_ms=0.0)
    monkeypatch.setattr(module, "MEASURED", short)
    out = tmp_path / "tuned"
    given = [*arguments(run, data, out, "r64-p16-w1-d1-q7"), "--set", "batch_size=2"]
    assert run_main(module.main, [*given, "--backend", "torch"]) == 0
    records = Store(out / "records.jsonl").read()
    assert len(records) == 4
    assert {record.artifact.runtime for record in records} == {"torch-cpu-eager"}
    assert {path.suffix for path in (out / "artifacts").iterdir()} == {".json", ".safetensors"}


def test_bad_input_is_one_line(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arch, text in (("r64-p16-w1-d9-q7", "stores 2 layers"), ("nano", "is not an architecture")):
        assert run_main(module.main, arguments(run, data, tmp_path / "out", arch)) == 2
        assert text in capsys.readouterr().err
    assert (
        run_main(module.main, arguments(tmp_path, data, tmp_path / "out", "r64-p16-w1-d1-q7")) == 2
    )
    assert "holds no trained model" in capsys.readouterr().err and not (tmp_path / "out").exists()
    given = arguments(run, data, tmp_path / "out", "r64-p16-w1-d1-q7")
    assert run_main(module.main, [*given, "--precision", "bf16"]) == 2
    assert "bf16" in capsys.readouterr().err and not (tmp_path / "out").exists()
