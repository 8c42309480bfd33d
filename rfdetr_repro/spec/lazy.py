"""Names that a package offers and loads when they are asked for. No torch here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """``__getattr__`` of ``package``; ``homes``: name -> the module of the package that has it.

    Any other name is an AttributeError, as it is of a package without this.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return load
