"""CSV that is safe to open in a spreadsheet, although names come from data sets and files of other
people.

A spreadsheet takes a cell that begins with "=", "+", "-" or "@" for a formula, which may read other
files or open addresses. An apostrophe in front makes such a cell a text (OWASP, "CSV Injection").
Numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?%?")


def to_csv(rows: Iterable[Iterable[object]]) -> str:
    """The rows as CSV, with newlines between rows. None becomes an empty cell, and texts that look
    like formulas are escaped.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return stream.getvalue()


def csv_cell(value: object) -> object:
    """``value``, with an apostrophe in front if it is a text that a spreadsheet would run.

    A sign alone is not a formula.
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
