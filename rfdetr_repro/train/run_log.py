"""The log of a training run: JSON Lines that only grow, and are cut back to the saved step when the
run is resumed.

The training state stores how many bytes of the file belong to the run; later bytes are of steps
that are trained again. So the size of a state does not grow with the run.
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
    """Rows of ``path``. Rows wait in memory until :meth:`flush`, which the first process of a run
    calls with every save.
    """

    def __init__(self, path: Path) -> None:
        """An empty log at ``path``; see :meth:`resume` for an existing file."""
        self.path = path
        # bytes of the file that belong to the run; the next flush cuts off the rest
        self.kept = 0
        self._waiting: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row, which :meth:`flush` writes."""
        self._waiting.append(json.dumps(row))

    def rows(self) -> list[dict[str, Any]]:
        """All rows of the run so far, saved or waiting."""
        saved = b""
        if self.kept and self.path.exists():
            with self.path.open("rb") as stream:
                saved = stream.read(self.kept)
        return [json.loads(line) for line in (*saved.decode().splitlines(), *self._waiting)]

    def resume(self, kept: int, lines: Iterable[str] = ()) -> None:
        """Continues after the first ``kept`` bytes of the file, and adds ``lines`` (of a state that
        held its log itself).
        """
        self.kept = kept
        self._waiting = list(lines)

    def flush(self) -> int:
        """Appends the waiting rows and returns the number of bytes that the run has written. A
        failure leaves what was saved before usable.

        Raises :class:`InputError` where the file cannot be written.
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
        """Cuts off what does not belong to the run. A file that was shortened is reported, and kept
        up to its last whole line.
        """
        size = stream.seek(0, os.SEEK_END)
        if size < self.kept:
            stream.seek(0)
            whole = stream.read().rfind(b"\n") + 1
            message = (
                f"{self.path} holds {size} of the {self.kept} bytes that the training state "
                f"expects: some rows are lost"
            )
            log.warning(message)
            self.kept = whole
        stream.truncate(self.kept)
        stream.seek(self.kept)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of a run's training log, up to its last save."""
    path = folder / LOG
    if path.exists():
        with path.open(encoding="utf-8") as stream:
            yield from (json.loads(line) for line in stream)
