"""The numbers of a paper table as observations: one number per row, each with its model, its unit,
its interval and its origin. This is what CSV, JSON and data frames hold.

Columns (:data:`COLUMNS`): ``source`` says whose number it is: "paper", "here" (measured by this
project), "own" (a Record that joined the table) or "computed" (GFLOPs by arithmetic). ``value``,
``low`` and ``high`` (95 % interval) are in ``unit``; ``published`` is the printed number of the
same cell and ``difference`` is value - published. ``state`` is the cell's state, and ``shown`` is
true for the observation that the printed table shows; further counters and files have false.
"""

from __future__ import annotations

from collections.abc import Iterator

from rfdetr_repro.paper.cells import Slot
from rfdetr_repro.paper.published import TABLES, data_set
from rfdetr_repro.records.record import Record

from .answer import DIFFERS, INCOMPARABLE, OWN_ROW, REPRODUCED, Answer, AnsweredRow, Number
from .answer_table import interval_of
from .join import counter_of
from .published import computed_gflops, difference, title
from .scoreboard import comparable, within
from .table import Cell, Column, Table

PAPER = "paper"
HERE = "here"
COMPUTED = "computed"
SOURCES = (PAPER, HERE, OWN_ROW, COMPUTED)
NUMBERS = ("value", "low", "high", "published", "difference")
COLUMNS = (
    "table",
    "section",
    "model",
    "size",
    "variant",
    "data",
    "metric",
    "condition",
    "unit",
    "source",
    *NUMBERS,
    "state",
    "shown",
    "why",
    "counter",
    "runtime",
    "precision",
    "device",
    "protocol",
    "record",
    "file",
)
_UNITS = {"params": "10^6", "flops": "10^9", "ms": "ms", "fit": "", "knob": ""}
_NAMES = {"ms": "latency", "flops": "gflops"}


def observations(found: Answer) -> Table:
    """The observations of a table, rows in the printed order."""
    columns = [Column(key, key, right=key in NUMBERS) for key in COLUMNS]
    table = Table(found.table, title(found.table), columns)
    for row in found.rows:
        for cells in _of_row(found.table, row):
            table.add(cells)
    return table


def _of_row(name: str, row: AnsweredRow) -> Iterator[dict[str, Cell]]:
    for number in row.numbers.values():
        common = {**_model(name, row), **_quantity(row, number.slot)}
        if number.printed:
            published = float(number.printed)
            cells: dict[str, float | str | None] = {
                "value": published,
                "published": published,
                "state": number.state,
            }
            yield _row(common, PAPER, {**cells, "why": number.why, "shown": True})
        if number.cell is not None and number.record is not None:
            yield _measured(common, row, number, number.record, number.cell)
        yield from _further(common, row, number)
    if row.row is not None and (computed := computed_gflops(row.row)) is not None:
        yield from _computed(name, row, float(computed.value or 0))


def _model(name: str, row: AnsweredRow) -> dict[str, str]:
    if row.row is None:
        model = row.own.record.model if row.own is not None else None
        data = data_set(row.own.record) if row.own is not None else ""
        label = row.label
        size = (model.size or "") if model else ""
        variant = (model.variant or "") if model else ""
    else:
        model = row.row.identity.model
        data = TABLES[name].data
        label = model.name
        size = model.size or ""
        variant = model.variant or ""
    return {
        "table": name,
        "section": row.section,
        "model": label,
        "size": size,
        "variant": variant,
        "data": data or TABLES[name].data,
    }


def _quantity(row: AnsweredRow, slot: Slot) -> dict[str, str]:
    """Metric, condition and unit of a column of numbers."""
    change = row.row is not None and (
        row.row.delta
        if row.row.table != "11"
        else row.row.printed.get("kind", "").startswith("delta")
    )
    conditions = [slot.group]
    if slot.buffer_ms is not None and not slot.group:
        conditions.append(f"{slot.buffer_ms:g} ms wait")
    conditions += [f"size {slot.size}"] if slot.size else []
    conditions += ["difference"] if change and slot.accuracy else []
    metric = _NAMES.get(slot.metric, slot.metric)
    unit = _UNITS.get(slot.metric, "points" if change else "%")
    if slot.metric in ("knob", "fit"):
        metric = slot.column
        unit = "pixels" if slot.column in ("resolution", "patch_size") else ""
    elif slot.metric == "reported":
        metric, unit = _reported(slot)
    return {"metric": metric, "condition": ", ".join(filter(None, conditions)), "unit": unit}


