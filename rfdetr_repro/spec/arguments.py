"""The declaration of the arguments of all commands: the parser, and the types that check range,
path and name while the command line is read. Arguments that several commands share are declared in
:mod:`.shared_arguments`.

A type that refuses a value gives one line that names the argument, and exit code 2, before any file
is read or written. No torch here.
"""

from __future__ import annotations

import argparse
import copy
import errno
import math
import os
import re
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from . import logs
from .errors import InputError, nearest, shortened
from .files import output_path
from .ranges import plain_digits, plain_name

MOST_THREADS = 1024
MOST_PROCESSES = 1024
LARGEST_SEED = 2**63 - 1
_LONGEST_LABEL = 200

# the program's name in help and errors; "": the name of its module
_NAME: ContextVar[str] = ContextVar("name of the program", default="")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Makes help and errors call the program ``name``, such as "rfdetr-repro train", while the
    block runs.
    """
    before = _NAME.set(name)
    try:
        yield
    finally:
        _NAME.reset(before)


class HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs, keeps indented lines as they are, and ends each help with the default."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
        return "\n\n".join(
            paragraph
            if "\n    " in f"\n{paragraph}"
            else super(HelpFormatter, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Without former names of the argument."""
        older = getattr(action, "older", ())
        if older:
            action = copy.copy(action)
            action.option_strings = [flag for flag in action.option_strings if flag not in older]
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        shown = isinstance(default, (int, float, str, Path)) and not isinstance(default, bool)
        if not shown or default in ("", argparse.SUPPRESS) or "default" in text:
            return text
        return f"{text} (default: %(default)s)".lstrip()


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser whose errors are :class:`InputError`: one line, without the usage, at most
    LONGEST_LINE characters.

    The error for an unknown flag or choice names the nearest known flag or choice. Abbreviated
    flags are refused, because a later flag of the command could give the abbreviation another
    meaning. Every parser has ``--verbose`` and ``--quiet``.

    Args:
        prog: the module behind ``python -m``; the program ``rfdetr-repro`` puts its own name there.
        examples: what follows ``rfdetr-repro`` in whole command lines, beginning with the verb; the
            end of the help shows the command lines, and a test parses them.
    """

    def __init__(
        self, prog: str | None = None, *, examples: Sequence[str] = (), **kwargs: Any
    ) -> None:
        """See the class for the arguments; further arguments are those of argparse's parser."""
        name = _NAME.get()
        if not name and prog is not None and prog.startswith(("rfdetr_repro.", "reports.")):
            name = f"python -m {prog}"
        self.examples = tuple(examples)
        shown = "\n".join(["Examples:", *(f"    rfdetr-repro {example}" for example in examples)])
        epilog = "\n\n".join([kwargs.pop("epilog", "")] + [shown] * bool(examples)).strip()
        kwargs = {"allow_abbrev": False, "formatter_class": HelpFormatter, **kwargs}
        super().__init__(name or prog, epilog=epilog or None, **kwargs)
        self._messages = self.add_argument_group("messages")
        alternatives = self._messages.add_mutually_exclusive_group()
        alternatives.add_argument(
            "-v", "--verbose", action="store_true", help="also print decisions and their reasons"
        )
        alternatives.add_argument(
            "-q", "--quiet", action="store_true", help="print only results, warnings and errors"
        )

    def format_help(self) -> str:
        """The help, which ends with the arguments that every command has."""
        self._action_groups.remove(self._messages)
        self._action_groups.append(self._messages)
        return super().format_help()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments; ``--verbose`` and ``--quiet`` take effect here.

        Raises :class:`InputError` for arguments that cannot be read.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = nearest(unknown[0].partition("=")[0], flags)
            raise InputError(
                f"unrecognized arguments: {' '.join(unknown)}",
                hint=f"did you mean {near}?" if near else self._where_to_look(),
            )
        logs.choose(verbose=found.verbose, quiet=found.quiet)
        return found

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """The values of an argument. In ``--out=--`` some versions of argparse take the value away
        and give an empty list, which no type has checked.
        """
        if action.option_strings and "--" in arg_strings:
            raise argparse.ArgumentError(action, "'--' is not a value")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        options = [str(option) for option in action.choices]
        near = nearest(str(value), options)
        hint = f"did you mean {near}? " if near else ""
        name = "/".join(action.option_strings) or action.metavar or action.dest
        raise InputError(
            f"invalid choice: {shortened(repr(value), 60)}",
            name,
            f"{hint}choose one of {', '.join(options)}",
        )

    def error(self, message: str) -> NoReturn:
        """Raises :class:`InputError`; ``message`` is argparse's own."""
        for action in self._actions:
            if older := getattr(action, "older", ()):
                shown = [flag for flag in action.option_strings if flag not in older]
                message = message.replace("/".join(action.option_strings), "/".join(shown))
        of_argument = re.fullmatch(r"argument (\S+): (.*)", message, flags=re.DOTALL)
        where, what = of_argument.groups() if of_argument else ("", message)
        raise InputError(what, where, "" if "; " in what else self._where_to_look())

    def _where_to_look(self) -> str:
        known = self.prog.startswith(("rfdetr-repro", "python -m"))
        return f"{self.prog if known else 'the same command with'} --help lists the arguments"


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of whole numbers from ``low`` to ``high``, both allowed."""

    def parse(text: str) -> int:
        digits = text.strip()
        if re.fullmatch(r"[+-]?[0-9]{1,20}", digits) and low <= int(digits) <= high:
            return int(digits)
        raise ArgumentTypeError(f"{_shown(text)} is not a whole number from {low} to {high}")

    return parse


def number(low: float, high: float, ends: str = "[]") -> Callable[[str], float]:
    """The type of finite numbers from ``low`` to ``high``; a round bracket in ``ends`` excludes
    that end, as in "(]".
    """
    above = ends[0] == "("
    below = ends[1] == ")"
    bounds = (
        f"{'above' if above else 'at least'} {low:g} and {'below' if below else 'at most'} {high:g}"
    )

    def parse(text: str) -> float:
        try:
            value = float(text) if plain_digits(text) else math.nan
        except ValueError:
            value = math.nan
        # NaN fails
        if (value > low if above else value >= low) and (value < high if below else value <= high):
            return value
        raise ArgumentTypeError(f"{_shown(text)} is not a number {bounds}")

    return parse


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 1e7


def duration(text: str) -> float:
    """``"90s"``, ``"30m"``, ``"1h30m"`` -> seconds. A type for arguments."""
    parts = re.findall(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", text.strip().lower())
    joined = "".join(value + unit for value, unit in parts)
    seconds = sum(float(value) * _UNITS[unit] for value, unit in parts)
    if joined != text.strip().lower() or not 0 < seconds <= _LONGEST_S:
        raise ArgumentTypeError(f"{_shown(text)} is not a time; write 90s, 30m or 1h30m")
    return seconds


def wholes(low: int, high: int) -> Callable[[str], list[int]]:
    """The type of lists like "10,14,18", of different whole numbers from ``low`` to ``high``."""
    parse_number = whole(low, high)

    def parse(text: str) -> list[int]:
        values = [parse_number(part) for part in text.split(",")]
        if len(set(values)) != len(values):
            raise ArgumentTypeError(f"{_shown(text)} names a number twice")
        return values

    return parse


def label(text: str) -> str:
    """A name that is printed and stored, but does not name a file."""
    if not text.strip() or not text.isprintable() or len(text) > _LONGEST_LABEL:
        raise ArgumentTypeError(
            f"{_shown(text)} is not a name: write 1 to {_LONGEST_LABEL} printable characters"
        )
    return text


def folder_name(text: str) -> str:
    """A name for files and folders, without a path."""
    try:
        return plain_name(text, "the name")
    except InputError as error:
        raise ArgumentTypeError(str(error)) from error


def folder_names(text: str) -> str:
    """Names like "val,test", each a :func:`folder_name`; returned as written."""
    for part in text.split(","):
        folder_name(part.strip())
    return text


def any_path(text: str) -> Path:
    """A path that need not exist."""
    if not text.strip() or "\0" in text:
        raise ArgumentTypeError(f"{_shown(text)} is not a path")
    return Path(text)


def input_path(text: str) -> Path:
    """A file or folder that exists."""
    found = any_path(text)
    _mode(found)
    return found


def input_folder(text: str) -> Path:
    """A folder that exists."""
    found = input_path(text)
    if not found.is_dir():
        raise ArgumentTypeError(f"{_shown(text)} is not a folder")
    return found


def input_file(text: str) -> Path:
    """A regular file that exists."""
    found = input_path(text)
    if not found.is_file():
        raise ArgumentTypeError(
            f"{_shown(text)} is {'a folder' if found.is_dir() else 'not a regular file'}, where a "
            f"file is needed"
        )
    return found


def output_file(text: str) -> Path:
    """A file that can be written: a regular file, or a name in a folder that is writable or can be
    made. Nothing is made yet.
    """
    target = any_path(text)
    try:
        final = output_path(target)
    except InputError as error:
        raise ArgumentTypeError(str(error)) from error
    _check_writable(final, final.parent)
    return target


def output_folder(text: str) -> Path:
    """A folder that is writable or can be made. Nothing is made yet."""
    target = any_path(text)
    if os.path.lexists(target) and not target.is_dir():
        raise ArgumentTypeError(f"cannot write: {_shown(text)} is not a folder")
    _check_writable(target, Path(os.path.abspath(target)))
    return target


def former_names(action: argparse.Action, older: Sequence[str]) -> None:
    """Keeps former names of an argument out of help and errors; they go on working."""
    action.older = tuple(older)  # type: ignore[attr-defined]


def refuse(given: Mapping[str, object], when: str) -> None:
    """Raises :class:`InputError` for the first argument of ``given``, name -> value, that is not
    None: it has no meaning ``when``, such as "without --run".
    """
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} has no meaning {when}", hint=f"leave {name} out")


def _check_writable(target: Path, folder: Path) -> None:
    """Tries a nameless file in the nearest folder that exists: permissions alone are not reliable
    (read-only disks, root).
    """
    try:
        target.stat()
    except OSError as error:
        # a name that is too long, or a loop of links
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise ArgumentTypeError(
                f"cannot write {_shown(str(target))}: {error.strerror}"
            ) from error
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ArgumentTypeError(
            f"cannot write to {_shown(str(folder))}: {error.strerror}"
        ) from error


def _mode(found: Path) -> None:
    try:
        found.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentTypeError(f"cannot read {_shown(str(found))}: {reason}") from error


def _shown(text: str) -> str:
    """The text as Python writes it; a long text is reduced to its beginning and its end, which
    holds a file's name.
    """
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:30]}...{shown[-45:]}"
