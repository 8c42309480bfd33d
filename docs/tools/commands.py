"""Every command of the package with its arguments, read from the parsers that the commands
themselves use.

``python docs/tools/commands.py`` prints the reference as Markdown; the site's build makes a page
of it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]


class _Reached(Exception):
    """Carries the parser of a command that was about to parse its arguments."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def program(module: str) -> Any:
    """The module that ``python -m module`` runs."""
    if importlib.util.find_spec(f"{module}.__main__" if _is_package(module) else module) is None:
        raise ModuleNotFoundError(module)
    return importlib.import_module(f"{module}.__main__" if _is_package(module) else module)


def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser with which ``python -m module`` reads its arguments, or ``rfdetr-repro VERB`` for
    the module "rfdetr-repro VERB".
    """
    if module.startswith("rfdetr-repro "):
        cli = importlib.import_module("rfdetr_repro.cli")
        found: argparse.ArgumentParser = cli.program_of(module.partition(" ")[2]).parser()
        return found
    main: Callable[[list[str]], object] = _main_of(module)
    with _stopping_at_the_parser():
        try:
            main([])
        except _Reached as reached:
            return reached.parser
    raise RuntimeError(f"{module} reads no arguments")


def _main_of(module: str) -> Callable[[list[str]], object]:
    """The function that ``python -m module`` runs: that of the verb, where the module is one."""
    cli = importlib.import_module("rfdetr_repro.cli")
    for name, verb in cli.VERBS.items():
        if verb.also == module:
            return cli.program_of(name)  # type: ignore[no-any-return]
    return program(module).main  # type: ignore[no-any-return]


@contextmanager
def _stopping_at_the_parser() -> Iterator[None]:
    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise _Reached(self)

    before = argparse.ArgumentParser.parse_known_args
    argparse.ArgumentParser.parse_known_args = stop  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_known_args = before  # type: ignore[method-assign]


def page() -> str:
    """The reference of all commands as Markdown."""
    cli = importlib.import_module("rfdetr_repro.cli")
    sections = [
        "# All commands",
        "This page is generated from the parsers of the programs. [Commands](../cli.md) says "
        "which command serves which purpose; [data sets](../data.md) explains the arguments that "
        "name data.",
    ]
    for title, verbs in cli.GROUPS.items():
        sections.append(f"## {title.capitalize()}")
        sections += [
            _section(name, verb.also, cli.program_of(name).parser()) for name, verb in verbs.items()
        ]
    return "\n\n".join(sections) + "\n"


def _section(name: str, also: str, parser: argparse.ArgumentParser) -> str:
    """Heading, description and one table per group of arguments."""
    heading = f"`rfdetr-repro {name}`" + (f", also `python -m {also}`" if also else "")
    parts = [f"### {name}", heading]
    if parser.description:
        parts.append(_paragraph(parser.description))
    for group in parser._action_groups:
        rows = [
            _row(action)
            for action in group._group_actions
            if not isinstance(action, argparse._HelpAction)
        ]
        if rows:
            if group.title not in ("options", "optional arguments", "positional arguments"):
                parts.append(f"**{_cell(group.title or '').rstrip(':').capitalize()}**")
            parts.append("\n".join(["| argument | default | meaning |", "|---|---|---|", *rows]))
    if parser.epilog:
        parts.append(_paragraph(parser.epilog))
    return "\n\n".join(parts)


def _paragraph(text: str) -> str:
    """Prose as it is; a text with indented lines, which shows how to call the program, as it was
    typed.
    """
    if any(line.startswith("    ") for line in text.splitlines()):
        return f"```text\n{text.strip()}\n```"
    return _cell(" ".join(text.split()))


def _row(action: argparse.Action) -> str:
    older = getattr(action, "older", ())  # former names, which docs/cli.md lists
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings if flag not in older)
    values = _values(action)
    shown = f"{flags} {values}".strip()
    needed = action.required and bool(action.option_strings)
    default = (
        "required"
        if needed or (not action.option_strings and action.nargs not in ("?", "*"))
        else _default(action)
    )
    meaning = (action.help or "") % {**vars(action), "prog": ""} if action.help else ""
    if action.choices is not None:
        choices = ", ".join(f"`{choice}`" for choice in action.choices)
        meaning = f"{meaning}; one of {choices}" if meaning else f"one of {choices}"
    if older:
        meaning += f"; formerly {', '.join(f'`{flag}`' for flag in older)}"
    return f"| {shown} | {default} | {_cell(meaning).strip()} |"


def _values(action: argparse.Action) -> str:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    shown = {"+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(
        str(action.nargs), name
    )
    return f"`{shown}`"


def _default(action: argparse.Action) -> str:
    value = action.default
    if (
        value is None
        or value is False
        or value == argparse.SUPPRESS
        or value == []
        or "default" in (action.help or "")
    ):
        return ""
    if isinstance(value, (list, tuple)):
        value = ",".join(str(part) for part in value)
    return f"`{value}`" if str(value) else ""


def _cell(text: str) -> str:
    """Text without what Markdown or a table would take for its own."""
    return (
        " ".join(text.split())
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("*", "\\*")
        .replace("_", "\\_")
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(page(), end="")
