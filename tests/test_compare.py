"""Two stores: joined by request, judged by raw samples, machines kept apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_record import SHA, fixed_record

from rfdetr_repro.bench.compare import compare_stores, main
from rfdetr_repro.bench.samples import Series, save_samples
from rfdetr_repro.errors import run_main
from rfdetr_repro.latency_protocol import Protocol
from rfdetr_repro.record import ArtifactId, Machine, Record
from rfdetr_repro.store import Store


def store(folder: Path, ms: float, *, seed: int = 0, **changes: object) -> Path:
    """A store with one Record of 128 samples around ``ms``."""
    samples = ms * np.exp(np.random.default_rng(seed).normal(0, 0.005, 128))
    record: Record = fixed_record(**changes)
    digest = save_samples(folder, Series.of(samples))
    record = replace(record, latency=replace(record.latency, median_ms=float(np.median(samples)), samples_sha256=digest))
    Store(folder / "store.jsonl").append(record)
    return folder / "store.jsonl"


@pytest.mark.parametrize(("ms", "word"), [(8.0, "FASTER"), (12.0, "SLOWER"), (10.0, "SAME")])
def test_the_new_one_is_judged(ms: float, word: str, tmp_path: Path) -> None:
    (pair,) = compare_stores(store(tmp_path / "a", 10.0), store(tmp_path / "b", ms, seed=1))
    assert pair.verdict is not None and pair.verdict.word == word and pair.note == ""
    assert pair.verdict.interval_ms.low <= pair.verdict.difference_ms <= pair.verdict.interval_ms.high


def test_other_machines_are_marked_and_left_alone(tmp_path: Path) -> None:
    old, new = store(tmp_path / "a", 10.0), store(tmp_path / "b", 20.0, machine=Machine("Other CPU", 2, 8.0, "Linux"))
    (pair,) = compare_stores(old, new)
    assert pair.verdict is None and pair.note == "Example CPU -> Other CPU" and "another machine" in pair.reason
    (pair,) = compare_stores(old, new, any_machine=True)
    assert pair.verdict is not None and pair.verdict.word == "SLOWER" and "Other CPU" in pair.note


def test_changed_options_and_files_are_noted(tmp_path: Path) -> None:
    other = ArtifactId("cd" * 32, "cd" * 32, "onnxruntime-cpu", "fp32", 1, "ort=2")
    moved = replace(fixed_record().latency, artifact_sha256="cd" * 32)
    new = store(tmp_path / "b", 10.0, artifact=other, latency=moved, accuracy=None)
    (pair,) = compare_stores(store(tmp_path / "a", 10.0), new)
    assert pair.note == "no options -> ort=2; file abababab -> cdcdcdcd"


def test_other_requests_do_not_join(tmp_path: Path) -> None:
    for index, change in enumerate(
        (
            {"protocol": Protocol("sustained")},
            {"protocol": Protocol(flush_l2=True)},
            {"artifact": ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp16", 1)},
            {"latency": replace(fixed_record().latency, cuda_graph=True)},
        )
    ):
        new = store(tmp_path / str(index), 10.0, **change)
        (pair,) = compare_stores(store(tmp_path / f"old{index}", 10.0), new)
        assert pair.verdict is None and pair.reason == "not in the old store"


def test_lost_samples_leave_a_row_uncompared(tmp_path: Path) -> None:
    old, new = store(tmp_path / "a", 10.0), store(tmp_path / "b", 10.0, seed=1)
    for file in (tmp_path / "a" / "samples").iterdir():
        file.unlink()
    (pair,) = compare_stores(old, new)
    assert pair.verdict is None and "cannot read" in pair.reason


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, slow = str(store(tmp_path / "a", 10.0)), str(store(tmp_path / "b", 12.0, seed=1))
    assert run_main(main, [old, slow]) == 0
    out = capsys.readouterr().out
    assert "buffered 200 ms engine, new: SLOWER than old, +1." in out and "1 of 1 rows compared: 1 SLOWER" in out
    assert run_main(main, [old, slow, "--fail-slower"]) == 1 and run_main(main, [slow, old, "--fail-slower"]) == 0
    assert run_main(main, [old, slow, "--fail-slower", "--margin", "0.5"]) == 0
    assert run_main(main, [old, str(tmp_path / "none.jsonl")]) == 2
    with open(slow, "a") as stream:
        stream.write('{"torn')  # a run killed in the middle of a line
    assert run_main(main, [old, slow]) == 0
