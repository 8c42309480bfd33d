"""Files that are either whole or absent: atomic writes, locks, hashes, and strict JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from .errors import FULL, InputError, shortened
from .unfinished import (
    UNFINISHED,
    claimed_file,
    lock_now,
    remove_abandoned_files,
    remove_abandoned_folders,
    remove_abandoned_writes,
)

MOST_BYTES = 1 << 30  # of a file that is read whole
MOST_FILES = 200_000  # that a search below a folder visits
# bytes of the final name that a temporary name repeats; file systems allow 255 bytes
_MOST_NAME_BYTES = 150


def output_path(path: str | Path) -> Path:
    """The regular file that a result is written to. Links are followed: the link stays, and its
    target is written.

    Raises :class:`InputError` for a folder, a device, a FIFO, or a path that no file system can
    hold.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise InputError(
                "cannot write: these links lead in a circle", path, "choose another name"
            )
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "not a regular file"
            raise InputError(f"cannot write: this is {kind}", path, "give the name of a file")
    except (
        OSError,
        ValueError,
    ) as error:  # a name that is too long, a loop of links, a NUL character
        raise InputError(
            f"cannot write: {getattr(error, 'strerror', None) or error}",
            path,
            "choose another name",
        ) from error
    return target


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path``, and renames it to ``path`` if the block
    succeeds; otherwise the temporary file is removed.

    The temporary name ends in :data:`UNFINISHED`, so a writer that infers the format from the name
    needs the format as an argument. Temporary files that a killed writer of the same ``path`` left
    are removed first. Raises :class:`InputError` where the file cannot be written.
    """
    target = output_path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stem = os.fsencode(target.name)[:_MOST_NAME_BYTES].decode(errors="ignore")
        remove_abandoned_writes(target.parent, stem)
        handle, temporary = claimed_file(target.parent, stem)
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror}", path, "choose a writable folder"
        ) from error
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise InputError(
            f"cannot write: {error.strerror}",
            path,
            "free some space; what was there before is kept",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def remove_unfinished(folder: str | Path) -> list[Path]:
    """Removes the unfinished files of killed writers in ``folder`` and below, and returns the
    removed paths. Files that a running process is writing stay.
    """
    removed = []
    # os.walk skips folders that another process removes meanwhile
    for place, _, names in os.walk(folder):
        removed += remove_abandoned_folders(place)
        removed += remove_abandoned_files(
            Path(place, name) for name in names if name[0] == "." and name.endswith(UNFINISHED)
        )
    return removed


def files_below(folder: str | Path) -> Iterator[tuple[Path, list[str]]]:
    """Yields each folder from ``folder`` down with the names of its files; links to folders are not
    followed.

    Raises :class:`InputError` for a folder that cannot be read, and for more than
    :data:`MOST_FILES` files and folders.
    """
    seen = 0
    try:
        for parent, folders, names in os.walk(folder, onerror=_raise):
            seen += len(folders) + len(names)
            if seen > MOST_FILES:
                raise InputError(
                    f"more than {MOST_FILES} files lie below this folder",
                    folder,
                    "give the folder that holds the files",
                )
            yield Path(parent), names
    except OSError as error:
        raise InputError(
            f"cannot read: {error.strerror}",
            error.filename or folder,
            "give the folder that holds the files",
        ) from error


def _raise(error: OSError) -> None:
    raise error


def writable_folder(path: str | Path) -> Path:
    """Makes the folder and checks, before any long work, that a file can be written in it.

    Raises :class:`InputError` where that fails.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write: {reason}", folder, "choose a writable folder") from error
    return folder


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Writes text (as UTF-8) or bytes to ``path`` so that a reader sees either the old file or the
    new file, never a part.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def locked(path: str | Path, does: str) -> Iterator[None]:
    """Holds a lock for ``path``, which need not exist, while the block runs.

    If another process, or another block of this process, holds the lock, raises :class:`InputError`
    "another run (pid, since when, on which machine) ``does``". The lock (on ``path`` + ".lock")
    ends with the block or with the process, however it ends. The lock file stays, so that no
    process locks a removed file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.with_name(path.name + ".lock").open("a+")
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror}", path, "choose a writable folder"
        ) from error
    with stream:
        _lock(stream, path, does)
        stream.truncate(0)
        started = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        stream.write(f"pid {os.getpid()} since {started} on {socket.gethostname()}")
        stream.flush()
        yield


@contextmanager
def locked_folder(folder: str | Path, does: str) -> Iterator[None]:
    """Like :func:`locked`, but locks the folder itself and leaves no lock file. Makes the folder; a
    disk that cannot lock folders is used without a lock.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror}", folder, "choose a writable folder"
        ) from error
    try:
        try:
            if not lock_now(handle):
                raise InputError(f"another run {does}", folder, "wait for it")
        except OSError as error:
            if error.errno not in (
                errno.EBADF,
                errno.ENOLCK,
                errno.EOPNOTSUPP,
                errno.ENOSYS,
                errno.EINVAL,
            ):
                raise
        yield
    finally:
        os.close(handle)


