"""What users of the package may rely on: the names and signatures that the packages offer, and the
verbs of the program with their arguments.

``python docs/tools/public_api.py`` writes tests/project/public_api.txt, which a test compares with
the code.
"""

from __future__ import annotations

import argparse
import ast
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rfdetr_repro"
STORED = ROOT / "tests" / "project" / "public_api.txt"


def snapshot() -> str:
    """The text that is compared: one line for each name, method and argument."""
    return "\n".join([*_offered(), *_verbs()]) + "\n"


def packages() -> dict[str, list[str]]:
    """Each package that offers names -> the names, from ``__all__`` or ``lazily``."""
    found = {}
    for file in sorted(PACKAGE.rglob("__init__.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = sorted(_names(tree))
        if names:
            found[".".join(file.parent.relative_to(ROOT).parts)] = names
    return found


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            yield from ast.literal_eval(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazily":
            homes = node.args[1]
            if isinstance(homes, ast.Dict):
                yield from (ast.literal_eval(key) for key in homes.keys if key is not None)


def _offered() -> Iterator[str]:
    for package, names in packages().items():
        module = importlib.import_module(package)
        for name in names:
            yield from _described(f"{package}.{name}", getattr(module, name))


def _described(name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value):
        yield f"class {name}{_signature(value)}"
        for method, member in sorted(vars(value).items()):
            plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if method.startswith("_"):
                continue
            if inspect.isfunction(plain):
                yield f"  def {method}{_signature(plain)}"
            elif isinstance(member, property):
                yield f"  property {method}"
    elif inspect.isroutine(value):
        yield f"def {name}{_signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _signature(value: object) -> str:
    if isinstance(value, type) and (
        issubclass(value, enum.Enum) or getattr(value, "_is_protocol", False)
    ):
        return ""  # made by Python, and not the same in each version
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    # where an object lies in memory is another place in each process
    return re.sub(r"<(\w+) (\S+) at 0x[0-9a-f]+>", r"<\1 \2>", str(signature))


def _verbs() -> Iterator[str]:
    cli = importlib.import_module("rfdetr_repro.cli")
    for verb in cli.VERBS:
        yield f"rfdetr-repro {verb}"
        for action in cli.program_of(verb).parser()._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            name = ", ".join(action.option_strings) or action.dest
            yield f"  {name}" + (" (required)" if action.required else "")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    STORED.write_text(snapshot(), encoding="utf-8")
