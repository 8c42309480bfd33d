"""Files that are either whole or absent: atomic writes, locks, hashes, and JSON that is what it should be."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from .errors import FULL, InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it over ``path`` if the block succeeds, removes it otherwise."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", path, "choose a writable folder") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise InputError(f"cannot write: {error.strerror}", path, "free some space; what was there before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(path: str | Path) -> Path:
    """Makes the folder, and finds out before any long work whether a file can be written there."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", folder, "choose a writable folder") from error
    return folder


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Writes text (UTF-8) or bytes to ``path`` so that a reader sees the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def locked(path: str | Path, does: str) -> Iterator[None]:
    """Inside, no other process, nor another block of this one, is in such a block for ``path``, that need not exist.

    Another that is: :class:`InputError` "another run (pid, since when, on which machine) ``does``". The lock (``path`` + ".lock")
    ends with the block or the process, however that ends; its file stays, so that nobody locks a removed one.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path.with_name(path.name + ".lock"), "a+")
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", path, "choose a writable folder") from error
    with stream:
        _lock(stream, path, does)
        stream.truncate(0)
        started = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        stream.write(f"pid {os.getpid()} since {started} on {socket.gethostname()}")
        stream.flush()
        yield


def _lock(stream: TextIO, path: Path, does: str) -> None:
    """Takes the lock or says who has it."""
    import fcntl  # here, because readers of files on other systems have none

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.seek(0)
        holder = stream.read().strip()
        raise InputError(f"another run{f' ({holder})' if holder else ''} {does}", path, "wait for it") from error
    except OSError as error:
        raise InputError(f"cannot lock: {error.strerror}", path, "use a disk that can lock files") from error


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with open_input(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def open_input(path: str | Path) -> Iterator[Any]:
    """Opens a user's file for reading bytes; a missing or unreadable one is an :class:`InputError`."""
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", path, "check the path") from error
    with stream:
        yield stream


def read_json(path: str | Path) -> Any:
    """Parses a UTF-8 JSON file; anything else is an :class:`InputError` that names line and column."""
    with open_input(path) as stream:
        content = stream.read()
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg})", f"{path}:{error.lineno}:{error.colno}", "write the file again") from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path, "write the file again") from error
