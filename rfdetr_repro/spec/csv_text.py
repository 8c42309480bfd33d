"""CSV that a spreadsheet opens without running anything in it: names come from data sets and files
that somebody else made.

A spreadsheet takes a cell that begins with "=", "+", "-" or "@" for a formula, which may read other
files or open addresses. Such a cell gets an apostrophe in front, by which spreadsheets know text
(OWASP, "CSV Injection"). Numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?%?")


def to_csv(rows: Iterable[Iterable[object]]) -> str:
    r"""The rows as CSV with "\n" between them; None is an empty cell, and texts that look like
    formulas are escaped.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return stream.getvalue()


def csv_cell(value: object) -> object:
    """``value``, with an apostrophe in front if it is a text that a spreadsheet would run.

    A sign alone is no formula.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        # the module csv would leave a lone "\r" without quotes
        value = value.replace("\r\n", "\n").replace("\r", "\n")
    if (
        not isinstance(value, str)
        or not value.startswith(_FORMULA)
        or value in ("+", "-")
        or _NUMBER.fullmatch(value)
    ):
        return value
    return f"'{value}"
