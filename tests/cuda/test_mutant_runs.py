"""The runs of ``tests/cuda``: a program that does not end is ended by its processor time, or when
it has none, whatever the load of the machine, and what was not found is no success.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="Linux's /proc")


@pytest.fixture(scope="module")
def program() -> ModuleType:
    path = Path(__file__).with_name("__main__.py")
    spec = importlib.util.spec_from_file_location("cuda_mutants", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(program: ModuleType, code: str, folder: Path, most_s: float) -> tuple[int | None, str]:
    command = [sys.executable, "-S", "-c", code]
    return program.run_for(command, folder, dict(os.environ), most_s)[:2]


def test_a_program_that_ends_is_waited_for(program: ModuleType, tmp_path: Path) -> None:
    assert run(program, "print('yes'); raise SystemExit(3)", tmp_path, 60.0) == (3, "yes\n")


def test_work_without_end_is_ended_with_its_children(program: ModuleType, tmp_path: Path) -> None:
    """The processor time is that of a child; the program itself only waits for it."""
    inner = "import os; print(os.getpid(), flush=True)\nwhile True: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {inner!r}])"
    found, output = run(program, code, tmp_path, 0.5)
    assert found is None
    for _ in range(200):
        try:
            state = Path(f"/proc/{int(output)}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child lives on")


def test_a_program_that_only_waits_is_ended(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "STILL_S", 1.0)
    code = "import threading; threading.Event().wait()"
    assert run(program, code, tmp_path, 3600.0)[0] is None


@pytest.mark.parametrize(
    ("counts", "without_tools", "code", "line"),
    [
        ({"found": 2, "found: hangs": 1}, False, 0, "3 of 3 found, 0 missed, 0 not tried"),
        ({"found": 2, "not tried": 1}, False, 1, "2 of 3 found, 0 missed, 1 not tried"),
        ({"found": 2, "not tried": 1}, True, 0, "2 of 3 found"),
        ({"found": 2, "NOT FOUND": 1}, True, 1, "2 of 3 found, 1 missed"),
        ({"found": 2, "does not compile": 1}, True, 1, "0 not tried, 1 not usable"),
    ],
)
def test_what_was_not_found_is_no_success(
    counts: dict[str, int],
    without_tools: bool,
    code: int,
    line: str,
    program: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.report(Counter(counts), 3, without_tools) == code
    assert line in capsys.readouterr().out
