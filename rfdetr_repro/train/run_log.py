"""The log of a training run: JSON Lines that only grow, cut back to the saved step when the run is
resumed.

The training state names the bytes of the file that belong to it; what lies beyond them is of steps
that are trained again. So a state stays as large as it is, however long the run.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rfdetr_repro.spec.errors import FULL, InputError

log = logging.getLogger(__name__)

LOG = "train_log.jsonl"


class RunLog:
    """Rows of ``path``; they wait in memory until :meth:`flush`, which the first process of a run
    calls with every save.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # bytes of the file that belong to the run; the rest is cut off by the next flush
        self.kept = 0
        self._waiting: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(json.dumps(row))

    def resume(self, kept: int, lines: Iterable[str] = ()) -> None:
        """Goes on behind the first ``kept`` bytes of the file, then ``lines`` (of a state that held
        its log itself).
        """
        self.kept, self._waiting = kept, list(lines)

    def flush(self) -> int:
        """Appends what waits and returns the bytes that the run has written; a failure leaves what
        was saved before usable.
        """
        try:
            with self.path.open("r+b" if self.path.exists() else "x+b") as stream:
                self._cut(stream)
                stream.write("".join(line + "\n" for line in self._waiting).encode())
                stream.flush()
                os.fsync(stream.fileno())
                self.kept = stream.tell()
        except OSError as error:
            hint = (
                "free some space; what was saved before is kept"
                if error.errno in FULL
                else "what was saved before is kept"
            )
            raise InputError(
                f"cannot write the training log: {error.strerror}", self.path, hint
            ) from error
        self._waiting.clear()
        return self.kept

    def _cut(self, stream: BinaryIO) -> None:
        """Cuts off what does not belong to the run; a file that somebody shortened is said, and
        kept to its last whole line.
        """
        size = stream.seek(0, os.SEEK_END)
        if size < self.kept:
            stream.seek(0)
            whole = stream.read().rfind(b"\n") + 1
            told = (
                f"{self.path} holds {size} of the {self.kept} bytes that the training state knows: "
                f"rows of it are lost"
            )
            log.warning(told)
            self.kept = whole
        stream.truncate(self.kept)
        stream.seek(self.kept)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of a run's training log, up to its last save."""
    path = folder / LOG
    if path.exists():
        with path.open(encoding="utf-8") as stream:
            yield from (json.loads(line) for line in stream)
