"""Append-only JSON Lines of Records, one file per campaign. Of two lines with the same id a reader
takes the later line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rfdetr_repro.spec.collector import uncollected
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import files_below, locked, output_path, parse_json, read_input
from rfdetr_repro.spec.side_by_side import side_by_side

from .record import Record

log = logging.getLogger(__name__)

_LONGEST_LINE = 1 << 24
_TRAINING_LOG = "train_log.jsonl"  # file of a run folder that may not hold Records yet
_MANY_LINES = 2000  # a part of fewer takes less time than a second process
_OWN_SHARE = 0.54  # of the lines: the second process also sends what it has read
_BLOCK = 4096  # bytes read at a time to find the last newline; a Record is about 1 kB


class Store:
    """A file ``results/NAME.jsonl``. A killed run loses at most its last, unfinished line."""

    def __init__(self, path: str | Path) -> None:
        """The store at ``path``, which need not exist."""
        self.path = Path(path)

    def append(self, record: Record) -> Record:
        """Writes one line and forces it to disk. A torn last line that a killed run left is cut off
        first.
        """
        self.extend([record])
        return record

    def extend(self, records: Iterable[Record]) -> None:
        """Appends many Records with one write to disk; cheaper than :meth:`append` where losing the
        batch costs little.

        Any number of processes and threads may append at once: each waits for the file's lock,
        which is held for one write. Raises :class:`InputError` for a file that holds anything other
        than Records, and leaves that file as it is.
        """
        lines = "".join(record.to_json() + "\n" for record in records).encode()
        path = output_path(self.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as stream:
                _wait_for_lock(stream)
                _refuse_other_content(stream, self.path)
                _cut_torn_line(stream)
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(
                f"cannot write: {error.strerror}", self.path, "choose a writable folder"
            ) from error

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps other searches and campaigns from writing this store while the block runs.

        Raises :class:`InputError` where another run is in such a block. Readers, and appends
        outside of such a block, do not wait.
        """
        with locked(self.path, "writes this store"):
            yield

    def read(self) -> list[Record]:
        """All Records in order of first appearance; a later Record replaces an earlier Record with
        the same id. Raises :class:`InputError` for anything that is not a Record.
        """
        if not self.path.exists():
            return []
        lines = read_input(self.path).split(b"\n")
        # what follows the last newline is a torn line
        whole = lines[:-1]
        torn = lines[-1]
        foreign = not whole and not torn.startswith(b'{"'[: len(torn)])
        if foreign or (whole and _content_of(whole[0])):
            message = (
                _content_of(torn if foreign else whole[0]) or "its first line is not a JSON object"
            )
            raise InputError(
                f"not a store of Records: {message}",
                self.path,
                "give a records.jsonl, or the folder of a run",
            )
        with uncollected():
            if len(whole) < _MANY_LINES:
                return list(self._records(whole, 1).values())
            own = round(_OWN_SHARE * len(whole))
            first, second = side_by_side(
                lambda: self._records(whole[:own], 1),
                lambda: self._records(whole[own:], own + 1),
            )
        return list((first | second).values())

    def _records(self, lines: Sequence[bytes], start: int) -> dict[str, Record]:
        """Id -> Record of these lines, of which the first has the number ``start``; a later Record
        replaces an earlier one, in the earlier one's place.
        """
        records: dict[str, Record] = {}
        for number, line in enumerate(lines, start):
            if line.strip():
                record = self._record(line, number)
                records[record.id] = record
        return records

    def _record(self, line: bytes, number: int) -> Record:
        """The Record of a line. Raises :class:`InputError`, which names the line, for any other
        line.
        """
        try:
            return Record.from_json(line)
        except InputError as error:
            raise InputError(
                f"corrupt record: {error}",
                f"{self.path}:{number}",
                "remove the line and run again",
            ) from error

    def torn(self) -> bool:
        """Whether the last line is unfinished, because a run was killed or is writing."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read() != b"\n"

    def ids(self) -> set[str]:
        """Ids of the stored Records."""
        return {record.id for record in self.read()}


def read_stores(paths: Iterable[str | Path]) -> list[Record]:
    """Records of several files or folders. Of a run folder only ``records.jsonl`` is read, of any
    other folder every ``*.jsonl`` file.
    """
    records: list[Record] = []
    for path in paths:
        for file in stores_of(path):
            records += Store(file).read()
            if Store(file).torn():
                log.warning(
                    f"{file}: its last line is unfinished and left out; a run was cut off there, "
                    f"or is still writing"
                )
    if message := unverified_words(records):
        log.warning(message)
    return records


def unverified_words(records: Sequence[Record]) -> str:
    """One line about the number of Records from lines without digests; empty if there are none."""
    count = sum(record.unverified for record in records)
    if not count:
        return ""
    message = (
        "they come from an older version, and whether they were altered since is unknown (python "
        "-m rfdetr_repro.seal lists them)"
    )
    return f"unverified: {count} of {len(records)} Records have no digest: {message}"


def stores_of(path: str | Path) -> list[Path]:
    """The stores of a folder: of a run folder its ``records.jsonl``, of any other folder all JSON
    Lines except training logs. Raises :class:`InputError` for a path that does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such records", path, "give a .jsonl file or a folder of them")
    if not path.is_dir():
        return [path]
    if (path / "records.jsonl").exists():  # the training log is in the same folder
        return [path / "records.jsonl"]
    found: list[Path] = []
    for folder, names in files_below(path):
        stores = [name for name in names if name.endswith(".jsonl") and name != _TRAINING_LOG]
        found += [
            folder / name
            for name in stores
            if name == "records.jsonl" or "records.jsonl" not in stores
        ]
    return sorted(found)


