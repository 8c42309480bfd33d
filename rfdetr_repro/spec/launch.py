"""Programs whose modules are loaded when the program runs, not before; the command that a Record
states; and the place of a process among those that ``torchrun`` starts.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, cast

from .arguments import named
from .errors import InputError, run_main

if TYPE_CHECKING:
    import argparse


def command_line(program: str, argv: Sequence[str] | None) -> str:
    """``program`` and its arguments as a shell takes them, which Records state as their command;
    ``argv``: None for the arguments of this process.
    """
    words = sys.argv[1:] if argv is None else argv
    return shlex.join([*program.split(), *map(str, words)])


def place_in_torchrun() -> tuple[int, int]:
    """This process's number among those that ``torchrun`` started, from 0, and their number; (0, 1)
    without ``torchrun``.

    Raises :class:`InputError` for an environment that holds no numbers.
    """
    rank, size = (
        os.environ.get(name, usual) for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    try:
        return (int(rank), int(size)) if int(size) > 1 else (0, 1)
    except ValueError as error:
        raise InputError(
            f"RANK = {rank!r} and WORLD_SIZE = {size!r} are not the numbers of a process",
            hint="start the processes by torchrun, or unset WORLD_SIZE",
        ) from error


class Program:
    """The program that ``module`` defines by its functions ``parser()`` and ``main(argv)``.

    The module is imported by the call, so that a signal during the import ends the program like a
    later signal, and a program can be listed without loading what it needs.

    ``name`` is the program's name in help and errors; "" is for ``python -m`` and the parser's own
    name.
    """

    def __init__(self, module: str, name: str = "") -> None:
        """See the class for the arguments. Imports nothing."""
        self.module = module
        self.name = name

    def __call__(self, argv: Sequence[str] | None = None) -> int | None:
        """Runs the command and returns its exit code; None is 0."""
        with named(self.name):
            return cast("int | None", importlib.import_module(self.module).main(argv))

    def parser(self) -> argparse.ArgumentParser:
        """The parser of the program's arguments."""
        with named(self.name):
            return cast("argparse.ArgumentParser", importlib.import_module(self.module).parser())

    def run(self) -> NoReturn:
        """Runs the command with the arguments of this process and ends the process."""
        sys.exit(run_main(self))
