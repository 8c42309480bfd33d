"""A user's mistake becomes one line (what, where, what to do) and exit code 2, never a traceback.

Every command's ``main`` is wrapped by :func:`run_main`; library code raises :class:`InputError` and
never prints or exits.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from . import logs
from .unfinished import remove_abandoned_folders

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a fault of this program
EXIT_CLOSED_PIPE = 141  # 128 + SIGPIPE: the reader of the output stopped reading, like ``head``
# limit of characters of a message; longer texts from a user's file or argument are shortened
LONGEST_LINE = 300


class InputError(Exception):
    """Bad arguments or bad input. Prints as one line, ``what (where); hint``.

    Args:
        what: what is wrong.
        where: the file, folder or argument that is wrong; empty where ``what`` names it.
        hint: what the user can do about it.
    """

    def __init__(self, what: str, where: object = "", hint: str = "") -> None:
        """Builds the line and bounds its length to LONGEST_LINE characters."""
        self.what = _plain(what)
        self.where = _plain(str(where)) if where else ""
        self.hint = _plain(hint)
        super().__init__(self._line())

    def at(self, place: object) -> InputError:
        """The same error in ``place``, which only the caller knows: for example a file, where the
        error names a key of the file.
        """
        outer = str(place)
        if outer in self.where:
            return self
        inside = self.where if self.where and self.where not in outer else ""
        return InputError(self.what, f"{inside} in {outer}" if inside else outer, self.hint)

    def _line(self) -> str:
        line = _message(self.what, self.where, self.hint)
        if len(line) <= LONGEST_LINE:
            return line
        # the end of the place stays, because it holds the name of the file
        place = shortened(self.where, 60, tail=50)
        hint = shortened(self.hint, 140)
        rest = len(_message("", place, hint))
        return _message(shortened(self.what, LONGEST_LINE - rest), place, hint)


def _plain(text: str) -> str:
    """``text`` in one line. Characters that cannot be printed become escapes: a name in a user's
    file must not send commands to the terminal.
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in line
    )


def _message(what: str, where: str, hint: str) -> str:
    placed = f"{what} ({where})" if where else what
    return f"{placed}; {hint}" if hint else placed


def nearest(text: str, options: Collection[str]) -> str | None:
    """The option most similar to ``text``; None if no option is similar."""
    return next(iter(difflib.get_close_matches(text, options, 1)), None)


