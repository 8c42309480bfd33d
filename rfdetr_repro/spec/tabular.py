"""Rows of named values as a pandas DataFrame. pandas is an optional package, loaded on first use.

Every column has a nullable type ("Int64", "Float64", "boolean", "string"): a number stays a number,
and an unknown value is NA, never 0, NaN or an empty text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .optional import optional_module

LARGEST_INT64 = 2**63 - 1


def data_frame(columns: Mapping[str, str | None], rows: Sequence[Mapping[str, Any]]) -> Any:
    """A DataFrame with these columns, in this order. A value that a row lacks, or that is None, is
    NA.

    ``columns``: name -> a type of the module's list; None: numbers if all known values are numbers,
    else texts. A column of whole numbers that holds a fraction, or a number beyond 64 bits, becomes
    a column of floats. Raises :class:`InputError` where pandas is not installed.
    """
    pandas = _pandas()
    made = {}
    for name, kind in columns.items():
        values = [row.get(name) for row in rows]
        kind = kind or _kind_of(values)
        if kind == "Int64" and not all(map(_fits, values)):
            kind = "Float64"
        if kind == "Float64":
            values = [None if value is None else float(value) for value in values]
        made[name] = pandas.array(values, dtype=kind)
    return pandas.DataFrame(made, columns=list(columns))


def _fits(value: Any) -> bool:
    """Whether a value can stand in a column of whole numbers."""
    return value is None or (value == int(value) and abs(value) <= LARGEST_INT64)


def _kind_of(values: Sequence[Any]) -> str:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return "boolean"
    if known and all(isinstance(value, int) for value in known):
        return "Int64"
    if known and all(isinstance(value, (int, float)) for value in known):
        return "Float64"
    return "string"


def _pandas() -> Any:
    return optional_module(
        "pandas",
        "frames need pandas, which is not installed",
        "pip install 'rfdetr-repro[frames]'",
    )
