"""Runtimes, numbers of threads and precisions as axes of the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from samples_bench import fake_artifact
from samples_bench_command import run, sessions  # noqa: F401  # an autouse fixture
from samples_coco import picture, random_document, write_folder
from samples_record import fixed_record

from rfdetr_repro.bench import accuracy
from rfdetr_repro.bench.command import runtimes
from rfdetr_repro.bench.command.arguments import parser
from rfdetr_repro.bench.command.precisions import in_precision, precisions
from rfdetr_repro.bench.command.printing import gate, lines
from rfdetr_repro.bench.command.protocols import protocols_of
from rfdetr_repro.bench.command.rows import read_data
from rfdetr_repro.bench.command.runtimes import backends_of
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.export.artifact import Artifact, write_artifact
from rfdetr_repro.export.int8 import conversion
from rfdetr_repro.records.parts import ArtifactId, Quantised
from rfdetr_repro.records.record import Accuracy, DataId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError

SHA = "ab" * 32
INSTALLED = runtimes.installed_on_cpu  # the fixture for all tests puts another in its place


def parsed(*arguments: str):
    return parser().parse_args(["--model", "x.onnx", *arguments])


def test_numbers_of_threads_are_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "usable_cores", lambda: 6)
    assert parsed().threads == [2]
    assert parsed("--threads", "1,2,all").threads == [1, 2, 6]
    monkeypatch.setattr(runtimes, "usable_cores", lambda: 2)
    assert parsed("--threads", "1,2,all").threads == [1, 2]
    some = protocols_of(parsed("--threads", "1,2", "--protocol", "both"))
    assert [(one.threads, one.mode) for one in some] == [
        (1, "buffered"),
        (1, "sustained"),
        (2, "buffered"),
        (2, "sustained"),
    ]


def test_the_installed_runtimes_are_measured_beside_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtimes, "installed_on_cpu", INSTALLED)
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: object())
    assert backends_of(parsed()) == ["onnxruntime", "openvino"]
    assert backends_of(parsed("--campaign", "table1")) == ["onnxruntime"]
    assert backends_of(parsed("--backend", "openvino,onnxruntime")) == ["openvino", "onnxruntime"]
    found = {"onnxruntime": object()}
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", found.get)
    assert backends_of(parsed()) == ["onnxruntime"]


def test_a_runtime_that_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, tmp_path, "--model", str(fake_artifact(tmp_path).path))
    assert code == 0 and "openvino is not installed, so its rows are left out" in out + err


def test_the_table_names_runtimes_and_threads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(fake_artifact(tmp_path, "mine").path)
    both = ("--backend", "onnxruntime,openvino", "--threads", "1,3", "--no-twice")
    code, out, _ = run(capsys, tmp_path, "--model", file, *both)
    assert code == 0
    records = Store(tmp_path / "out" / "s.jsonl").read()
    assert sorted((one.artifact.runtime, one.protocol.threads) for one in records) == [
        ("onnxruntime", 1),
        ("onnxruntime", 3),
        ("openvino", 1),
        ("openvino", 3),
    ]
    head = next(line for line in out.splitlines() if line.startswith("model  "))
    assert {"runtime", "threads"} <= set(head.split()) and "precision" not in head
    assert "buffered 0 ms, 1 threads:" in out and "buffered 0 ms, 3 threads:" in out
    # the same command measures nothing again
    run(capsys, tmp_path, "--model", file, *both)
    assert len(Store(tmp_path / "out" / "s.jsonl").read()) == 4


def test_the_precision_is_a_column_unless_everything_is_float32() -> None:
    def head(*kinds: str) -> str:
        rows = {kind: [with_precision(fixed_record(), kind)] for kind in kinds}
        return lines(rows)[0]

    assert "precision" not in head("fp32")
    assert "precision" in head("int8") and "precision" in head("fp32", "int8")


def with_precision(record: Record, precision: str, ap: float = 0.5) -> Record:
    artifact = ArtifactId(SHA, SHA, "onnxruntime-cpu", precision, 1)
    accuracy = Accuracy(ap=ap, artifact_sha256=SHA)
    return replace(
        record,
        artifact=artifact,
        accuracy=accuracy,
        mask_accuracy=None,
        data=DataId("mine", "val"),
        latency=replace(record.latency, artifact_sha256=SHA),
    )


def test_every_smaller_precision_has_its_own_limit() -> None:
    kinds = {"fp32": 0.5, "fp16": 0.496, "int8": 0.496, "bf16": 0.4975}
    rows = {kind: [with_precision(fixed_record(), kind, ap)] for kind, ap in kinds.items()}
    said, lost = gate(rows)
    assert [line.partition(": ")[2] for line in said] == [
        "FP16 49.6 AP, FP32 50.0, lost more than 0.3",
        "INT8 49.6 AP, FP32 50.0, within 0.5",
        "BF16 49.8 AP, FP32 50.0, within 0.3",
    ]
    assert lost == said[:1]
    assert len(gate(rows, 0.1)[1]) == 3 and gate(rows, 1.0)[1] == []


def test_precisions() -> None:
    assert precisions(parsed("--precision", "fp32,int8,bf16,int8")) == ["fp32", "int8", "bf16"]
    assert precisions(parsed()) == []


@pytest.mark.parametrize("given", ["int4", ",", "fp32,", "fp32 int8"])
def test_a_wrong_precision_is_refused(given: str) -> None:
    with pytest.raises(InputError, match=r"unknown precision .*\(--precision\); .*fp32, fp16"):
        precisions(parsed("--precision", given))


def test_trained_weights_need_data_for_int8_and_the_other_rows_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(fake_artifact(tmp_path, "mine").path)
    code, _, err = run(capsys, tmp_path, "--model", file, "--precision", "fp32,int8")
    assert code == 1 and "INT8 needs training images" in err
    assert len(Store(tmp_path / "out" / "s.jsonl").read()) == 1
    failed = [line for line in err.splitlines() if line.startswith("failed: mine int8")]
    assert len(failed) == 1


def test_a_missing_train_split_is_told_when_the_data_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, told in (("val", True), ("train", False)):
        folder = write_folder(tmp_path / "data", random_document(0, 3), split)
        args = parsed("--data", str(folder), "--split", "val", "--precision", "fp32,int8")
        caplog.clear()
        read_data(args)
        assert ("no train split to calibrate on" in caplog.text) == told


def test_an_int8_file_of_another_gate_or_of_other_images_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def convert(artifact: Artifact, path: Path, calibration: Any, gate: Any) -> Artifact:
        made.append((calibration.sha256, gate.points))
        return write_artifact(path, artifact.path.read_bytes(), artifact.manifest)

    monkeypatch.setattr(conversion, "int8_artifact", convert)
    monkeypatch.setattr(conversion, "summary", lambda artifact: "")
    monkeypatch.setattr(accuracy, "ap_by_kind", lambda artifact, split: None)
    artifact = fake_artifact(tmp_path, "mine")
    document = random_document(0, 3)
    for index, seed in enumerate((0, 1)):
        folder = write_folder(tmp_path / f"data{index}", document, "val")
        write_folder(folder, document, "train")
        for info in document["images"]:
            pixels = picture(info["height"], info["width"], seed)
            Image.fromarray(pixels).save(folder / "train" / info["file_name"])
        for points in ("0.5", "0.5", "2"):
            args = parsed("--out", str(tmp_path / "s.jsonl"), "--ap-gate", points)
            args.data = DataSource.of(folder)
            in_precision(artifact, "int8", args, [read_split(args.data, "val")])
    assert len(made) == 4 and len(set(made)) == 4


def test_what_became_int8_is_part_of_a_record_and_not_of_its_id() -> None:
    census = Quantised(41, 62, 12, 12, 0.95, SHA, 64, 53)
    plain = fixed_record()
    record = replace(plain, quantised=census)
    assert record.id == plain.id and Record.from_json(record.to_json()) == record
    assert "quantised" not in plain.to_json()
    assert census.told == "41 of 62 products and 12 of 12 convolutions, 95 % of FLOPs"
