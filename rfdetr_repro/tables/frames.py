"""A table as a pandas DataFrame, with numbers as numbers.

    from rfdetr_repro.tables import frame

    table = frame(2, "results")  # or frame("frontier", records)
    table[["model", "size", "published_ap", "measured_ap"]]
    numbers = frame(2, long=True)  # one number per row, as --format csv
    numbers[numbers["source"] == "here"]

Without ``long`` a table of the paper has one row for each measurement of a printed row, with a
column for each number; every row names its model. Units: AP, its differences and its intervals are
in percent and percentage points, every column that ends in ``ms`` is in milliseconds, ``params``
and ``params_m`` are millions, ``gflops`` and ``flops`` are 10^9 operations (2 per multiply-add),
and ``size`` of a file is in MB. The 95 % interval of NAME is in NAME_low and NAME_high. What was
not measured, or could not be, is NA; the columns ``state``, ``file`` and ``record`` say which, and
where a measured number comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.tabular import data_frame

from .command import OWN, build_tables, load_records, table_name
from .join import Measured
from .missing import Here
from .published import paper_table
from .table import Cell, Table
from .tidy import ends, is_interval, tidy

_SAME_ROW = ("model", "size", "variant")  # printed once for all lines of a row


def frame(
    name: str | int,
    records: str | Path | Iterable[Record] | None = None,
    *,
    long: bool = False,
) -> Any:
    """A table by the name that ``--table`` takes, as a ``pandas.DataFrame``.

    Args:
        name: a number, "frontier", "sensitivity", "rivals", "parts", "rf100" or "all".
        records: Records, or a path as ``--records`` takes; None: those that come with the package
            and those of ``results/`` of the current folder.
        long: a table of the paper with one number per row, as ``--format csv`` prints it.

    Where a name stands for several tables ("frontier", "sensitivity", "all"), their rows follow one
    another. A column ``table`` names the table of each row, except for a single table of the paper
    that is not ``long``. ``attrs`` of the frame holds ``title`` and ``notes``. Raises
    :class:`InputError` for an unknown name, and where pandas is not installed.
    """
    if records is None or isinstance(records, (str, Path)):
        found = load_records(records)
    else:
        found = list(records)
    key = table_name(str(name))
    if key in OWN or long:
        tables = build_tables(key, found, "csv")
        whole = [tidy(table) for table in tables]
        return _framed([_Part(table, list(_plain_rows(table))) for table in whole], "")
    names = [key] if key != "all" else list(TABLES)
    measured, here = Measured(found), Here.detect(found)
    parts = [paper_table(each, measured, here) for each in names]
    return _framed(
        [_Part(table, list(_wide_rows(table))) for table in parts],
        "table" if len(parts) > 1 else "",
    )


class _Part:
    """A table and its rows as values; ``numeric``: its columns, and whether each holds numbers."""

    def __init__(self, table: Table, rows: list[dict[str, Any]]) -> None:
        self.table = table
        self.rows = rows
        self.numeric = dict(_columns(table))


def _framed(parts: list[_Part], heading: str) -> Any:
    """One frame of all parts; ``heading``: the name of a first column with the tables' titles."""
    columns: dict[str, str | None] = {heading: "string"} if heading else {}
    rows = []
    for part in parts:
        own = [{heading: part.table.title, **row} if heading else row for row in part.rows]
        rows += own
        for name, number in part.numeric.items():
            known = any(row.get(name) is not None for row in own)
            # a column of numbers stays numeric if no number is known
            columns[name] = columns.get(name) or (None if known or not number else "Float64")
    columns = {
        name: None if any(isinstance(row.get(name), str) for row in rows) else kind
        for name, kind in columns.items()
    }
    made = data_frame(columns, rows)
    made.attrs["title"] = "; ".join(part.table.title for part in parts)
    made.attrs["notes"] = [note for part in parts for note in part.table.notes]
    return made


def _plain_rows(table: Table) -> Iterator[dict[str, Any]]:
    """The rows of a tidy table."""
    for row in table.rows:
        yield {column.key: row.get(column.key, Cell()).plain for column in table.columns}


def _wide_rows(table: Table) -> Iterator[dict[str, Any]]:
    """The rows of a paper's table, each with its model."""
    model: dict[str, Any] = {}
    first: dict[str, Cell] = {}
    for row, section in zip(table.rows, table.sections, strict=True):
        if "model" in row:
            model = {key: row[key].text or None for key in _SAME_ROW}
            first = {key: cell for key, cell in row.items() if key.startswith("published_")}
        row = {**first, **row}
        values: dict[str, Any] = {"section": section or None, **model}
        for column in table.columns:
            if column.key in _SAME_ROW:
                continue
            cell = row.get(column.key, Cell())
            if is_interval(column.key):
                low, high = ends(cell)
                values |= {f"{column.key}_low": low, f"{column.key}_high": high}
            elif column.key.startswith("difference_"):
                values[column.key] = _difference(row, column.key)
            else:
                values[column.key] = cell.plain
                if column.right and isinstance(values[column.key], str):
                    values[column.key] = float(values[column.key])  # a printed difference
        yield values


def _difference(row: dict[str, Cell], key: str) -> float | None:
    """Measured, or computed, minus published."""
    name = key.removeprefix("difference_")
    own = row.get(name if name.startswith("computed_") else f"measured_{name}", Cell()).value
    printed = row.get(f"published_{name.removeprefix('computed_')}", Cell()).value
    if not isinstance(own, (int, float)) or not isinstance(printed, (int, float)):
        return None
    return round(own - printed, 6)


def _columns(table: Table) -> Iterator[tuple[str, bool]]:
    """The columns, each interval as its two ends; and whether they hold numbers."""
    if any(table.sections):
        yield "section", False
    for column in table.columns:
        if is_interval(column.key):
            yield f"{column.key}_low", True
            yield f"{column.key}_high", True
        else:
            yield column.key, column.right
