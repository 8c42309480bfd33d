"""The study that measures engines for the benchmark of architecture search."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies import nasbench_engines
from benchmarks.studies.nasbench_engines import main
from rfdetr_repro.nasbench.space import SPACE
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.engines import engine_order
from rfdetr_repro.search.nasbench_latency import runtimes_in
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.presets import PICO


def test_records_are_those_that_the_benchmark_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are small: the space is cut to its smallest inputs."""
    smallest = [arch for arch in SPACE if arch.resolution == 80 and arch.windows == 1][:8]
    monkeypatch.setattr(nasbench_engines, "engine_order", lambda space, seed: smallest)
    out = tmp_path / "out"
    asked = ["--out", str(out), "--backends", "torch", "--threads", "1", "--engines", "8"]
    assert run_main(main, asked) == 0
    assert capsys.readouterr().out.startswith("torch-1: 8 engines, ")
    records = Store(out / "records.jsonl").read()
    runtimes = runtimes_in(records, smallest, PICO.model)
    assert list(runtimes) == ["torch-1"] and len(runtimes["torch-1"].measured) == 8
    assert run_main(main, asked) == 0  # nothing is measured again
    assert len(Store(out / "records.jsonl").read()) == len(records)
    (tmp_path / "file").write_text("")
    assert run_main(main, ["--out", str(tmp_path / "file")]) == 2


def test_engines_are_drawn_from_the_whole_space() -> None:
    archs = engine_order(SPACE, 0)[:24]
    assert {arch.windows for arch in archs} == {1, 2, 4}
    assert max(arch.patch for arch in archs) > 20 and max(arch.resolution for arch in archs) > 160
