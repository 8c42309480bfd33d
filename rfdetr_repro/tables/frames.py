"""A table as a pandas DataFrame: the content of ``--format csv``, with numbers as numbers.

    from rfdetr_repro.tables import frame

    table = frame(2, "results")  # or frame("frontier", records)
    table[["model", "size", "published_ap", "measured_ap"]]

Columns have the CSV's names and order. Units: AP, its differences and its intervals are in percent
and percentage points, every column that ends in ``ms`` is in milliseconds, ``params`` and
``params_m`` are millions, ``gflops`` and ``flops`` are 10^9 operations (2 per multiply-add), and
``size`` of a file is in MB. A column of intervals "[low, high]" stays as text, and two columns of
numbers, NAME_low and NAME_high, follow with the printed ends. What was not measured, or could not
be, is NA; the columns ``state``, ``file`` and ``record`` say which, and where a measured number
comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.tabular import data_frame

from .command import build_tables, load_records
from .format import Cell, Table

_INTERVAL = re.compile(r"\[([+-]?\d+(?:\.\d+)?), ([+-]?\d+(?:\.\d+)?)\](?: ≈)?")


def frame(name: str | int, records: str | Path | Iterable[Record] | None = None) -> Any:
    """A table by the name that ``--table`` takes, as a ``pandas.DataFrame``.

    ``records``: Records, or a path as ``--records`` takes; None: those of ``results/``, if it
    exists. Where a name stands for several tables ("frontier", "sensitivity", "all"), their rows
    follow one another and a first column ``table`` holds their titles. ``attrs`` of the frame holds
    ``title`` and ``notes``. Raises :class:`InputError` for an unknown name, and where pandas is not
    installed.
    """
    if records is None or isinstance(records, (str, Path)):
        found = load_records(records)
    else:
        found = list(records)
    tables = build_tables(str(name), found, "csv")
    several = len(tables) > 1
    columns: dict[str, str | None] = {"table": "string"} if several else {}
    rows = []
    for table in tables:
        own = [{**row, "table": table.title} if several else row for row in _rows(table)]
        rows += own
        for name, number in _columns(table):
            known = any(row.get(name) is not None for row in own)
            # a column of numbers stays numeric if no number is known
            columns[name] = columns.get(name) or (None if known or not number else "Float64")
    columns = {
        name: None if any(isinstance(row.get(name), str) for row in rows) else kind
        for name, kind in columns.items()
    }
    made = data_frame(columns, rows)
    made.attrs["title"] = "; ".join(table.title for table in tables)
    made.attrs["notes"] = [note for table in tables for note in table.notes]
    return made


def _is_interval(key: str) -> bool:
    return key.startswith("interval_") or key == "ci" or key.endswith("_ci")


def _rows(table: Table) -> list[dict[str, Any]]:
    rows = []
    for row, section in zip(table.rows, table.sections, strict=True):
        values: dict[str, Any] = {"section": section or None}
        for column in table.columns:
            cell = row.get(column.key, Cell())
            values[column.key] = cell.value if cell.value is not None else cell.text or None
            if _is_interval(column.key) and (match := _INTERVAL.fullmatch(cell.text)):
                values[f"{column.key}_low"] = float(match.group(1))
                values[f"{column.key}_high"] = float(match.group(2))
        rows.append(values)
    return rows


def _columns(table: Table) -> Iterator[tuple[str, bool]]:
    """The CSV's columns, each interval followed by its two ends; and whether they hold numbers."""
    if any(table.sections):
        yield "section", False
    for column in table.columns:
        if _is_interval(column.key):
            yield column.key, False
            yield f"{column.key}_low", True
            yield f"{column.key}_high", True
        else:
            yield column.key, column.right and not column.key.startswith("difference_")
