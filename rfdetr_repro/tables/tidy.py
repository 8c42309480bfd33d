"""A table for other programs: one observation per row, every row stands alone, numbers are numbers.

What is the same for all rows of a table (its name, its data set, its checkpoint) becomes columns;
the ends of an interval become two columns, NAME_low and NAME_high; what was not measured is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from .table import Cell, Column, Table

_INTERVAL = re.compile(r"\[([+-]?\d+(?:\.\d+)?), ([+-]?\d+(?:\.\d+)?)\](?: ≈)?")
_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?")
# a table that is tidy already has this column
_WHOLE = "source"
# words that stand where a number is not known
_UNKNOWN = ("unknown", "no detections", "-")
_ESTABLISHED = {"": "yes", "≈": "no", "?": "unknown"}


def tidy(table: Table) -> Table:
    """The table with one row per observation, and its facts as columns; a table of observations as
    it is.
    """
    if any(column.key == _WHOLE for column in table.columns):
        return table
    named = any(column.key == "table" for column in table.columns)
    columns = [] if named else [Column("table", "table", right=False)]
    columns += [Column(key, key, right=False) for key in table.facts]
    if any(table.sections):
        columns.append(Column("section", "section", right=False))
    numeric = [replace(column, right=_numeric(table, column)) for column in table.columns]
    for column in numeric:
        columns += _columns(column, table)
    made = Table(table.name, table.title, columns, notes=table.notes)
    for row, section in zip(table.rows, table.sections, strict=True):
        cells = {"table": Cell(table.name), "section": Cell(section)}
        cells.update({key: row.get(key, Cell(text)) for key, text in table.facts.items()})
        for column in numeric:
            cells.update(_cells(column, row.get(column.key, Cell())))
        made.add(cells)
    return made


def _numeric(table: Table, column: Column) -> bool:
    """Whether a column holds numbers, and words only where a number is not known."""
    cells = [row[column.key] for row in table.rows if column.key in row]
    return column.right and all(
        isinstance(cell.value, (int, float))
        or not cell.text
        or cell.text in _UNKNOWN
        or _NUMBER.fullmatch(cell.text.replace("−", "-"))
        for cell in cells
    )


def split_intervals(table: Table) -> Table:
    """The table with each column of intervals as two columns of numbers, as printed; an interval
    that is not known is "-" in both.
    """
    columns: list[Column] = []
    for column in table.columns:
        if is_interval(column.key):
            for end in ("low", "high"):
                label = column.label.replace("95% CI", end)
                columns.append(replace(column, key=f"{column.key}_{end}", label=label))
        else:
            columns.append(column)
    rows = []
    for row in table.rows:
        cells = dict(row)
        for key, cell in row.items():
            if is_interval(key) and cell.text:
                texts = cell.text.strip("[]≈ ").strip("]").split(", ")
                low, high = texts if len(texts) == 2 else ("-", "-")
                cells |= {f"{key}_low": Cell(low), f"{key}_high": Cell(high)}
        rows.append(cells)
    return replace(table, columns=columns, rows=rows)


def is_interval(key: str) -> bool:
    """Whether a column of this name holds intervals."""
    return key.startswith("interval_") or key == "ci" or key.endswith("_ci")


def _columns(column: Column, table: Table) -> Iterator[Column]:
    if is_interval(column.key):
        for end in ("low", "high"):
            yield Column(f"{column.key}_{end}", f"{column.label} {end}", column.group)
        return
    yield column
    if column.key == "gain" and any(column.key in row for row in table.rows):
        yield Column("gain_established", "established", column.group, right=False)


def _cells(column: Column, cell: Cell) -> Iterator[tuple[str, Cell]]:
    if is_interval(column.key):
        low, high = ends(cell)
        yield f"{column.key}_low", Cell(value=low)
        yield f"{column.key}_high", Cell(value=high)
        return
    yield column.key, Cell(cell.text if not column.right else "", value=number(column, cell))
    if column.key == "gain" and cell.text:
        yield "gain_established", Cell(_ESTABLISHED.get(cell.text.partition(" ")[2], "unknown"))


def number(column: Column, cell: Cell) -> float | str | None:
    """The value of a cell; in a column of numbers the printed number where there is no value."""
    if cell.value is not None or not column.right:
        return cell.value
    text = cell.text.replace("−", "-")
    if not _NUMBER.fullmatch(text):
        return None
    plain = text.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def ends(cell: Cell) -> tuple[float | None, float | None]:
    """The ends of an interval, as printed where the cell has no values; None: not known."""
    if cell.low is not None and cell.high is not None:
        return cell.low, cell.high
    match = _INTERVAL.fullmatch(cell.text)
    return (float(match.group(1)), float(match.group(2))) if match else (None, None)
