"""Rows of pytest-benchmark's table for implementations that are timed in turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import turns

ROOT = Path(__file__).resolve().parents[2]


def row(extra: dict[str, object], **further: object) -> dict[str, object]:
    return {
        "name": "test_cpu[a]",
        "fullname": "benchmarks/test_ops.py::test_cpu[a]",
        "group": "case a",
        "median": 1.0,
        "extra_info": extra,
        **further,
    }


def test_a_row_per_implementation_with_its_ratio() -> None:
    extra = {
        turns.TURNS: {"first": "ours", "rows": {"theirs": {"median": 7.5}}},
        "median_over_theirs": [7.5, 7.1, 8.0],
    }
    other = {**row({}), "group": None, "name": "test_b", "fullname": "x.py::test_b[1]"}
    found = dict(turns.grouped([row(extra), other]))
    assert list(found) == ["case a", "x.py::test_b"]
    assert [(one["name"], one["median"]) for one in found["case a"]] == [
        ("ours", 1.0),
        ("theirs: 7.50 x ours (7.10 to 8.00)", 7.5),
    ]
    saved = row(extra, source="0001_saved.json")  # of --benchmark-compare
    assert turns.grouped([saved]) == [("case a", [saved])]


def test_samples_are_in_turns() -> None:
    order: list[str] = []
    found = turns._samples(
        {name: lambda name=name: order.append(name) for name in ("a", "b", "c")}, 0.0, 20
    )
    assert [len(values) for values in found.values()] == [20, 20, 20]
    warm, rest = order[:3], order[3:]
    assert warm == ["a", "b", "c"]
    rounds = [tuple(rest[place : place + 3]) for place in range(0, len(rest), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1, "a fixed order would favour whoever follows the lightest call"


def test_statistics_are_those_of_the_samples() -> None:
    seconds = [0.3, 0.1, 0.2, 0.5, 0.4]
    found = turns._statistics(seconds)
    assert found["median"] == statistics.median(seconds)
    assert found["mean"] == pytest.approx(statistics.fmean(seconds))
    assert (found["min"], found["max"], found["rounds"]) == (0.1, 0.5, 5)


PROGRAM = """
from benchmarks.conftest import pytest_benchmark_group_stats
from benchmarks.turns import in_turns


def test_two(benchmark):
    def slow():
        return sum(range(300_000))

    in_turns(benchmark, {"quick": lambda: None, "slow": slow}, group="the case", budget_s=0.0)
"""


def test_the_printed_table_has_the_ratio(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "test_program.py").write_text(PROGRAM)
    (folder / "conftest.py").write_text(
        "from benchmarks.conftest import pytest_benchmark_group_stats\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), str(folder)]
    command += ["-p", "no:cacheprovider", "--benchmark-only", "-W", "error", "-p", "no:xdist"]
    # a worker of a parallel run would pass its role on, and benchmarks are off in workers
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, env=own, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark 'the case': 2 tests" in done.stdout
    lines = done.stdout.splitlines()
    [slow] = [line for line in lines if line.startswith("slow: ")]
    assert " x quick (" in slow and float(slow.split()[1]) > 1
    assert any(line.startswith("quick ") and "(1.0)" in line for line in lines)
