"""The models and splits that the arguments of the benchmark command name."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rfdetr_repro.spec.arguments import input_file, label
from rfdetr_repro.spec.errors import InputError

Kind = TypeVar("Kind")


def models_of(args: argparse.Namespace) -> list[tuple[str, Path | None]]:
    """The names in --models with their weights, None for random weights.

    Raises :class:`InputError` for weights that are not there or that are given twice, and for
    --checkpoint without exactly one model that it can belong to.
    """
    found: list[tuple[str, Path | None]] = []
    for part in (part.strip() for text in args.models for part in text.split(",")):
        name, given, weights = part.partition("=")
        if given and not (name.strip() and weights.strip()):
            raise InputError(f"{part!r} is not NAME=WEIGHTS", "--models", "write name=file")
        if name:
            path = _checked(input_file, weights.strip(), "--models") if given else None
            found.append((name.strip(), path))
    if args.checkpoint is None:
        return found
    if len(found) != 1 or found[0][1] is not None:
        hint = "give each its own: --models NAME=FILE" if found else "name one with --models"
        raise InputError("--checkpoint needs exactly one model without weights", hint=hint)
    return [(found[0][0], args.checkpoint)]


def _checked(kind: Callable[[str], Kind], text: str, where: str) -> Kind:
    """A part of an argument, by the type of a whole argument."""
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error), where) from error


def names(args: argparse.Namespace) -> list[str]:
    """The names in --models."""
    return [name for name, _ in models_of(args)]


def files_of(args: argparse.Namespace) -> list[tuple[str | None, str]]:
    """The models in --model with the names that they are given, None for the file's own.

    A text that is a path is one, even if it holds an equals sign.
    """
    found: list[tuple[str | None, str]] = []
    for text in args.onnx:
        name, given, path = text.partition("=")
        if given and "/" not in name and not Path(text).exists():
            found.append((_checked(label, name.strip(), "--model"), path))
        else:
            found.append((None, text))
    return found


def split_names(text: str) -> list[str]:
    """The splits in a text such as ``"val,test"``, each once; raises :class:`InputError` if there
    is none.
    """
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise InputError(f"{text!r} names no split", hint="write val, or val,test")
    return found
