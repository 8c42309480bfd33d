"""Log lines of the library, and how commands show them.

Library code never prints: it writes to the logger of its module, ``rfdetr_repro.FOLDER.MODULE``.
INFO is what a command reports while it works, WARNING is what a reader of the result must know, and
DEBUG states decisions and their reasons. A program that uses the library sees no INFO lines until
it configures :mod:`logging`; a command shows them as plain lines (:func:`shown`), INFO on the
standard output and WARNING on the standard error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from .stage import current

LOGGER = logging.getLogger("rfdetr_repro")


class _Lines(logging.Handler):
    """Prints messages as lines of the program, without breaking progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes INFO to the standard output, and everything else to the standard error."""
        try:
            line = record.getMessage()
            if record.levelno == logging.DEBUG:
                line = f"[{record.name.removeprefix('rfdetr_repro.')}] {line}"
            _write(line, sys.stdout if record.levelno == logging.INFO else sys.stderr)
        except OSError:
            raise  # a full disk or a closed pipe, which ends the command with an error of its own
        except Exception:
            self.handleError(record)


def _write(line: str, stream: TextIO) -> None:
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is not None and getattr(tqdm, "_instances", None):
        tqdm.write(line, file=stream)
    else:
        stream.write(f"{line}\n")
    stream.flush()


_HANDLER = _Lines()


def is_shown() -> bool:
    """Whether a command shows the lines, or :func:`show` was called."""
    return _HANDLER in LOGGER.handlers


def show(level: int = logging.INFO) -> None:
    """Shows the library's lines from ``level`` on, until :func:`hide`."""
    if not is_shown():
        LOGGER.addHandler(_HANDLER)
    LOGGER.setLevel(level)


def hide() -> None:
    """Undoes :func:`show`."""
    LOGGER.removeHandler(_HANDLER)
    LOGGER.setLevel(logging.NOTSET)


def show_unless_configured() -> None:
    """Shows the lines in a program that has not configured :mod:`logging` for itself, such as a
    notebook or an interactive interpreter.
    """
    if not LOGGER.hasHandlers():
        show()


@contextmanager
def shown() -> Iterator[None]:
    """Shows the lines as a command shows them while the block runs; a command inside a command
    leaves the outer command's choice unchanged.
    """
    outermost = not is_shown()
    before = LOGGER.level
    if outermost:
        show()
    try:
        yield
    finally:
        if outermost:
            hide()
        LOGGER.setLevel(before)


def choose(*, verbose: bool, quiet: bool) -> None:
    """Applies ``--verbose`` and ``--quiet`` of a command; without either the current choice
    stays.
    """
    if verbose:
        show(logging.DEBUG)
    elif quiet:
        show(logging.WARNING)
    elif not is_shown():
        show()


def is_quiet() -> bool:
    """Whether ``--quiet`` was given, which hides progress bars too."""
    return is_shown() and LOGGER.level > logging.INFO


def progress_bar(items: Iterable[Any], title: str | None = None, unit: str = "it") -> Any:
    """``items`` with a progress bar on the standard error, if that is a terminal and the command is
    not quiet.
    """
    from tqdm import tqdm

    off = True if is_quiet() else None  # None: off without a terminal
    if (stage := current()) is not None:
        title = f"{stage.short} {title}" if title else stage.short
    return tqdm(items, desc=title, unit=unit, dynamic_ncols=True, disable=off)
