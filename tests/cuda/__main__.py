"""Puts faults into a copy of the CUDA sources, one at a time, and runs the tests that should find
them: ``python tests/cuda`` (or ``tox run -e mutants``), with parts of names for some of the faults.

Prints a table of faults and what found them. Exit code 1 if a fault is not found, does not compile
or no longer fits the text, or if a test fails without a fault. A fault for which a tool is missing
is reported as not tried, which is exit code 1 too unless ``--without-tools`` is given.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from faults import FAULTS, TESTS, Fault  # noqa: E402

ROOT = HERE.parents[1]
# of a test without a fault; one with a fault may take so many times what it took without
TIMEOUT_S = 3600.0
PATIENCE = 10.0
LEAST_TIMEOUT_S = 400.0
COMPILER = re.compile(r"\.(?:cu|cuh|cpp|h)(?::\d+:\d+|\(\d+\)): (?:fatal )?error")
FOUND = "found"
HANGS = "found: hangs"
PASSED = "passed"
SKIPPED = "not tried"
BROKEN = "does not compile"


def copy_of_the_tests(folder: Path) -> None:
    """What the tests read, in a folder of its own; the package and its compiled library are the
    ones here.
    """
    folders = ("csrc", "tests/cuda", "tests/ops", "tests/support")
    for name in folders:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/conftest.py", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "rfdetr_repro").symlink_to(ROOT / "rfdetr_repro")


def outcome(test: str, folder: Path, timeout_s: float) -> tuple[str, str]:
    """FOUND, HANGS, PASSED, SKIPPED or BROKEN, and the output."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS[test]]
    environment = {
        **os.environ,
        "RFDETR_PROOF_CACHE": os.environ.get("RFDETR_PROOF_CACHE") or str(folder / "objects"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return HANGS, f"longer than {timeout_s:.0f} s"
    output = done.stdout + done.stderr
    if COMPILER.search(output):
        return BROKEN, output
    if done.returncode == 0 and not re.search(r"^\d+ passed|[ ,]\d+ passed", output, re.M):
        return SKIPPED, output
    if done.returncode > 1:  # not a failing test, nor a signal: nothing was tested
        return BROKEN, f"error: pytest ends with {done.returncode}\n{output}"
    return (PASSED if done.returncode == 0 else FOUND), output


def put(fault: Fault, folder: Path) -> str:
    """Writes the fault into the copy and returns the text that was there; empty when the fault no
    longer fits.
    """
    path = folder / "csrc" / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != fault.times:
        return ""
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return text


def tried(fault: Fault, folder: Path, usual_s: dict[str, float]) -> tuple[str, str]:
    """FOUND or HANGS and the test that found it, or what went wrong. ``usual_s``: seconds that each
    test takes without a fault.
    """
    before = put(fault, folder)
    if not before:
        return "no longer fits", f"{fault.old!r} is not {fault.times} times in {fault.file}"
    missing = ""
    try:
        for test in fault.found_by:
            timeout_s = max(LEAST_TIMEOUT_S, PATIENCE * usual_s[test])
            kind, output = outcome(test, folder, timeout_s)
            if kind == FOUND:
                return FOUND, test
            if kind == HANGS:
                return HANGS, f"{test}, {output}"
            if kind == BROKEN:
                return BROKEN, "\n".join(line for line in output.splitlines() if "error" in line)[
                    :600
                ]
            missing = test if kind == SKIPPED else missing
    finally:
        (folder / "csrc" / fault.file).write_text(before, encoding="utf-8")
    return (SKIPPED, f"{missing} needs a tool that is not here") if missing else ("NOT FOUND", "")


def without_a_fault(faults: list[Fault], folder: Path) -> tuple[list[str], dict[str, float]]:
    """Tests that fail on the sources as they are, and the seconds that each test takes."""
    tests = dict.fromkeys(test for fault in faults for test in fault.found_by)
    failing = []
    seconds = {}
    for test in tests:
        start = time.monotonic()
        kind, output = outcome(test, folder, TIMEOUT_S)
        seconds[test] = time.monotonic() - start
        if kind in (FOUND, HANGS, BROKEN):
            failing.append(test)
            print(output[-3000:])
    return failing, seconds


def main() -> int:
    parser = argparse.ArgumentParser("tests/cuda", description="Faults that a test must find.")
    parser.add_argument("names", nargs="*", help="parts of the names of faults; all without any")
    parser.add_argument(
        "--without-tools", action="store_true", help="accept faults that a missing tool would find"
    )
    args = parser.parse_args()
    names = args.names or [""]
    faults = [fault for fault in FAULTS if any(name in fault.name for name in names)]
    if not faults:
        print("error: no fault has such a name", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "objects").mkdir()
        copy_of_the_tests(folder)
        failing, usual_s = without_a_fault(faults, folder)
        if failing:
            print(f"error: fails without a fault: {', '.join(failing)}", file=sys.stderr)
            return 1
        wrong = 0
        for fault in faults:
            start = time.monotonic()
            kind, detail = tried(fault, folder, usual_s)
            accepted = kind in (FOUND, HANGS) or (kind == SKIPPED and args.without_tools)
            wrong += not accepted
            seconds = time.monotonic() - start
            print(f"{fault.name:68} {kind:14} {detail}  ({seconds:.0f} s)", flush=True)
    print(f"{len(faults) - wrong} of {len(faults)} found")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