def _reported(slot: Slot) -> tuple[str, str]:
    """What a column of reported numbers holds: AP or latency in Table 1, operations in Table 9."""
    if slot.column.endswith("_ms"):
        return "latency", "ms"
    return ("ap", "%") if slot.column.endswith("_ap") else ("gflops", "10^9")


def _row(
    common: dict[str, str], source: str, values: dict[str, float | str | None]
) -> dict[str, Cell]:
    cells = {key: Cell(text) for key, text in common.items()}
    cells["source"] = Cell(source)
    for key, value in values.items():
        cells[key] = Cell(value) if isinstance(value, str) else Cell(value=_plain(value))
    return cells


def _plain(value: float | None) -> float | None:
    """Without the noise of a binary subtraction."""
    return value if value is None or isinstance(value, bool) else round(value, 6)


def _measured(
    common: dict[str, str],
    row: AnsweredRow,
    number: Number,
    record: Record,
    cell: Cell,
    shown: bool = True,
) -> dict[str, Cell]:
    value = float(cell.value) if cell.value is not None else None
    published = float(number.printed) if number.printed else None
    state = _state(row, number, record, value)
    compared = state in (REPRODUCED, DIFFERS)
    interval = interval_of(number.slot, record)
    values: dict[str, float | str | None] = {
        "value": value,
        "low": interval.low,
        "high": interval.high,
        "published": published,
        "difference": value - published
        if compared and value is not None and published is not None
        else None,
        "state": state,
        "shown": shown,
        "why": number.why if state == INCOMPARABLE else "",
        "counter": counter_of(record) if number.slot.metric in ("params", "flops") else "",
        "record": cell.record,
        "file": cell.artifact,
        **_origin(record),
    }
    return _row(common, OWN_ROW if row.own is not None else HERE, values)


def _state(row: AnsweredRow, number: Number, record: Record, value: float | None) -> str:
    """The state of one observation: of several files of a row each has its own."""
    if row.row is None or not number.printed or value is None:
        return number.state if row.own is not None else ""
    if not comparable(row.row, number.slot, record):
        return INCOMPARABLE
    return REPRODUCED if within(number.slot, number.printed, value) else DIFFERS


def _origin(record: Record) -> dict[str, str]:
    artifact = record.artifact
    machine = record.machine
    return {
        "runtime": artifact.runtime if artifact else "",
        "precision": artifact.precision if artifact else "",
        "device": (machine.gpu or machine.cpu) if machine else "",
        "protocol": record.protocol.rhythm if record.protocol else "",
    }


def _further(common: dict[str, str], row: AnsweredRow, number: Number) -> Iterator[dict[str, Cell]]:
    """Measurements of the same cell that the printed table does not show."""
    column = number.slot.column
    chosen = number.record.id if number.record is not None else ""
    for line in row.lines:
        record = line.origins.get(column)
        if record is not None and record.id != chosen:
            cell = line.cells[column]
            yield _measured(common, row, number, record, cell, shown=False)


def _computed(name: str, row: AnsweredRow, value: float) -> Iterator[dict[str, Cell]]:
    number = row.numbers.get("gflops")
    if number is None or not number.printed:
        return
    same = difference(number.printed, value) == "="
    published = float(number.printed)
    common = {**_model(name, row), **_quantity(row, number.slot)}
    values: dict[str, float | str | None] = {
        "value": value,
        "published": published,
        "difference": value - published,
        "state": REPRODUCED if same else DIFFERS,
        "shown": False,
    }
    yield _row(common, COMPUTED, values)
