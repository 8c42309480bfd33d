"""Accuracy and latency of one file become Records, once; a session of another file is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples_coco import random_document, write_folder
from samples_export import tiny_artifact, tiny_detector

from rfdetr_repro.bench import cells
from rfdetr_repro.bench import confirm as module
from rfdetr_repro.bench.cells import Context
from rfdetr_repro.bench.command import run as command
from rfdetr_repro.bench.confirm import confirm
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.samples import load_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.spec.protocol import Protocol

QUICK = dict(threads=1, warmup=1, min_samples=5, max_samples=6, buffer_ms=0.1)
PROTOCOLS = [Protocol("buffered", **QUICK), Protocol("sustained", **QUICK)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, split in enumerate(("val", "test")):
        write_folder(folder, random_document(seed), split)
    return folder


@pytest.fixture(scope="module")
def splits(data: Path) -> list[CocoSplit]:
    return [read_split(data, name) for name in ("val", "test")]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("artifact"))


def test_a_record_for_every_split_and_protocol(
    artifact: Artifact, splits: list[CocoSplit], tmp_path: Path
) -> None:
    store = Store(tmp_path / "records.jsonl")
    records = confirm(artifact, splits, PROTOCOLS, store, context=Context("trial", "command", 7))
    assert [(r.data.split, r.protocol.mode) for r in records] == [
        ("val", "buffered"),
        ("val", "sustained"),
        ("test", "buffered"),
        ("test", "sustained"),
    ]
    assert sorted(store.read(), key=lambda r: r.id) == sorted(records, key=lambda r: r.id)
    for record in records:
        assert record.source == "protocol" and record.campaign == "trial" and record.seed == 7
        hashes = {
            record.artifact.sha256,
            record.accuracy.artifact_sha256,
            record.mask_accuracy.artifact_sha256,
        }
        assert hashes | {record.latency.artifact_sha256} == {artifact.sha256}
        assert (
            0 <= record.accuracy.ap <= 1
            and record.latency.median_ms > 0
            and record.latency.throttled == "unknown"
        )
        assert record.cost.params == tiny_detector().slice(record.model.arch).num_params()
    assert records[0].latency == records[2].latency and records[0].accuracy == records[1].accuracy


def test_raw_samples_lie_beside_the_store(artifact: Artifact, tmp_path: Path) -> None:
    (record,) = confirm(artifact, [], PROTOCOLS[:1], Store(tmp_path / "records.jsonl"))
    path = tmp_path / "samples" / f"{record.latency.samples_sha256}.npz"
    samples = load_samples(tmp_path, record.latency.samples_sha256).ms
    assert sha256_file(path) == record.latency.samples_sha256
    assert (
        np.median(samples) == record.latency.median_ms
        and len(samples) == record.latency.num_samples
    )
    assert record.data is None and record.accuracy is None


def test_nothing_is_measured_twice(
    artifact: Artifact, splits: list[CocoSplit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "records.jsonl")
    first = confirm(artifact, splits[:1], PROTOCOLS[:1], store)
    asked = []
    monkeypatch.setattr(
        cells,
        "accuracy_of",
        lambda session, split, **_: asked.append(split.split) or (_ACCURACY, None),
    )
    _ACCURACY = first[0].accuracy
    every = confirm(artifact, splits, PROTOCOLS[:1], store)
    assert asked == ["test"] and every[0] == first[0]
    monkeypatch.setattr(
        module, "measure_interleaved", lambda *_, **__: pytest.fail("measured again")
    )
    assert confirm(artifact, splits, PROTOCOLS[:1], store) == every
    assert len(store.path.read_text().splitlines()) == 2


def test_a_new_file_of_the_same_model_is_measured_again(artifact: Artifact, tmp_path: Path) -> None:
    store = Store(tmp_path / "records.jsonl")
    confirm(artifact, [], PROTOCOLS[:1], store)
    other = tiny_artifact(tmp_path, tiny_detector(seed=1))
    (record,) = confirm(other, [], PROTOCOLS[:1], store)
    assert record.artifact.sha256 == other.sha256 != artifact.sha256


def test_a_session_of_another_file_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    other = OrtSession(tiny_artifact(tmp_path, tiny_detector(seed=1)), threads=1)
    store = Store(tmp_path / "records.jsonl")
    with pytest.raises(StatedFailure, match="must come from one file"):
        confirm(artifact, [], PROTOCOLS, store, session=other)
    assert not store.path.exists()


def test_random_weights_have_no_accuracy(splits: list[CocoSplit], tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, weights="random")
    store = Store(tmp_path / "records.jsonl")
    with pytest.raises(InputError, match="random weights has no accuracy"):
        confirm(artifact, splits, PROTOCOLS, store)
    (record,) = confirm(artifact, [], PROTOCOLS[:1], store)
    assert (
        record.model.weights == "random" and record.accuracy is None and record.latency is not None
    )


def test_protocols_must_agree_on_threads(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="same number of threads"):
        confirm(
            artifact,
            [],
            [Protocol(threads=1), Protocol(threads=2)],
            Store(tmp_path / "records.jsonl"),
        )


def test_command(
    artifact: Artifact, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records.jsonl"
    arguments = [
        "--onnx",
        str(artifact.path),
        "--data",
        str(data),
        "--protocol",
        "sustained",
        "--out",
        str(out),
    ]
    assert run_main(command.main, [*arguments, "--threads", "1", "--samples", "5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    header = next(place for place, line in enumerate(printed) if "median ms" in line)
    assert "sustained" in printed[header + 1] and artifact.sha256[:8] in printed[header + 1]
    assert len(Store(out).read()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--threads", "0"],
        ["--samples", "0"],
        ["--builds", "0"],
        ["--fps", "0"],
        ["--buffer-ms", "-1"],
        ["--precision", "fp8"],
        ["--checkpoint", "x"],
        ["--data", "missing-folder"],
        ["--backend", "abacus"],
    ],
)
def test_command_with_bad_input(
    artifact: Artifact, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--onnx", str(artifact.path), *arguments, "--out", str(tmp_path / "out.jsonl")]
    assert run_main(command.main, given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
