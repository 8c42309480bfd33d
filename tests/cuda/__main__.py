"""Puts faults into a copy of the CUDA sources, one at a time, and runs the tests that should find
them: ``python tests/cuda`` (or ``tox run -e mutants``), with parts of names for some of the faults.

Each fault is tried against the tests that its row in faults.py names, and no others; a test is run
without a fault before the first fault that it should find. Prints a table of faults and what found
them, then how many were found, were missed and were not tried. Exit code 1 if a fault is missed,
does not compile or no longer fits the text, or if a test fails without a fault. A fault for which a
tool is missing is reported as not tried, which is exit code 1 too unless ``--without-tools`` is
given; so is every fault that ``--minutes`` left no time for.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from faults import FAULTS, TESTS, Fault  # noqa: E402

ROOT = HERE.parents[1]
# Seconds of processor time of a test without a fault, builds included; with a fault it may take so
# many times what it took without. The clock on the wall says nothing on a busy machine.
MOST_CPU_S = 1200.0
PATIENCE = 10.0
LEAST_CPU_S = 60.0
STILL_S = 180.0  # without any processor time: threads that wait for each other for ever
LOOK_S = 0.5  # between two looks
COMPILER = re.compile(r"\.(?:cu|cuh|cpp|h)(?::\d+:\d+|\(\d+\)): (?:fatal )?error")
FOUND = "found"
HANGS = "found: hangs"
PASSED = "passed"
SKIPPED = "not tried"
BROKEN = "does not compile"
MISSED = "NOT FOUND"


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


def spent_by(session: int) -> float:
    """Seconds of processor time that the living processes of a session have had, with those of
    their children that have ended.
    """
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):  # it has just ended
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def run_for(
    command: list[str], folder: Path, environment: dict[str, str], most_s: float
) -> tuple[int | None, str, float]:
    """(exit code, output, seconds of processor time) of a command in a session of its own; the code
    is None, and all of its processes are ended, after ``most_s`` seconds of processor time or
    STILL_S seconds without any.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        spent, since = 0.0, time.monotonic()
        while True:
            try:
                code: int | None = process.wait(LOOK_S)
                break
            except subprocess.TimeoutExpired:
                now = spent_by(process.pid)
                since = time.monotonic() if now > spent else since
                spent = max(spent, now)
                if spent > most_s or time.monotonic() - since > STILL_S:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    code = None
                    break
        file.seek(0)
        return code, file.read(), spent


def outcome(test: str, folder: Path, most_s: float) -> tuple[str, str, float]:
    """FOUND, HANGS, PASSED, SKIPPED or BROKEN, the output, and seconds of processor time."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS[test]]
    environment = {
        **os.environ,
        "RFDETR_PROOF_CACHE": os.environ.get("RFDETR_PROOF_CACHE") or str(folder / "objects"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    code, output, spent = run_for(command, folder, environment, most_s)
    if code is None:
        return HANGS, f"after {spent:.0f} s of processor time", spent
    if COMPILER.search(output):
        return BROKEN, output, spent
    if code == 0 and not re.search(r"^\d+ passed|[ ,]\d+ passed", output, re.M):
        return SKIPPED, output, spent
    if code > 1:  # not a failing test, nor a signal: nothing was tested
        return BROKEN, f"error: pytest ends with {code}\n{output}", spent
    return (PASSED if code == 0 else FOUND), output, spent


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


class Trial:
    """Tries faults in a copy of the sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.usual_s: dict[str, float] = {}  # processor time of tests that pass without a fault
        self.failing: set[str] = set()  # without a fault

    def passes(self, test: str) -> bool:
        """Whether a test passes, or is skipped, without a fault; it is run once."""
        if test not in self.usual_s and test not in self.failing:
            kind, output, spent = outcome(test, self.folder, MOST_CPU_S)
            self.usual_s[test] = spent
            if kind in (FOUND, HANGS, BROKEN):
                self.failing.add(test)
                print(f"error: {test} fails without a fault\n{output[-3000:]}", file=sys.stderr)
        return test not in self.failing

    def tried(self, fault: Fault) -> tuple[str, str]:
        """FOUND or HANGS and the test that found it, or what went wrong."""
        if not all(map(self.passes, fault.found_by)):
            return BROKEN, "a test fails without a fault"
        before = put(fault, self.folder)
        if not before:
            return "no longer fits", f"{fault.old!r} is not {fault.times} times in {fault.file}"
        missing = ""
        try:
            for test in fault.found_by:
                most_s = max(LEAST_CPU_S, PATIENCE * self.usual_s[test])
                kind, output, _ = outcome(test, self.folder, most_s)
                if kind == FOUND:
                    return FOUND, test
                if kind == HANGS:
                    return HANGS, f"{test}, {output}"
                if kind == BROKEN:
                    lines = [line for line in output.splitlines() if "error" in line]
                    return BROKEN, "\n".join(lines)[:600]
                missing = test if kind == SKIPPED else missing
        finally:
            (self.folder / "csrc" / fault.file).write_text(before, encoding="utf-8")
        return (SKIPPED, f"{missing} needs a tool that is not here") if missing else (MISSED, "")


def chosen(names: list[str]) -> list[Fault]:
    """The faults whose names hold one of ``names``; all without any."""
    return [fault for fault in FAULTS if not names or any(name in fault.name for name in names)]


def report(counts: Counter[str], faults: int, without_tools: bool) -> int:
    """Prints how the faults ended; returns the exit code."""
    found, missed, left = counts[FOUND] + counts[HANGS], counts[MISSED], counts[SKIPPED]
    wrong = faults - found - missed - left
    print(f"{found} of {faults} found, {missed} missed, {left} not tried, {wrong} not usable")
    return 1 if missed or wrong or (left and not without_tools) else 0


def main() -> int:
    parser = argparse.ArgumentParser("tests/cuda", description="Faults that a test must find.")
    parser.add_argument("names", nargs="*", help="parts of the names of faults; all without any")
    parser.add_argument(
        "--without-tools", action="store_true", help="accept faults that a missing tool would find"
    )
    parser.add_argument(
        "--minutes", type=float, help="begin no fault after so many minutes; the rest is not tried"
    )
    args = parser.parse_args()
    faults = chosen(args.names)
    if not faults:
        print("error: no fault has such a name", file=sys.stderr)
        return 2
    started = time.monotonic()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "objects").mkdir()
        copy_of_the_tests(folder)
        trial = Trial(folder)
        for fault in faults:
            start = time.monotonic()
            if args.minutes is not None and start - started > 60 * args.minutes:
                kind, detail = SKIPPED, "the time is over"
            else:
                kind, detail = trial.tried(fault)
            counts[kind] += 1
            seconds = time.monotonic() - start
            print(f"{fault.name:68} {kind:14} {detail}  ({seconds:.0f} s)", flush=True)
    return report(counts, len(faults), args.without_tools)


if __name__ == "__main__":
    raise SystemExit(main())
