"""Processes of one run, which carry the run's mark in their environment, and the moments at which
the run is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

MARK = "RFDETR_KILLS_MARK"


def processes(mark: str) -> dict[int, str]:
    """Process id -> command line of all that carry the mark; zombies are none."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (
                    (entry / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")[:150]
                )
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


def wait_for_none(mark: str, patience_s: float) -> tuple[float, dict[int, str]]:
    """(seconds waited, processes that are left)."""
    started = time.monotonic()
    while (left := processes(mark)) and time.monotonic() - started < patience_s:
        time.sleep(0.1)
    return time.monotonic() - started, left


def kill(process: subprocess.Popen[bytes], group: bool, number: int = signal.SIGKILL) -> None:
    if group:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)


def _parts(folder: Path) -> bool:
    return any(name.endswith(".part") for name in _names(folder))


def _names(folder: Path) -> Sequence[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Moments:
    """Each moment is a question that is asked every millisecond while the command runs in
    ``folder``; True: kill now.
    """

    def __init__(self, folder: Path, mark: str, skip: int) -> None:
        # skip: so many occasions are let pass
        self.folder = folder
        self.mark = mark
        self.skip = skip
        self.run = folder / "run"
        self.searched = folder / "searched"
        self._before: object = None

    def question(self, name: str) -> Callable[[], bool]:
        known: dict[str, Callable[[], object]] = {
            "part": lambda: any(
                map(_parts, (self.run, self.run / "artifacts", self.run / "race", *self._others()))
            ),
            "checkpoint": lambda: self._writes(self.run, "training_state"),
            "race": lambda: len(_names(self.run / "race")),
            "store": lambda: (
                _size(self.run / "records.jsonl") + _size(self.searched / "records.jsonl")
            ),
            "finetune": lambda: len(_names(self.run / "finetuned")) > 1,
            "pictures": lambda: _parts(self.run / "predictions"),
            "report": lambda: self._writes(self.run, "report"),
            "process": lambda: any(
                "rfdetr_repro.train.processes" in line for line in processes(self.mark).values()
            ),
            "pool": lambda: any("spawn_main" in line for line in processes(self.mark).values()),
            "workers": lambda: any(
                "ray::RayWorker" in line for line in processes(self.mark).values()
            ),
            "labels": lambda: _size(self.folder / "boxes" / "masks.json.partial"),
        }
        return lambda: self._came(known[name]())

    def _others(self) -> Sequence[Path]:
        return (
            self.run / "finetuned",
            self.folder / "boxes",
            self.folder / "composed" / "annotations",
        )

    def _writes(self, folder: Path, stem: str) -> bool:
        return any(
            name.startswith(f".{stem}") and name.endswith(".part") for name in _names(folder)
        )

    def _came(self, state: object) -> bool:
        """A truth that has begun, or a number that has grown; what is there when the command starts
        is no occasion.
        """
        before, self._before = self._before, state
        if before is None or not state or state == before:
            return False
        self.skip -= 1
        return self.skip < 0
