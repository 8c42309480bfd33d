"""Output for a person at a terminal: its width, whether it shows colours, and a pager for what is
longer than the screen. Nothing of this happens where the output is a file or a pipe.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys

WITHOUT_TERMINAL = 120  # width of a text that goes to a file or a pipe, unless COLUMNS says more
_DEFAULT_PAGER = "less"
# of less, as git sets them: end at once where all fits, keep colours, leave the text on the screen
_LESS = "FRX"


def is_terminal() -> bool:
    """Whether the standard output is a terminal."""
    return sys.stdout.isatty()


def width() -> int:
    """Characters of a line: the terminal's, or COLUMNS; 120 where neither says."""
    fallback = (WITHOUT_TERMINAL, 24)
    if is_terminal() or os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size(fallback).columns
    return WITHOUT_TERMINAL


def shows_colours() -> bool:
    """Whether the output is a terminal that shows colours, and NO_COLOR is not set
    (https://no-color.org).
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb")
    return is_terminal() and not plain


def show(text: str, paged: bool = True) -> None:
    """Writes ``text``; on a terminal by ``$PAGER`` where it is longer than the screen.

    ``paged``: false for no pager. PAGER that is empty or "cat" is no pager either; without PAGER it
    is less, if that is installed.
    """
    pager = _pager() if paged and is_terminal() and sys.stdin.isatty() else []
    lines = text.count("\n")
    if not pager or lines < shutil.get_terminal_size().lines or not _paged(text, pager):
        sys.stdout.write(text)


def _pager() -> list[str]:
    try:
        words = shlex.split(os.environ.get("PAGER", _DEFAULT_PAGER))
    except ValueError:  # a quotation mark without its partner
        return []
    if not words or words == ["cat"] or shutil.which(words[0]) is None:
        return []
    return words


def _paged(text: str, pager: list[str]) -> bool:
    """Whether the pager took the text; a pager that the reader leaves early took it."""
    sys.stdout.flush()
    environment = {"LESS": _LESS, **os.environ}
    try:
        process = subprocess.Popen(pager, stdin=subprocess.PIPE, env=environment)
        with process, contextlib.suppress(BrokenPipeError):
            process.communicate(text.encode())
    except OSError:
        return False
    return True
