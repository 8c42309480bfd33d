"""Programs whose modules are loaded when the program runs, not before."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, cast

from .arguments import named
from .errors import run_main

if TYPE_CHECKING:
    import argparse


class Program:
    """The program that ``module`` holds as its functions ``parser()`` and ``main(argv)``.

    The module is imported by the call: a signal that comes meanwhile ends the program as a later
    signal does, and the name of a program can be listed without loading what the program needs.

    ``name``: what help and errors call the program; "" for ``python -m`` and the parser's own name.
    """

    def __init__(self, module: str, name: str = "") -> None:
        self.module = module
        self.name = name

    def __call__(self, argv: Sequence[str] | None = None) -> int | None:
        """Runs the command; its exit code, or None for 0."""
        with named(self.name):
            return cast("int | None", importlib.import_module(self.module).main(argv))

    def parser(self) -> argparse.ArgumentParser:
        """The parser with which the program reads its arguments."""
        with named(self.name):
            return cast("argparse.ArgumentParser", importlib.import_module(self.module).parser())

    def run(self) -> NoReturn:
        """Runs the command with the arguments of this process and ends the process."""
        sys.exit(run_main(self))
