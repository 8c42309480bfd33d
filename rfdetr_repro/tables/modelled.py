"""Predictions of the latency model for the confirmed files, next to the measurements, in one
mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

from rfdetr_repro.records.pareto import confirmed_points, latency_mode, modelled_for
from rfdetr_repro.records.record import Record, TimedRecord
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.metrics import in_points, milliseconds, percent_value, share

from .table import MEASURED, Cell, Column, Table


class Row(NamedTuple):
    """A measured Record and the latency model's prediction: ms, and the model's median error on
    engines left out of the fit.
    """

    timed: TimedRecord
    modelled_ms: float
    stated_error: float | None

    @property
    def measured_ms(self) -> float:
        """The measured latency in ms."""
        return self.timed.ms

    @property
    def error(self) -> float:
        """The relative error of the prediction."""
        return self.modelled_ms / self.measured_ms - 1


def modelled_tables(records: Sequence[Record]) -> list[Table]:
    """One table per data set, supernet, machine and mode in which confirmed files also have a
    modelled latency.
    """
    search: dict[Arch | None, list[TimedRecord]] = {}
    for record in records:
        if record.source == "search" and (view := TimedRecord.of(record)) is not None:
            search.setdefault(record.model.arch, []).append(view)
    groups: dict[tuple[object, ...], list[Row]] = {}
    for point in confirmed_points(records):
        for timed in (point.buffered, point.sustained):
            view = None if timed is None else TimedRecord.of(timed)
            row = None if view is None else _row(view, search.get(view.record.model.arch, ()))
            if timed is not None and view is not None and row is not None:
                name = timed.data.name if timed.data else "unknown data"
                key = (
                    name,
                    timed.model.checkpoint_sha256,
                    timed.machine,
                    _mode(timed),
                    bool(view.latency.cuda_graph),
                )
                groups.setdefault(key, []).append(row)
    return [_table(rows) for rows in groups.values()]


def _row(timed: TimedRecord, search: Sequence[TimedRecord]) -> Row | None:
    """The prediction that was stored with the measurement; else that of ``search``, searched
    Records of the same architecture, unless the model has since been fitted to confirmed files.
    """
    if timed.latency.predicted_ms is not None:
        return Row(timed, timed.latency.predicted_ms, timed.latency.heldout_error)
    for searched in search:
        refitted = searched.latency.confirmed_error is not None
        if not refitted and modelled_for(searched.record, timed.record):
            return Row(timed, searched.ms, searched.latency.heldout_error)
    return None


def _table(rows: Sequence[Row]) -> Table:
    first = rows[0].timed.record
    mode = _mode(first)
    columns = [
        Column("arch", "architecture", right=False),
        Column("modelled_ms", "modelled ms", mode),
        Column("measured_ms", "measured ms", mode),
        Column("ci", "95% CI", mode),
        Column("error", "error %", mode),
    ]
    name = f" on {first.data.name}" if first.data else ""
    table = Table("modelled", f"Modelled against confirmed latency{name}, {mode}", columns)
    for row in sorted(rows, key=lambda row: row.measured_ms):
        record = row.timed.record
        latency = row.timed.latency
        cells = {
            "arch": Cell(record.model.arch.key if record.model.arch else record.model.name),
            "modelled_ms": Cell(milliseconds(row.modelled_ms), value=row.modelled_ms),
            "measured_ms": Cell(milliseconds(row.measured_ms), MEASURED, row.measured_ms),
            "error": Cell(in_points(row.error), value=percent_value(row.error)),
        }
        if latency.ci_low_ms is not None and latency.ci_high_ms is not None:
            cells["ci"] = Cell(
                f"[{milliseconds(latency.ci_low_ms)}, {milliseconds(latency.ci_high_ms)}]", MEASURED
            )
        table.add(cells)
    table.notes = [_summary(rows), *_stated(rows)]
    return table


def _summary(rows: Sequence[Row]) -> str:
    errors = [abs(row.error) for row in rows]
    if len(rows) == 1:
        return f"Error of the model on this file: {share(errors[0])}."
    pairs = list(combinations(rows, 2))
    swapped = sum(
        (a.modelled_ms - b.modelled_ms) * (a.measured_ms - b.measured_ms) < 0 for a, b in pairs
    )
    text = (
        f"Error of the model on these {len(rows)} files: median {share(median(errors))}, largest "
        f"{share(max(errors))}."
    )
    return (
        f"{text} It orders {swapped} of {len(pairs)} pairs of files by latency differently from "
        f"the measurement."
    )


def _stated(rows: Sequence[Row]) -> list[str]:
    stated = sorted({row.stated_error for row in rows if row.stated_error is not None})
    return [
        f"The model had stated {share(error)}, its median error on engines left out of its fit."
        for error in stated
    ]


def _mode(record: Record) -> str:
    return latency_mode(record) or "unknown mode"
