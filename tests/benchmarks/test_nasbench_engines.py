"""The study that measures engines for the benchmark of architecture search."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.studies import nasbench_engines
from benchmarks.studies.nasbench_engines import main
from rfdetr_repro.nasbench.space import SPACE
from rfdetr_repro.records.store import Store
from rfdetr_repro.search.engines import engine_order
from rfdetr_repro.search.nasbench_latency import runtimes_in
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.presets import PICO

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parity
@pytest.mark.slow
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


def test_a_missing_package_is_named_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(backend: str) -> None:
        if backend == "openvino":
            raise InputError("the package openvino is not installed")

    monkeypatch.setattr(nasbench_engines, "check_backend", missing)
    out = tmp_path / "out"
    assert run_main(main, ["--out", str(out), "--backends", "torch", "openvino"]) == 2
    assert "openvino is not installed" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("study", ["nasbench_engines --out", "session_spread"])
def test_a_wrong_file_ends_the_program_with_exit_code_2(tmp_path: Path, study: str) -> None:
    (tmp_path / "file.onnx").write_text("")
    command = [sys.executable, "-m", *f"benchmarks.studies.{study}".split()]
    ended = subprocess.run(
        [*command, str(tmp_path / "file.onnx")], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and len(ended.stderr.splitlines()) == 1