def _content_of(line: bytes) -> str:
    """Names the content of a file with this first line; empty if the line may be a Record."""
    if not line.strip(b"\0 \r\t"):
        return "it holds no text" if line.strip() else ""
    try:
        fields = parse_json(line)
    except ValueError:
        return "" if line.startswith(b'{"') else "its first line is not a JSON object"
    if not isinstance(fields, dict):
        return "its first line is not a JSON object"
    if "step" in fields and "schema" not in fields:
        return "this is the log of a training run"
    return ""


def _wait_for_lock(stream: BinaryIO) -> None:
    """Locks the file until ``stream`` is closed. An append holds the lock for milliseconds, so
    another writer waits.

    The lock is the kernel's, not that of filelock, which waits by asking again: with 8 processes of
    500 appends each, nothing was lost either way, but the longest wait of one append was 5.1 s
    (1.3 s asking every millisecond) instead of 0.2 s, in the kernel's queue.
    """
    import fcntl  # here, because readers of files on other systems have none

    fcntl.flock(stream, fcntl.LOCK_EX)


def _refuse_other_content(stream: BinaryIO, path: Path) -> None:
    """Raises :class:`InputError` where the first line is not a Record: a file of anything else must
    not be cut or extended.
    """
    stream.seek(0)
    first = stream.readline(_LONGEST_LINE)
    if first.endswith(b"\n"):
        try:
            fields = parse_json(first)
        except ValueError:
            fields = None
        store = isinstance(fields, dict) and {"schema", "source", "model"} <= fields.keys()
    else:  # nothing yet, or the first line of a killed run
        store = b'{"'.startswith(first[:2])
    if not store:
        raise InputError(
            "cannot append: the file holds something other than Records",
            path,
            "choose another file for --out",
        )


def _cut_torn_line(stream: BinaryIO) -> None:
    """Truncates after the last newline, reading backwards in blocks: the cost does not grow with
    the file.
    """
    end = position = stream.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _BLOCK)
        stream.seek(start)
        newline = stream.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position < end:
        stream.truncate(position)
    stream.seek(0, os.SEEK_END)
