"""Tells the remains of a killed process from files that another process is writing at this moment.

Whoever makes a temporary file or folder holds a lock on it, and a lock ends with its process,
however the process ends. So a temporary file that can be locked is abandoned and may be removed, at
any time and while any number of programs run. Where the disk cannot lock, nothing is removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".part"  # ending of files that are being written; no reader matches it
_FOLDER = re.compile(r"\.rfdetr-[a-z0-9_]{8}\.part")
_PATIENCE_S = 5.0  # for processes that are just ending and still write into a folder


def lock_now(handle: int) -> bool:
    """Locks an open file or folder for this process; False where another holds the lock.

    The lock ends when the descriptor is closed or its process ends, however that ends. Raises
    OSError where the disk or the system cannot lock. This is the kernel's own call: filelock 4.2
    takes a refusal (EACCES, of a security policy or some network disks) for a lock that another
    process holds, and the maker of a temporary file would then try for ever.
    """
    try:
        import fcntl  # here, because other systems have none
    except ImportError as error:
        raise OSError(errno.ENOSYS, "this system cannot lock files") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def claimed_file(folder: Path, stem: str) -> tuple[int, Path]:
    """Makes the empty file ``.STEM.XXXXXXXX.part`` in ``folder``. Returns its open descriptor,
    which holds the lock, and its path.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=UNFINISHED, dir=folder)
        if _claim(handle, name):
            return handle, Path(name)
        os.close(handle)


class TemporaryFolder:
    """A new folder in ``place`` (default: the system's temporary folder). :meth:`remove` removes
    the folder; if the process is killed before, the next run does.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        """Makes the folder in ``place`` and locks it."""
        place = tempfile.gettempdir() if place is None else place
        remove_abandoned_folders(place)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=".rfdetr-", suffix=UNFINISHED, dir=place))
            try:
                self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # removed before it was locked
                continue
            if _claim(self._handle, self.path):
                return
            os.close(self._handle)

    def remove(self) -> None:
        """Removes the folder, waiting a few seconds for processes that are just ending and still
        write into it.
        """
        end = time.monotonic() + _PATIENCE_S
        while True:
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists() or time.monotonic() > end:
                break
            time.sleep(0.05)
        os.close(self._handle)


@contextmanager
def temporary_folder(place: str | Path | None = None) -> Iterator[Path]:
    """Yields a new folder that is removed at the end of the block; if the process is killed inside,
    the next run removes the folder.
    """
    folder = TemporaryFolder(place)
    try:
        yield folder.path
    finally:
        folder.remove()


def remove_abandoned_folders(place: str | Path | None = None) -> list[Path]:
    """Removes the temporary folders of this user's killed runs in ``place`` and returns their
    paths.

    The default is the system's temporary folders: the folder that the environment names, and /tmp.
    """
    places = {tempfile.gettempdir(), "/tmp"} if place is None else {str(place)}
    found = [
        Path(entry)
        for folder in sorted(places)
        for entry in _entries(folder)
        if _FOLDER.fullmatch(entry.name)
    ]
    return [path for path in found if _removed(path, folder=True)]


def remove_abandoned_files(paths: Iterable[Path]) -> list[Path]:
    """Removes the regular files of ``paths`` that no process is writing, and returns the removed
    paths.
    """
    return [path for path in paths if _removed(path, folder=False)]


def remove_abandoned_writes(folder: Path, stem: str) -> list[Path]:
    """Removes the temporary files that killed writers of the file ``stem`` left in ``folder``; see
    :func:`claimed_file`.
    """
    name = re.compile(re.escape(f".{stem}.") + r"[a-z0-9_]{8}" + re.escape(UNFINISHED))
    return remove_abandoned_files(
        [Path(entry) for entry in _entries(folder) if name.fullmatch(entry.name)]
    )


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries of the folder; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # a folder that cannot be read holds nothing that this user's runs left
        return []


def _removed(path: Path, *, folder: bool) -> bool:
    """Locks and removes a regular file or a folder of this user that no process holds. Returns
    whether this removed it.
    """
    is_kind, mode = (
        (stat.S_ISDIR, os.O_RDONLY | os.O_DIRECTORY) if folder else (stat.S_ISREG, os.O_RDWR)
    )
    try:
        about = os.lstat(path)
        if not is_kind(about.st_mode) or about.st_uid != os.getuid():
            return False
        handle = os.open(path, mode | os.O_NOFOLLOW)
    except OSError:  # already removed, or another user's: not to be removed here
        return False
    try:
        if not _claim(handle, path, unless_locked=True):
            return False
        if folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return not path.exists()
    finally:
        os.close(handle)


def _claim(handle: int, path: str | Path, *, unless_locked: bool = False) -> bool:
    """Locks the open file and returns whether ``path`` still names it.

    On a disk that cannot lock, returns True to the maker of the file, and False (``unless_locked``)
    to a process that would remove the file.
    """
    try:
        if not lock_now(handle):
            return False
    except OSError:
        return not unless_locked
    try:
        there = os.lstat(path)
        here = os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