def _lock(stream: TextIO, path: Path, does: str) -> None:
    """Takes the lock, or raises an :class:`InputError` that names the holder."""
    try:
        if not lock_now(stream.fileno()):
            stream.seek(0)
            holder = stream.read().strip()
            raise InputError(
                f"another run{f' ({holder})' if holder else ''} {does}", path, "wait for it"
            )
    except OSError as error:
        raise InputError(
            f"cannot lock: {error.strerror}", path, "use a disk that can lock files"
        ) from error


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of ``content`` as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits.

    Raises :class:`InputError` where the file cannot be read.
    """
    digest = hashlib.sha256()
    with open_input(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def open_input(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Opens a user's regular file for reading bytes; any other path is an :class:`InputError`.

    FIFOs and devices are refused because they may never end.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            kind = "a folder" if Path(path).is_dir() else "not a regular file"
            raise InputError(f"cannot read: this is {kind}", path, "give the path of a file")
        stream = Path(path).open("rb")  # noqa: SIM115 (only what opening raises is caught here)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read: {reason}", path, "check the path") from error
    with stream:
        yield stream


def read_input(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a user's regular file. Raises :class:`InputError` for any other path, and for a
    file of more than ``most_bytes``, before it takes memory.
    """
    with open_input(path) as stream:
        # a file of the system states 0 bytes, whatever it holds
        if os.fstat(stream.fileno()).st_size <= most_bytes:
            content: bytes = stream.read(most_bytes + 1)
            if len(content) <= most_bytes:
                return content
    raise InputError(
        f"a file of more than {most_bytes >> 20} MiB, which cannot be what is read here",
        path,
        "check the path",
    )


def refuse_stand_in(head: bytes, path: str | Path) -> None:
    """Raises :class:`InputError` where ``head``, the first bytes of a file, show a web page or a
    Git LFS pointer that was saved in place of the file.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            "this is a Git LFS pointer, not the file itself", path, "fetch it with: git lfs pull"
        )
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise InputError(
            "this is a web page, not the file itself",
            path,
            "download the file again, from its direct address",
        )


def read_json(path: str | Path) -> Any:
    """Parses a UTF-8 JSON file. Raises :class:`InputError`, with line and column, for anything
    else.
    """
    content = read_input(path)
    try:
        return parse_json(content)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON ({error.msg})",
            f"{path}:{error.lineno}:{error.colno}",
            "write the file again",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", path, "write the file again") from error
    except ValueError as error:
        raise InputError(f"not usable JSON ({error})", path, "write the file again") from error


def parse_json(content: str | bytes) -> Any:
    """``json.loads`` for untrusted text. Raises ValueError for everything that cannot be used.

    Beyond syntax errors these are NaN and infinite numbers (also by overflow, as in 1e999),
    integers of thousands of digits, an object with a duplicate key, and nesting deeper than the
    interpreter's stack.
    """
    if isinstance(content, bytes):
        content = content.decode().removeprefix("\ufeff")  # some editors begin a file so
    try:
        return _DECODER.decode(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class DuplicateKeyError(ValueError):
    """A JSON object has a key twice, so which of its values counts would be left to chance."""


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, for the ``object_pairs_hook`` of :mod:`json`. Raises
    :class:`DuplicateKeyError` for a key that occurs twice.
    """
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise DuplicateKeyError(f"key {shortened(repr(key), 60)} occurs twice")
        seen.add(key)
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond the range of a 64-bit float")
    return value


# made once, because making it anew for every line of a store takes a tenth of the line's time
_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=without_duplicates
)
