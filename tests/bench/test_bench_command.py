"""The benchmark command with several models: files and names, precisions, failures, verdicts, the
FP16 gate.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples_bench import FakeSession, fake_artifact
from samples_bench_command import QUICK, models, run, sessions  # noqa: F401  # an autouse fixture
from samples_coco import random_document, write_folder

from rfdetr_repro.bench.command.printing import gate
from rfdetr_repro.bench.command.run import main
from rfdetr_repro.export import trial
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.record import Accuracy, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime import backends
from rfdetr_repro.spec.errors import InputError


def test_files_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(fake_artifact(tmp_path, name).path) for name in ("a", "b", "c")]
    code, out, err = run(capsys, tmp_path, "--onnx", *files[:2], "--onnx", files[2])
    assert code == 0 and err == ""
    lines = out.splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("model  ")) :]
    assert [line.split()[0] for line in lines[1:4]] == [
        "a",
        "b",
        "c",
    ] and "between builds" in lines[0]
    titles = [title.strip() for title in lines[0].split("  ")]
    assert "file MB" in titles and "memory MB" not in titles  # another runtime's is not known
    # sixteen samples may be too few for an interval: the line then says so
    assert re.fullmatch(
        r"A/A, a twice, buffered 0 ms: [-+][\d.]+% "
        r"\((no interval|[-+][\d.]+% to [-+][\d.]+%)\), \w+.*",
        lines[4],
    )
    assert (
        lines[5] == "buffered 0 ms:"
        and sum(word in out for word in ("SAME", "SLOWER", "UNDECIDED")) >= 1
    )
    stored = Store(tmp_path / "out" / "s.jsonl").read()
    assert (
        len(lines) == 10
        and len(stored) == 3
        and [record.latency.itself is not None for record in stored].count(True) == 1
    )
    code, out, _ = run(capsys, tmp_path / "once", "--onnx", *files, "--no-twice")
    assert code == 0 and "A/A" not in out
    code, out, _ = run(capsys, tmp_path / "alone", "--onnx", files[0], "--twice")
    assert code == 0 and "A/A, a twice" in out


def test_a_failing_row_is_one_line_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(fake_artifact(tmp_path, name).path) for name in ("good", "broken")] + [
        str(tmp_path / "none.onnx")
    ]
    code, out, err = run(capsys, tmp_path, "--onnx", *files)
    assert code == 1 and "good" in out
    lines = err.splitlines()
    assert len(lines) == 3 and lines[-1] == "failed: 2 of 3 rows"
    assert any("the file does not exist" in line for line in lines) and any(
        "broken: the model does not load" in line for line in lines
    )
    assert [record.model.name for record in Store(tmp_path / "out" / "s.jsonl").read()] == ["good"]


def test_a_single_row_that_fails_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, tmp_path, "--onnx", str(fake_artifact(tmp_path, "broken").path))
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_two_models_under_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fake_artifact(tmp_path, "m")
    half = fake_artifact(tmp_path, "m", precision="fp16")
    code, out, _ = run(capsys, tmp_path, "--onnx", str(first.path), str(half.path))
    assert code == 0 and "m fp32" in out and "m fp16" in out
    other = fake_artifact(tmp_path, "m", salt="x")
    code, _, err = run(capsys, tmp_path, "--onnx", str(first.path), str(other.path))
    assert (
        code == 2
        and f"two models have the name 'm fp32': {first.path} and {other.path}" in err
        and err.count("\n") == 1
    )
    code, _, err = run(capsys, tmp_path, "--onnx", str(first.path), str(first.path))
    assert code == 2 and "two models have the name" in err


def test_adopted_files_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.onnx").write_bytes(b"x")
    code, _, err = run(
        capsys, tmp_path, "--onnx", str(tmp_path / "a" / "m.onnx"), str(tmp_path / "b" / "m.onnx")
    )
    assert code == 2 and "two models have the name 'm'" in err


def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def audited_half(artifact: Artifact, path: Path, feeds: object) -> Artifact:
        model = artifact.manifest.model
        return fake_artifact(
            path.parent.parent, model.name, precision="fp16", weights=model.weights
        )

    monkeypatch.setitem(
        sys.modules, "rfdetr_repro.export.half", SimpleNamespace(audited_half=audited_half)
    )


def test_models_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models(monkeypatch, tmp_path)
    code, out, err = run(capsys, tmp_path, "--models", "rfdetr-medium,dfine-m,nobody")
    assert code == 1 and "failed: nobody: unknown model 'nobody'" in err and "1 of 3 rows" in err
    data = write_folder(tmp_path / "data", random_document(0), "val")
    code, out, _ = run(capsys, tmp_path, "--models", "rfdetr-medium", "--data", str(data))
    assert code == 0 and "rfdetr-medium has random weights, so only latency is measured" in out


def test_table_1_measures_both_precisions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models(monkeypatch, tmp_path)
    halves(monkeypatch)
    code, out, err = run(capsys, tmp_path, "--campaign", "table1")
    assert code == 0, err
    assert "cannot be built on this machine: YOLOv8 M, YOLOv11 M, RT-DETR R18, LW-DETR M" in out
    records = Store(tmp_path / "out" / "s.jsonl").read()
    assert [(r.model.name, r.artifact.precision) for r in records] != [] and len(records) == 4
    assert {record.campaign for record in records} == {"table1"}


def test_buffer_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfdetr_repro.bench.command import protocols

    monkeypatch.setattr(protocols, "BUFFERS_MS", (0.0, 0.5))
    code, out, _ = run(
        capsys, tmp_path, "--campaign", "buffer-sweep", "--onnx", str(fake_artifact(tmp_path).path)
    )
    assert code == 0 and "buffered 0.5 ms" in out
    assert [record.protocol.buffer_ms for record in Store(tmp_path / "out" / "s.jsonl").read()] == [
        0.0,
        0.5,
    ]


def test_data_without_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {**random_document(0), "annotations": []}
    data = write_folder(tmp_path / "data", document, "val")
    code, _, err = run(
        capsys, tmp_path, "--onnx", str(fake_artifact(tmp_path).path), "--data", str(data)
    )
    assert code == 2 and "split 'val' has no annotations" in err and err.count("\n") == 1
    (data / "annotations" / "instances_val.json").write_text(
        json.dumps({"images": document["images"]})
    )
    code, _, err = run(
        capsys, tmp_path, "--onnx", str(fake_artifact(tmp_path).path), "--data", str(data)
    )
    assert code == 2 and "annotations" in err and err.count("\n") == 1


def test_one_latency_and_an_accuracy_on_each_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("val", "test"):
        data = write_folder(tmp_path / "data", random_document(0), split)
    file = str(fake_artifact(tmp_path).path)
    assert run(capsys, tmp_path, "--onnx", file, "--data", str(data), "--split", "val,test")[0] == 0
    records = Store(tmp_path / "out" / "s.jsonl").read()
    assert [record.data.split for record in records] == ["val", "test"] and all(
        record.accuracy for record in records
    )
    assert records[0].latency == records[1].latency
    assert run(capsys, tmp_path, "--onnx", file, "--data", str(data), "--split", ",")[0] == 2


def test_nothing_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, tmp_path)[0] == 2


def test_a_gpu_backend_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfdetr_repro.bench.gpu import device as gpu_device

    monkeypatch.setattr(
        gpu_device.ctypes, "CDLL", lambda _: (_ for _ in ()).throw(OSError("no such file"))
    )
    code, _, err = run(
        capsys, tmp_path, "--onnx", str(fake_artifact(tmp_path).path), "--backend", "tensorrt"
    )
    assert code == 2 and ("no CUDA" in err or "is not installed" in err)
    assert not (tmp_path / "adopted").exists()


def test_labels_go_to_the_reader_of_the_checkpoint_and_into_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfdetr_repro.bench import models
    from rfdetr_repro.model.checkpoints import pretrained

    seen = []

    def read(path: Path, size: str, labels: object = None) -> None:
        seen.append((size, labels))
        raise InputError("read")

    monkeypatch.setattr(pretrained, "load_pretrained", read)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    for labels in (None, "from-1", ["a", "b"]):
        with pytest.raises(InputError, match="^read$"):
            models.model_artifact("rfdetr-nano", tmp_path, checkpoint=weights, labels=labels)
    assert seen == [("nano", None), ("nano", "from-1"), ("nano", ["a", "b"])]
    names = {models._made_by("rfdetr-nano", "ab", None, {"labels": given}) for _, given in seen}
    assert len(names) == 3


def test_labels_need_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path, "--models", "rfdetr-nano", "--labels", "from-0")
    assert code == 2 and "give --checkpoint too" in err


def scored(record: Record, ap: float, precision: str) -> Record:

    assert record.artifact is not None
    accuracy = Accuracy(ap, artifact_sha256=record.artifact.sha256)
    return replace(
        record, accuracy=accuracy, artifact=replace(record.artifact, precision=precision)
    )


def test_an_ap_of_no_detections_is_told_wherever_it_is_printed() -> None:
    from samples_record import fixed_record

    from rfdetr_repro.bench.command.printing import hints, lines
    from rfdetr_repro.records.ap_intervals import with_range
    from rfdetr_repro.tables.intervals import interval_cell

    record = scored(fixed_record(), 0.0, "fp32")
    assert record.accuracy is not None
    for count, is_told in ((0, True), (7, False), (None, False)):
        accuracy = replace(record.accuracy, detections=count)
        found = {"m": [replace(record, accuracy=accuracy)]}
        assert ("0.0 (no detections)" in "".join(lines(found))) == is_told
        assert any("detected nothing" in line for line in hints(found)) == is_told
        assert ("no detections" in with_range(accuracy)) == is_told
        assert (interval_cell(accuracy).text == "no detections") == is_told
        line = found["m"][0].to_json()
        assert ("detections" in line) == (count is not None)
        assert Record.from_json(line) == found["m"][0]


@pytest.mark.parametrize(
    ("ap", "word"),
    [(0.498, "within"), (0.6, "within"), (0.496, "lost more than"), (0.005, "lost more than")],
)
def test_fp16_may_lose_little(ap: float, word: str) -> None:
    from samples_record import fixed_record

    records = {
        "m fp32": [scored(fixed_record(), 0.5, "fp32")],
        "m fp16": [scored(fixed_record(), ap, "fp16")],
    }
    told, failed = gate(records, 0.3)
    assert len(told) == 1 and word in told[0] and bool(failed) == (word != "within")
    assert gate({"m fp32": records["m fp32"]}, 0.3) == ([], [])


def test_sizes_of_one_name_are_gated_apart() -> None:

    from samples_record import fixed_record

    def of_size(size: str, ap: float, precision: str) -> Record:
        record = scored(fixed_record(), ap, precision)
        return replace(record, model=replace(record.model, size=size))

    lost = [of_size("N", 0.5, "fp32"), of_size("N", 0.4, "fp16")]
    kept = [of_size("S", 0.6, "fp32"), of_size("S", 0.6, "fp16")]
    told, failed = gate({"a": lost, "b": kept}, 0.3)
    assert len(told) == 2 and len(failed) == 1 and " N: " in failed[0]


class BreaksLater(FakeSession):
    """Runs a few times and then no more, in the middle of being timed."""

    def launch(self) -> None:
        self.left = getattr(self, "left", 6) - 1
        if self.left < 0:
            raise RuntimeError("the device was lost")
        super().launch()


@pytest.mark.parametrize("where", ["opening", "timing"])
def test_a_row_that_breaks_leaves_the_others_standing(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_session(
        artifact: Artifact, backend: str = "onnxruntime", *, threads: int = 2, **options: Any
    ) -> FakeSession:
        if artifact.manifest.model.name != "bad":
            return FakeSession(artifact, runtime=backend)
        if where == "opening":
            raise RuntimeError("the device was lost")
        return BreaksLater(artifact, runtime=backend)

    monkeypatch.setattr(backends, "open_session", open_session)
    monkeypatch.setattr(trial, "tried", lambda artifact: artifact)  # the files hold no models
    files = [str(fake_artifact(tmp_path, name).path) for name in ("good", "bad", "other")]
    code, out, err = run(capsys, tmp_path, "--onnx", *files)
    assert (
        code == 1
        and "failed: bad: RuntimeError: the device was lost" in err
        and "1 of 3 rows" in err
    )
    assert sorted(record.model.name for record in Store(tmp_path / "out" / "s.jsonl").read()) == [
        "good",
        "other",
    ]
    assert "Traceback" not in err and "good" in out


def test_a_store_that_cannot_be_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, record: Record) -> Record:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "append", full)
    files = [str(fake_artifact(tmp_path, name).path) for name in ("good", "other")]
    with pytest.raises(OSError, match="No space left"):
        main(["--onnx", *files, *QUICK, "--out", str(tmp_path / "out" / "s.jsonl")])
