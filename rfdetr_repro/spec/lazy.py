"""Names that a package offers and loads on first use. No torch here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A function for ``package`` to use as ``__getattr__``, the hook for missing module attributes.

    ``homes`` maps each offered name to the module, below ``package``, that defines it. Any other
    name raises AttributeError.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return load
