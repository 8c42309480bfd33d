"""benchmarks/gpu.py, the one command for a CUDA machine: it runs every test file that has something
for a GPU, ends what takes too long, and leaves what it found. A wrong result fails it. The dry run
takes every measuring step at toy size, so that the first run on a GPU is no rehearsal.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.gpu_steps import forked

ROOT = Path(__file__).resolve().parents[2]
LIMITS_S = (1.0, 8.0, 60.0)  # tried in turn until the machine begins a step within the limit


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_gpu_test_is_run(script: ModuleType, tmp_path: Path) -> None:
    run = {
        Path(word).name
        for part in script.plan(False, tmp_path)
        for word in part.command
        if word.endswith(".py")
    }
    marked = {
        path.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu\n" in path.read_text()
    }
    assert len(marked) >= 5 and marked <= run, marked - run


@pytest.mark.parametrize("part", ["evidence", "training", "all"])
def test_the_plan_keeps_within_the_deadline(script: ModuleType, tmp_path: Path, part: str) -> None:
    """Where every step takes the whole of its time, sanitizers included, each still gets it."""
    begun = 0.0
    for step in script.plan(False, tmp_path, part):
        left = script.DEADLINES[part] - begun - script.KILLED_AFTER_S
        assert left >= step.seconds >= script.LEAST_S, step.name
        begun += step.seconds


def test_the_parts_fit_the_machine_and_are_the_whole(script: ModuleType, tmp_path: Path) -> None:
    """A command has 10 minutes and both have 15, with the start of the machine."""
    evidence, training, whole = (
        [step.name for step in script.plan(False, tmp_path, part)] for part in script.DEADLINES
    )
    assert whole == [*evidence, *training[1:]] and evidence[0] == training[0] == "build"
    assert {"memcheck", "racecheck", "synccheck", "ncu", "operators"} <= set(evidence)
    assert script.DEADLINES["evidence"] < 600
    assert script.DEADLINES["evidence"] + script.DEADLINES["training"] < 900


def test_the_sanitizers_see_every_path(script: ModuleType, tmp_path: Path) -> None:
    """Their selection finds tests; without the program they are left out and the run says so."""
    parts = {part.name: part for part in script.plan(False, tmp_path)}
    words = list(parts["racecheck"].command)
    pytest_call = words[words.index(sys.executable) :]
    done = subprocess.run(
        [*pytest_call, "-n0", "--collect-only"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = re.findall(r"::(test_every_path_on_the_gpu\[\S+\])", done.stdout)
    assert len(names) == 2 and len(re.findall("::test_", done.stdout)) == 2, done.stdout
    assert any("pairs" in name for name in names) and any("levels" in name for name in names)


def test_a_program_that_is_not_installed_is_left_out(script: ModuleType, tmp_path: Path) -> None:
    run = script.Run(tmp_path, 60.0, False)
    command = (sys.executable, "-c", "print(1)")
    assert not run.take(script.Part("memcheck", command, 30.0, absent="it is not installed"))
    assert run.absent == {"memcheck": "it is not installed"} and not run.failed
    assert run.summary == ["== memcheck: left out, it is not installed"]


@pytest.mark.parametrize(
    ("codes", "code", "last"),
    [
        ([0, 0], 0, "all steps ok"),
        ([0, 4], 4, "all other steps ok; left out: second (why not)"),
        ([4, 1], 1, "failed or cut off: second; left out: first (why not)"),
        ([3, 0], 1, "failed or cut off: first"),
    ],
)
def test_line_and_exit_code_tell_absent_from_failed(
    codes: list[int],
    code: int,
    last: str,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def plan(dry: bool, work: Path, part: str) -> list[Any]:
        return [
            script.Part(name, ("sh", "-c", f"echo why not; exit {ends}"), 30.0, measures=True)
            for name, ends in zip(("first", "second"), codes, strict=True)
        ]

    monkeypatch.setattr(script, "plan", plan)
    assert script.main(["--dry-run", "--out", str(tmp_path)]) == code
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert lines[-1] == last
    words = {0: "ok", 4: "left out, why not", 1: "FAILED (1)", 3: "FAILED, wrong results"}
    told = [line.split(": ", 1)[1].rsplit(", ", 1)[0] for line in lines if line.startswith("== ")]
    assert told == [words[ends] for ends in codes]


@pytest.mark.slow
@pytest.mark.timeout(3600)  # at most; a loaded machine may take minutes
def test_dry_run(tmp_path: Path) -> None:
    """Every measuring step, on the CPU; the tests for a GPU skip there."""
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--skip", "tests"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all steps ok" in done.stdout and "WRONG" not in done.stdout
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    sources = {json.loads(line)["model"]["family"] for line in lines}
    assert {"ceiling", "operator", "training", "search", "rfdetr"} <= sources
    work = tmp_path / "work"
    latencies = (work / "latency.log").read_text()
    assert "buffered" in latencies and "without the watch" in latencies
    refused = "refused, as it must be without a GPU"
    assert all(refused in (work / f"{name}.log").read_text() for name in ("training", "compiled"))
    assert "sorted-2" in (work / "paths.log").read_text()
    with tarfile.open(tmp_path / "gpu.tar.gz") as archive:
        names = archive.getnames()
    assert {"operators.log", "operators.jsonl", "summary.txt"} <= set(names)
    outside = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(outside) == ["gpu.tar.gz", "records.jsonl", "summary.txt"]


FALSIFIED = """
from benchmarks.gpu_steps import operators

