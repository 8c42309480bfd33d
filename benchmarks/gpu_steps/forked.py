"""Runs the steps of a dry run as forks of this process, which imports PyTorch once: imports would
otherwise take half of the dry run's processor time. A fork runs what ``python -m`` runs.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

SHARED = ("torch._dynamo", "benchmarks.gpu_steps.step", "rfdetr_repro.train.trainer")


def run(
    words: Sequence[str], log: Path, environment: Mapping[str, str], limit_s: float
) -> int | None:
    """Exit code of ``python -m WORDS`` with ``environment`` in addition, whose output goes to
    ``log``; None if it did not end within ``limit_s`` seconds. Its whole group of processes is then
    ended.
    """
    for name in SHARED:  # imported and not used, so that no thread runs yet that a fork would lose
        import_module(name)
    process = get_context("fork").Process(target=_step, args=(words, log, environment))
    process.start()
    process.join(limit_s)
    code = process.exitcode
    if code is None and process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet
            process.kill()
        process.join()
    return code


def _step(words: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    os.setsid()
    with log.open("w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.environ.update(environment)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
