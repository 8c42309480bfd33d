"""benchmarks/gpu.py, the one command for a CUDA machine: it runs every test file that has something
for a GPU, ends what takes too long, leaves what it found, and says why a call is no CUDA graph. The
dry run takes every measuring step at toy size, so that the first run on a GPU is no rehearsal.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks.gpu_steps import timing

ROOT = Path(__file__).resolve().parents[2]
# as CUDA 12 and PyTorch 2.13 word them
DURING = "CUDA error: operation not permitted when stream is capturing"
AFTER = "CUDA error: operation failed due to a previous error during capture"


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


def test_the_plan_keeps_within_the_deadline(script: ModuleType, tmp_path: Path) -> None:
    """Build and sanitizer aside, whose limits are generous, evidence fits into the time."""
    parts = {part.name: part.seconds for part in script.plan(False, tmp_path)}
    measured = sum(seconds for name, seconds in parts.items() if name in script.MEASURED)
    assert measured + parts["tests"] <= script.DEADLINE_S - 35
    assert next(iter(parts)) == "build" and set(script.MEASURED) <= set(parts)


def test_dry_run(tmp_path: Path) -> None:
    """Every measuring step, on the CPU; the tests for a GPU skip there."""
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--skip", "tests"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all steps ok" in done.stdout
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    sources = {json.loads(line)["model"]["family"] for line in lines}
    assert {"ceiling", "operator", "training", "search", "rfdetr"} <= sources
    with tarfile.open(tmp_path / "gpu.tar.gz") as archive:
        names = archive.getnames()
    assert {"operators.log", "operators.jsonl", "summary.txt"} <= set(names)
    outside = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(outside) == ["gpu.tar.gz", "records.jsonl", "summary.txt"]


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
    run = script.Run(tmp_path / "out", 600.0, False)
    hangs = script.Part("hangs", (sys.executable, "-c", program), 3.0 - script.SLACK_S)
    assert not run.take(hangs)
    assert run.take(script.Part("next", (sys.executable, "-c", "print('after')"), 10.0))
    run.pack()
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert "after" in text and "ended after its 3 s" in text and run.failed == ["hangs"]
    pid = int((tmp_path / "out" / "work" / "hangs.log").read_text())
    for _ in range(200):
        if ended(pid):
            break
        time.sleep(0.1)
    assert ended(pid)


def test_slow_machines_are_waited_for_without_a_gpu(script: ModuleType, tmp_path: Path) -> None:
    assert script.Run(tmp_path, 60.0, True).slack_s > 60 * script.Run(tmp_path, 60.0, False).slack_s
    asked = (["--dry-run"], [], ["--dry-run", "--deadline", "9"])
    found = [script.deadline_of(script.parser().parse_args(words)) for words in asked]
    assert found == [script.DRY_S, script.DEADLINE_S, 9.0]


def test_a_run_without_time_leaves_steps_out(script: ModuleType, tmp_path: Path) -> None:
    run = script.Run(tmp_path, 4.0, True)
    assert not run.take(script.Part("late", (sys.executable, "-c", "print(1)"), 10.0))
    assert "late: left out" in run.summary[-1]


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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """A stand-in for torch.cuda: the end of a spoiled capture raises, as PyTorch's does."""
    state = {"capturing": False}

    @contextmanager
    def graph(_: object):
        state["capturing"] = True
        try:
            yield
        except RuntimeError as error:
            raise torch.AcceleratorError(AFTER) from error.__cause__
        finally:
            state["capturing"] = False

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fake = SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda _: nullcontext(),
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: "replayed"),
        graph=graph,
        synchronize=lambda: None,
    )
    monkeypatch.setattr(timing.torch, "cuda", fake)
    return state


def test_a_refused_capture_is_told_with_its_first_reason(
    gpu: dict[str, bool],
) -> None:
    def allocates() -> None:
        if gpu["capturing"]:
            raise torch.AcceleratorError(f"{DURING}\nCUDA kernel errors might be reported later")

    notes: list[str] = []
    calls = {"ours": lambda: None, "theirs": allocates}
    graphs = timing.graphs_of(calls, notes, "medium float32 forward")
    assert list(graphs) == ["ours"] and graphs["ours"]() == "replayed"
    assert notes == [f"medium float32 forward: theirs cannot be captured ({DURING})"]


@pytest.mark.parametrize("inside", [False, True], ids=["before the capture", "while capturing"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        ValueError("a shape"),
    ],
)
def test_any_other_error_is_no_refusal(
    error: Exception,
    inside: bool,
    gpu: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def graph(_: object):
        gpu["capturing"] = True
        try:
            yield
        finally:
            gpu["capturing"] = False

    monkeypatch.setattr(timing.torch.cuda, "graph", graph)

    def fails() -> None:
        if gpu["capturing"] == inside:
            raise error

    with pytest.raises(type(error), match=str(error)[:10]):
        timing.captured(fails)


def test_a_capture_that_memory_spoiled_is_no_refusal(
    gpu: dict[str, bool],
) -> None:
    """The end of such a capture speaks of capturing, too."""

    def fails() -> None:
        if gpu["capturing"]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="previous error during capture"):
        timing.captured(fails)
