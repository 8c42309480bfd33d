"""A fixed sample of the structured fuzz (``tox run -e fuzz`` tries more): no malformed input ends
in a traceback or a hang.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUZZ), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=FUZZ.parents[1], check=False)


@pytest.mark.slow
def test_a_sample_of_malformed_inputs_comes_out_right() -> None:
    done = fuzz("--seconds", "3000", "--most", "60", "--seed", "5", "--timeout", "1000")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "right: 60 of 60" in done.stdout


def test_the_judge_finds_what_is_wrong(tmp_path: Path) -> None:
    """Commands that do each wrong thing are told apart; a judge that calls everything right would
    pass the test above.
    """
    script = f"""
import sys
sys.path[:0] = [{str(FUZZ)!r}, {str(FUZZ.parent / "support")!r}, {str(FUZZ.parents[1])!r}]
import numpy, resource, time, types, os, pathlib
import runner
from cases import Case
from mutations import Mutation
from rfdetr_repro.spec.errors import InputError
runner.MOST_MEMORY_GIB = 0.3 + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
def wrong(kind):
    def main(argv):
        if kind == "traceback": raise RuntimeError("x")
        if kind == "crash": os.kill(os.getpid(), 11)
        if kind == "hang": time.sleep(600)
        if kind == "not one clear line": print("warning", file=sys.stderr); raise InputError("bad")
        if kind == "files left": pathlib.Path("half").write_text(""); raise InputError("bad")
        if kind == "exit code": raise SystemExit(9)
        if kind == "memory": numpy.ones(int((runner.MOST_MEMORY_GIB + 0.2) * 2**30), numpy.uint8)
        if kind == "right": raise InputError("bad")
    return main
for kind in runner.KINDS:
    module = types.ModuleType(kind)
    module.main = wrong(kind)
    sys.modules[kind] = module
    runner.MODULES[kind] = kind
    mutation = Mutation("none", lambda path: None, True)
    seeds = pathlib.Path({str(tmp_path)!r}); (seeds / "file").touch()
    limit = 2.0 if kind == "hang" else 300.0
    case = Case("r", kind, (), "file", mutation, True)
    found = runner.run_case(case, seeds, timeout_s=limit)
    print(kind, "->", found.kind)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 9 and all(
        line.split(" -> ")[0] == line.split(" -> ")[1] for line in lines
    ), done.stdout + done.stderr
