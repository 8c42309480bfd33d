"""Runs one case in a process of its own and judges what came out.

The parent has the slow libraries loaded and forks for each case, so that a case takes as long as
its own work.
"""

from __future__ import annotations

import importlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cases import Case

from rfdetr_repro.spec.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERNAL,
    EXIT_OK,
    LONGEST_LINE,
    run_main,
)

RIGHT = "right"
KINDS = (
    RIGHT,
    "silently accepted",
    "traceback",
    "not one clear line",
    "crash",
    "hang",
    "memory",
    "files left",
    "exit code",
)
TIMEOUT_S = 60.0
MOST_MEMORY_GIB = 2.0
MODULES = {
    "evaluate": "rfdetr_repro.evaluate",
    "predict": "rfdetr_repro.predict",
    "bench": "rfdetr_repro.bench.command.run",
    "fp16_audit": "rfdetr_repro.export.fp16_audit_command",
    "tables": "rfdetr_repro.tables.command",
    "mean": "rfdetr_repro.records.aggregate",
    "compare": "rfdetr_repro.bench.command.compare",
    "report": "rfdetr_repro.report.command",
    "reproduce": "rfdetr_repro.reproduce.command",
    "export": "rfdetr_repro.export_command",
    "train": "rfdetr_repro.train.command",
    "search": "rfdetr_repro.search.command",
    "finetune": "rfdetr_repro.search.finetune",
    "family": "rfdetr_repro.family",
    "plots": "rfdetr_repro.plots.command",
    "intervals": "rfdetr_repro.bench.command.intervals",
    "costs": "rfdetr_repro.bench.command.costs",
    "seal": "rfdetr_repro.records.seal",
    "half": "rfdetr_repro.export.half_command",
    "slim": "rfdetr_repro.train.slim_command",
    "embedded": "rfdetr_repro.data.embedded.command",
    "domains": "rfdetr_repro.data.domains.command",
}
# command -> what its arguments are for
LONG_WORK = {"train": "_train", "embedded": "write_embedded", "domains": "write_domain"}
_LOADED_BY_THEM = (
    "torch",
    "onnx",
    "onnxruntime",
    "matplotlib.figure",
    "rfdetr_repro.model.checkpoints.pretrained",
    "rfdetr_repro.bench.confirm",
    "rfdetr_repro.bench.accuracy",
    "rfdetr_repro.data.coco",
    "rfdetr_repro.export.onnx.exporter",
    "rfdetr_repro.bench.compare",
    "rfdetr_repro.bench.costs",
    "rfdetr_repro.bench.intervals",
    "rfdetr_repro.export.half",
    "rfdetr_repro.plots.figures",
    "rfdetr_repro.report.build",
    "rfdetr_repro.search.run",
    "rfdetr_repro.train.slim",
)


class Verdict(NamedTuple):
    kind: str  # one of KINDS
    exit_code: int
    seconds: float
    memory_gib: float
    said: str  # the last line of the error output, or what else tells the story


def load_commands() -> None:
    """Imports what the commands import, once, in the parent."""
    for name in (*_LOADED_BY_THEM, *MODULES.values()):
        importlib.import_module(name)
    reproduce = importlib.import_module("rfdetr_repro.reproduce.run")
    reproduce.Reproduction.run = _accepted  # what is accepted and would work for long is not run
    importlib.import_module("rfdetr_repro.search.finetune").FineTuning.run = _accepted
    for name, works in LONG_WORK.items():
        setattr(sys.modules[MODULES[name]], works, _accepted)
    sys.modules["rfdetr_repro.bench.costs"].jobs = _accepted
    sys.modules["rfdetr_repro.search.run"].open_search = _accepted
    sys.modules["rfdetr_repro.bench.models"].model_artifact = _accepted


def _accepted(*_: object, **__: object) -> None:
    sys.exit(EXIT_OK)


def run_case(case: Case, seeds: Path, timeout_s: float = TIMEOUT_S) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        work = Path(folder) / "work"
        said = Path(folder) / "said"
        shutil.copytree(seeds, work)
        said.mkdir()
        if case.mutation is not None and case.file is not None:
            case.mutation.apply(work / case.file)
        before = _files(work)
        status, seconds, memory_gib = _in_child(case, work, said, timeout_s)
        out, err = ((said / name).read_bytes().decode(errors="replace") for name in ("out", "err"))
        new = sorted(_files(work) - before)
        return _judge(case, status, seconds, memory_gib, out, err, new)


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.name.endswith(".lock")
    }


def _in_child(case: Case, work: Path, said: Path, timeout_s: float) -> tuple[int, float, float]:
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(case, work, said)
    done = 0
    status = 0
    usage = None
    while time.monotonic() - started < timeout_s:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    if not done:
        os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        status = -1
    assert usage is not None
    return status, time.monotonic() - started, usage.ru_maxrss / 2**20


def _be_the_command(case: Case, work: Path, said: Path) -> None:
    """Never returns."""
    code = 99
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(said / name, os.O_CREAT | os.O_WRONLY, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(work)
        limit = int(4 * MOST_MEMORY_GIB * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
        sys.argv = [case.command, *case.arguments]
        tempfile.tempdir = str(said)
        try:
            code = run_main(sys.modules[MODULES[case.command]].main, list(case.arguments))
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _judge(
    case: Case, status: int, seconds: float, memory_gib: float, out: str, err: str, new: list[str]
) -> Verdict:
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip()]
    last = lines[-1] if lines else ""

    def verdict(kind: str, said: str = last) -> Verdict:
        return Verdict(kind, code, seconds, memory_gib, said[:400])

    code = os.waitstatus_to_exitcode(status) if status >= 0 else -9
    if status < 0:
        return verdict("hang")
    if code < 0:
        return verdict("crash", f"signal {-code}; {last}")
    if memory_gib > MOST_MEMORY_GIB:
        return verdict("memory", f"{memory_gib:.1f} GiB; {last}")
    if code == EXIT_INTERNAL or "Traceback (most recent call last)" in err:
        return verdict("traceback")
    if (
        code in (EXIT_OK, EXIT_FAILED)
        and case.refuse
        and not (code == EXIT_FAILED and last.startswith("failed: "))
    ):
        return verdict("silently accepted")
    if code == EXIT_BAD_INPUT:
        usage = bool(lines) and lines[0].startswith("usage: ")  # argparse: the usage and one line
        errors = [line for line in lines if "error: " in line]
        if (
            len(errors) != 1
            or last != errors[0]
            or (len(lines) > 1 and not usage)
            or len(last) > LONGEST_LINE + 200
        ):
            return verdict("not one clear line", " | ".join(lines))
        return verdict("files left", ", ".join(new)) if new else verdict(RIGHT)
    if code not in (EXIT_OK, EXIT_FAILED):
        return verdict("exit code")
    hidden = [name for name in new if name.rpartition("/")[2].startswith(".")]
    return verdict("files left", ", ".join(hidden)) if hidden else verdict(RIGHT)
