"""``rfdetr-repro completion SHELL``: completion of verbs, arguments and choices in a shell.

    eval "$(rfdetr-repro completion bash)"

The shell calls the program at each Tab, and argcomplete answers from the parser of the verb that
stands on the line, so that what is offered is what this version of the program takes. Only that
parser is loaded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rfdetr_repro.spec.arguments import ArgumentParser
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.launch import Program

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "rfdetr-repro"


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.completion",
        description="Prints what makes a shell complete the verbs, arguments and choices of "
        'rfdetr-repro. bash and zsh: add eval "$(rfdetr-repro completion bash)" to ~/.bashrc, or '
        "the same with zsh to ~/.zshrc. fish: write the output to "
        "~/.config/fish/completions/rfdetr-repro.fish.",
        examples=("completion bash", "completion fish"),
    )
    arguments.add_argument("shell", choices=SHELLS, help="shell whose script is printed")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the script of the shell that ``argv`` names."""
    args = parser().parse_args(argv)
    print(_argcomplete().shellcode([PROGRAM], shell=args.shell))


def answer(verbs: Iterable[str], program_of: Callable[[str], Program]) -> None:
    """Answers the shell, which asks through the environment what can stand at the cursor, and ends
    the process.
    """
    words = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0") or 0)].split(
        " "
    )
    words = [word for word in words[1:-1] if word]
    listed = list(verbs)
    if words and words[0] in listed:
        whole = argparse.ArgumentParser(PROGRAM)
        under = whole.add_subparsers()
        try:
            found = program_of(words[0]).parser()
        except InputError:  # the verb cannot run here; a shell has no place for the reason
            raise SystemExit(1) from None
        under.add_parser(words[0], parents=[found], add_help=False)
    else:
        whole = argparse.ArgumentParser(PROGRAM)
        whole.add_argument("verb", choices=[*listed, "help"])
        whole.add_argument("topic", nargs="?", choices=listed)
        whole.add_argument("--version", action="store_true")
    _argcomplete().autocomplete(whole)


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError as error:
        raise InputError(
            "argcomplete is not installed", hint="install it with: pip install argcomplete"
        ) from error
    return argcomplete
