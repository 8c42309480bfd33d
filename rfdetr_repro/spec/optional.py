"""Packages that only some commands need, loaded on first use."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import InputError


def optional_module(name: str, message: str, hint: str) -> Any:
    """The module ``name`` of an optional package. Raises :class:`InputError` with ``message`` and
    ``hint`` where the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(message, hint=hint) from error