def shortened(text: str, longest: int, tail: int = 20) -> str:
    """``text`` with at most ``longest`` characters: "..." replaces the middle, and the last
    ``tail`` characters stay.
    """
    return text if len(text) <= longest else f"{text[: longest - tail - 3]}...{text[-tail:]}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, at most LONGEST_LINE characters; the name of its type
    where the text is empty. Libraries go on with tracebacks and advice after that line.
    """
    lines = str(error).strip().splitlines()
    return shortened(lines[0].strip(), LONGEST_LINE) if lines else type(error).__name__


class LibraryNotBuilt(InputError, ImportError):
    """A compiled part of the package is missing or does not load."""

    def __init__(self, what: str, where: object = "") -> None:
        """``what`` is missing or does not load; the hint is the command that builds the library."""
        super().__init__(
            what, where, "build it from the repository with: pip install --no-build-isolation -e ."
        )


_HOW_TO_CONTINUE = "finished work is kept; run the same command again to continue"
_ONE_SIGNAL_S = 10.0
_LONGEST_IMPORT_S = 60.0
_AGAIN_S = 0.05

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_THERE = {
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


class Interrupted(KeyboardInterrupt):
    """A signal asked a command to end: SIGINT (exit code 130), SIGTERM (143) or SIGHUP (129)."""

    def __init__(self, number: int, message: str = "") -> None:
        """``message`` states what was kept and how to continue."""
        self.number = number
        self.exit_code = 128 + number
        name = signal.Signals(number).name
        super().__init__(f"{name} {message}" if message else name)


class StatedFailure(Exception):
    """The request was correct but its result is not acceptable (exit code 1): for example an export
    that disagrees with PyTorch.
    """


def run_main(
    main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None
) -> int:
    """Runs ``main(argv)`` and turns its outcome into an exit code; argparse's own exit (of --help)
    passes through.

    Exit codes: 0 done, 1 done with an unacceptable result, 2 bad input, 70 a fault of this program
    (the traceback is in a file), 130 interrupted, 143 asked to end (SIGTERM), 129 the terminal was
    closed (SIGHUP), 141 the output was closed.
    """
    _print_anything()
    remove_abandoned_folders()
    try:
        code = _run(main, argv)
    except SystemExit:  # raised by argparse for --help
        if lost := _output_lost():
            return lost
        raise
    return _output_lost() or code


def _run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None) -> int:
    """The exit code of ``main(argv)``; an error is printed as one line."""
    try:
        with _signals_end_the_command(), logs.shown():
            return main(argv) or EXIT_OK
    except InputError as error:
        _end_progress_bars()
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except StatedFailure as error:
        _end_progress_bars()
        print(f"failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Interrupted as error:
        _end_progress_bars()
        print(f"interrupted by {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        _end_progress_bars()
        print(f"interrupted: {_HOW_TO_CONTINUE}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_CLOSED_PIPE
    except Exception as error:
        _end_progress_bars()
        if not isinstance(error, OSError) or error.errno not in FULL | _NOT_THERE:
            print(
                f"internal error: {_described(error)}; please report it with {_traceback_file()}",
                file=sys.stderr,
            )
            return EXIT_INTERNAL
        hint = "free some space and run again" if error.errno in FULL else ""
        line = InputError(
            f"cannot write or read: {error.strerror}", error.filename or "the output folder", hint
        )
        print(f"error: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT


@contextmanager
def _signals_end_the_command() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise :class:`Interrupted` in the main thread while the block runs,
    so that the program ends as after Ctrl-C.

    Signals that the process ignores, or that have another handler, are left alone. Signals that
    follow within seconds count as the same signal (``timeout`` sends SIGTERM to the process and to
    its group), because they must not interrupt the cleanup. While a library is imported a signal
    waits, including Ctrl-C, because compiled parts of PyTorch abort the process when their import
    is interrupted.
    """
    came_at: list[float] = []
    waiting: list[threading.Timer] = []
    ended = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            return
        if number != signal.SIGINT and came_at and time.monotonic() - came_at[-1] < _ONE_SIGNAL_S:
            return
        if _imports(frame) and len(waiting) < _LONGEST_IMPORT_S / _AGAIN_S:
            again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            waiting.append(again)
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        came_at.append(time.monotonic())
        raise Interrupted(number, f"and ended: {_HOW_TO_CONTINUE}")

    usual = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    if threading.current_thread() is not threading.main_thread():
        usual = {}
    handlers = {
        number: handler for number, handler in usual.items() if signal.getsignal(number) is handler
    }
    try:
        for number in handlers:
            signal.signal(number, handle)
        yield
    finally:
        # a signal that still waits for an import must not come while the interpreter ends
        ended.set()
        for again in waiting:
            again.cancel()
            again.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _imports(frame: FrameType | None) -> bool:
    """Whether ``frame`` runs inside an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _output_lost() -> int:
    """Flushes what was printed, before the interpreter does so at its end. Returns the exit code
    for a failure, else 0.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return EXIT_CLOSED_PIPE
    except OSError as error:
        _discard_output()
        message = InputError(
            f"cannot write the output: {error.strerror}",
            hint="free some space, or send the output elsewhere",
        )
        print(f"error: {message}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_OK


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end_progress_bars() -> None:
    """Closes progress bars: an unfinished bar would share its line with the error message."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


def _print_anything() -> None:
    """Makes every text printable: characters that the terminal's encoding lacks are printed as
    escapes, and output to a closed stream (``>&-``) is dropped.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (stays open)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _described(error: BaseException) -> str:
    return shortened(" ".join(f"{type(error).__name__}: {error}".split()), 150)


def _traceback_file() -> str:
    """Writes the traceback that is being handled to a new file and returns its path."""
    started = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    try:
        handle, path = tempfile.mkstemp(prefix=f"rfdetr_repro-{started}-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{sys.argv}\n{traceback.format_exc()}")
    except OSError:
        traceback.print_exc()
        return "the traceback above"
    return path