correct = operators.ops.ms_deform_attn
operators.ops.ms_deform_attn = lambda *arguments: 1.001 * correct(*arguments)
operators.main()
"""


def test_a_wrong_operator_fails_the_run_after_the_rest(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is measured and the next step runs; then the exit code is 1."""

    def plan(dry: bool, work: Path, part: str) -> list[Any]:
        options = ("--out", f"{work}/operators.jsonl", "--device", "cpu", "--toy")
        falsified = (sys.executable, "-c", FALSIFIED, *options)
        after = (sys.executable, "-c", "print('after')")
        return [
            script.Part("operators", falsified, 60.0, measures=True),
            script.Part("after", after, 10.0),
        ]

    monkeypatch.setattr(script, "plan", plan)
    assert script.main(["--dry-run", "--out", str(tmp_path)]) == 1
    text = (tmp_path / "summary.txt").read_text()
    assert "== operators: FAILED, wrong results" in text and "== after: ok" in text
    assert "WRONG: forward b2-q30-8x8 float32: ours" in text
    assert text.rstrip().endswith("failed or cut off: operators")
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {"fused b1-q20-2levels float32 graph"} <= {one["model"]["name"] for one in records}
    stated = [one["agreement"] for one in records if one["model"].get("variant") == "ours"]
    assert not any("campaign" in one for one in records)
    assert any("difference from grid_sample in float64 1.0e-03" in one for one in stated)


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")
def test_a_step_that_hangs_is_ended_with_its_children(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had printed is kept, and the next step runs."""
    monkeypatch.setattr(script, "LEAST_S", 0.5)
    program = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "out" / "work" / "hangs.log"
    for limit_s in LIMITS_S:
        run = script.Run(tmp_path / "out", 600.0, False)
        hangs = script.Part("hangs", (sys.executable, "-c", program), limit_s - script.SLACK_S)
        assert not run.take(hangs)
        if log.read_text():
            break
    assert run.take(script.Part("next", (sys.executable, "-c", "print('after')"), 10.0))
    run.pack()
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert (
        "after" in text and f"ended after its {limit_s:.0f} s" in text and run.failed == ["hangs"]
    )
    pid = int(log.read_text())
    for _ in range(200):
        if ended(pid):
            break
        time.sleep(0.1)
    assert ended(pid)


@pytest.mark.parametrize(
    ("text", "code", "left"),
    [
        ("import sys; print(*sys.argv); sys.exit(3)", 3, "a --toy"),
        ("print('before'); 1 / 0", 1, "ZeroDivisionError"),
        ("import os; print(os.environ['GIVEN'])", 0, "so"),
        ("import time; print('begun', flush=True); time.sleep(600)", None, "begun"),
    ],
)
def test_a_fork_is_as_a_program(
    text: str, code: int | None, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "SHARED", ())
    monkeypatch.syspath_prepend(tmp_path)
    name = f"forked_step_{code}"
    (tmp_path / f"{name}.py").write_text(text)
    log = tmp_path / "log"
    for limit_s in LIMITS_S if code is None else (600.0,):
        assert forked.run((name, "a", "--toy"), log, {"GIVEN": "so"}, limit_s) == code
        if log.exists() and log.read_text():
            break
    assert left in log.read_text()


def test_slow_machines_are_waited_for_without_a_gpu(script: ModuleType, tmp_path: Path) -> None:
    assert script.Run(tmp_path, 60.0, True).slack_s > 60 * script.Run(tmp_path, 60.0, False).slack_s
    asked = (["--dry-run"], [], ["--dry-run", "--deadline", "9"])
    found = [script.deadline_of(script.parser().parse_args(words)) for words in asked]
    assert found == [script.DRY_S, script.DEADLINES["evidence"], 9.0]


def test_a_run_without_time_leaves_steps_out(script: ModuleType, tmp_path: Path) -> None:
    run = script.Run(tmp_path, 4.0, True)
    assert not run.take(script.Part("late", (sys.executable, "-c", "print(1)"), 10.0))
    assert "late: left out" in run.summary[-1] and run.failed == ["late"]


def test_unknown_steps_and_a_machine_without_a_gpu(
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert script.main(["--only", "operator"]) == 2
    assert "no step is called 'operator'" in capsys.readouterr().err
    taken = tmp_path / "taken"
    taken.write_text("")
    for wrong in (["--out", str(taken)], ["--deadline", "0"]):
        assert script.main(["--dry-run", "--only", "ceilings", "--out", str(tmp_path), *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(script, "architecture", lambda: None)
    assert script.main(["--only", "operators"]) == 2
    assert "no NVIDIA GPU answers" in capsys.readouterr().err
