"""The scoreboard: every published cell with its state, the reason, and the command that would
measure the cell.

    python -m rfdetr_repro.tables --scoreboard [--table N] [--format ...]

Tolerances: parameters and GFLOPs must agree to the printed digit. An AP, or a difference of APs,
may differ by 0.2 points: two builds of one FP16 engine differ by 0.1, and the authors' later
measurement of their own files by up to 0.2. A latency may differ by 0.1 ms (the paper's stated
spread) and is compared only if it was measured like the printed latency: on a T4, by TensorRT (or
PyTorch where starred), in that precision, buffered with the printed wait, with a CUDA graph where
the authors used one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rfdetr_repro.paper.cells import Row, Slot, slots, table_rows
from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.metrics import decimals, decimals_of
from rfdetr_repro.spec.protocol import PAPER_WAIT_MS

from .join import GPU, Line, Measured, timed_as_published
from .missing import LEGEND, Here, command, published_only, spelled_out
from .published import computed_gflops, difference, title
from .table import Cell, Column, Table

# points of AP, milliseconds
AP_TOLERANCE = 0.2
MS_TOLERANCE = 0.1
REPRODUCED = "reproduced"
DIFFERENT = "different"
NOT_RUN = "not run"
WEIGHTS = "needs weights"
DATA = "needs data"
BOTH = "needs weights and data"
PACKAGE = "needs package"
NEEDS_GPU = f"needs {GPU}"
PUBLISHED_ONLY = "published only"
STATES = (REPRODUCED, DIFFERENT, NOT_RUN, WEIGHTS, DATA, BOTH, PACKAGE, NEEDS_GPU, PUBLISHED_ONLY)
LETTERS = dict(zip(STATES, ("=", "≠", "·", "w", "d", "b", "k", "g", "p"), strict=True))
# what a narrow terminal leaves out first has the highest
_RANKS = {PACKAGE: 6, WEIGHTS: 5, DATA: 4, PUBLISHED_ONLY: 3, NEEDS_GPU: 2, BOTH: 1}
_MEANING = {
    REPRODUCED: "measured here, within tolerance",
    DIFFERENT: "measured here, outside the tolerance",
    NOT_RUN: "measurable here, but not run",
    NEEDS_GPU: f"everything is here but the GPU of the published latency ({GPU})",
    PUBLISHED_ONLY: "never measured by this suite, for the reason that the list of open cells "
    "gives",
}


@dataclass(frozen=True)
class CellState:
    """The state of a published cell."""

    row: Row
    slot: Slot
    state: str
    why: str = ""
    measured: Cell | None = None
    record: Record | None = None  # that the measured cell comes from
    # a latency that was measured, but not like the printed latency
    other: tuple[Cell, Record] | None = None
    computed: bool = False  # not measured, but computed from the architecture and equal

    @property
    def printed(self) -> str:
        """The printed text."""
        return self.row.text(self.slot)

    @property
    def elsewhere(self) -> bool:
        """Whether a latency was measured, but only in another way than the printed latency."""
        return self.open and self.other is not None

    @property
    def open(self) -> bool:
        """Whether the cell has not been measured."""
        return self.state not in (REPRODUCED, DIFFERENT)


def cell_states(
    names: Iterable[str], records: Sequence[Record] | Measured, here: Here
) -> list[CellState]:
    """The state of every published cell of the named tables, in the paper's order."""
    measured = Measured.of(records)
    found = []
    for name in names:
        for row in table_rows(name):
            lines = measured.lines(row)
            found += [_state(row, slot, lines, here) for slot in slots(name) if row.text(slot)]
    return found


def _state(row: Row, slot: Slot, lines: Sequence[Line], here: Here) -> CellState:
    pairs = [
        (line.cells[slot.column], line.origins[slot.column])
        for line in lines
        if slot.column in line.cells
    ]
    compared = [pair for pair in pairs if comparable(row, slot, pair[1])]
    if compared:
        agree = [within(slot, row.text(slot), float(cell.value or 0)) for cell, _ in compared]
        # counters differ by convention, so one counter that agrees is enough
        counted = slot.metric in ("params", "flops")
        if any(agree) if counted else all(agree):
            cell, record = compared[agree.index(True)]
            return CellState(row, slot, REPRODUCED, measured=cell, record=record)
        if counted:  # the counter that comes nearest
            printed = float(row.text(slot))
            cell, record = min(compared, key=lambda pair: abs(float(pair[0].value or 0) - printed))
        else:
            cell, record = compared[agree.index(False)]
        return CellState(row, slot, DIFFERENT, measured=cell, record=record)
    equal = (
        slot.column == "gflops"
        and (own := computed_gflops(row))
        and difference(row.text(slot), float(own.value or 0)) == "="
    )
    state, why = _missing(row, slot, here)
    return CellState(row, slot, state, why, other=pairs[0] if pairs else None, computed=bool(equal))


def comparable(row: Row, slot: Slot, record: Record) -> bool:
    """Whether what ``record`` measured of a cell may be compared with the printed number."""
    return slot.metric != "ms" or as_printed(row, slot, record)


def _missing(row: Row, slot: Slot, here: Here) -> tuple[str, str]:
    if reason := published_only(row, slot):
        return PUBLISHED_ONLY, reason
    short = here.lacks(row, slot)
    if trained := short & {"weights", "data"}:
        return (
            BOTH if len(trained) == 2 else WEIGHTS if "weights" in trained else DATA
        ), here.why_not(row, slot)
    if "package" in short:
        return PACKAGE, here.why_not(row, slot)
    return (NEEDS_GPU, f"the published latency is a {GPU}'s") if short else (NOT_RUN, "")


def within(slot: Slot, printed: str, value: float) -> bool:
    """Whether a measured value reproduces the printed one."""
    if slot.metric in ("params", "flops"):
        return difference(printed, value) == "="
    tolerance = MS_TOLERANCE if slot.metric == "ms" else AP_TOLERANCE
    shown = float(decimals(value, decimals_of(printed)))
    return abs(shown - float(printed)) <= tolerance + 1e-9


def as_printed(row: Row, slot: Slot, record: Record) -> bool:
    """Whether a latency was measured like the printed latency."""
    wait_ms = PAPER_WAIT_MS if slot.buffer_ms is None else slot.buffer_ms
    starred = row.printed.get("latency_backend") == "pytorch"
    return timed_as_published(
        record, precision=slot.precision or "fp16", wait_ms=wait_ms, in_pytorch=starred
    )


def scoreboard(
    names: Sequence[str], records: Sequence[Record] | Measured, here: Here | None = None
) -> list[Table]:
    """The scoreboard's tables: a summary with a total, for a single table also its grid, the
    commands for open cells, and every cell.
    """
    here = here or Here.detect(() if isinstance(records, Measured) else records)
    states = cell_states(names, records, here)
    grids = [_grid(names[0], states)] if len(names) == 1 else []
    return [summary_table(names, states), *grids, _open_table(states), _cell_table(states)]


def summary_table(names: Sequence[str], states: Sequence[CellState]) -> Table:
    """The number of cells per table and state, with totals."""
    columns = [
        Column("table", "Table"),
        Column("title", "Title", right=False, wraps=True),
        Column("cells", "cells"),
    ]
    columns += [Column(state, state, rank=_RANKS.get(state, 0)) for state in STATES]
    columns += [
        Column("elsewhere", "measured otherwise", "among these", rank=7),
        Column("computed", "computed, equal", "among these", rank=8),
    ]
    table = Table("scoreboard", f"State of the {len(states):,} published cells", columns)
    for name in names:
        own = [state for state in states if state.row.table == name]
        table.add({"table": Cell(name), "title": Cell(TABLES[name].title), **_counts(own)})
    table.add({"table": Cell("all"), "title": Cell("total"), **_counts(states, zeros=True)})
    table.notes = [
        "A cell is a number that the camera-ready prints in a table: no label, no note, no '-'.",
        f"reproduced: parameters and GFLOPs to the printed digit, AP within {AP_TOLERANCE} "
        f"points, ms within {MS_TOLERANCE}.",
        f"A latency is compared only if it was measured as printed ({GPU}, TensorRT, same "
        f"precision, wait and CUDA graph).",
        *(f"{state}: {text}." for state, text in _MEANING.items() if state != REPRODUCED),
        "measured otherwise: latencies measured on another device, runtime or mode.",
        "computed, equal: GFLOPs not measured, but computed from the architecture and equal to "
        "the printed digit.",
    ]
    return table


def narrow(summary: Table) -> Table:
    """The summary for a page, without columns that are all 0, and with empty cells instead of 0."""
    total = summary.rows[-1]
    kept = [
        column
        for column in summary.columns
        if not isinstance(total[column.key].value, int) or total[column.key].value
    ]
    return Table(summary.name, summary.title, kept, summary.rows, summary.sections, summary.notes)


def _counts(states: Sequence[CellState], zeros: bool = False) -> dict[str, Cell]:
    counts = Counter(state.state for state in states)
    numbers = {"cells": len(states), **{name: counts[name] for name in STATES}}
    numbers |= {
        "elsewhere": sum(state.elsewhere for state in states),
        "computed": sum(state.computed for state in states),
    }
    return {
        key: Cell(str(number) if number or zeros else "", value=number)
        for key, number in numbers.items()
    }


def _open_table(states: Sequence[CellState]) -> Table:
    """Unmeasured cells, grouped by state, reason and command."""
    groups: dict[tuple[str, str, str], list[CellState]] = {}
    for each in states:
        if each.open:
            groups.setdefault((each.state, each.why, command(each.row, each.slot)[0]), []).append(
                each
            )
    columns = [
        Column("cells", "cells"),
        Column("state", "state", right=False),
        Column("why", "why not yet", right=False, rank=2, wraps=True),
        Column("tables", "tables", right=False, rank=1, wraps=True),
        Column("command", "command", right=False, wraps=True),
        Column("names", "names", right=False, rank=3, wraps=True),
    ]
    table = Table("scoreboard-open", "What would measure the rest", columns)
    for (state, why, how), own in sorted(
        groups.items(), key=lambda item: (STATES.index(item[0][0]), -len(item[1]), item[0])
    ):
        tables = ", ".join(dict.fromkeys(each.row.table for each in own))
        names = (
            "; ".join(dict.fromkeys(" + ".join(command(each.row, each.slot)[1]) for each in own))
            if "NAME" in how
            else ""
        )
        texts = {"state": state, "why": why, "tables": tables, "command": how, "names": names}
        table.add(
            {
                "cells": Cell(str(len(own)), value=len(own)),
                **{key: Cell(text) for key, text in texts.items()},
            }
        )
    table.notes = [LEGEND]
    return table


def _cell_table(states: Sequence[CellState]) -> Table:
    columns = [
        Column("table", "Table"),
        Column("row", "Row", right=False),
        Column("column", "Column", right=False),
    ]
    columns += [
        Column("published", "published"),
        Column("measured", "measured"),
        Column("state", "state", right=False),
    ]
    columns += [Column("record", "record", right=False), Column("file", "file", right=False)]
    columns += [Column("command", "command", right=False), Column("why", "why", right=False)]
    table = Table("scoreboard-cells", "Every published cell", columns)
    for state in states:
        measured = state.measured or Cell()
        texts = {
            "table": state.row.table,
            "row": state.row.label,
            "column": state.slot.column,
            "published": state.printed,
        }
        texts |= {
            "state": state.state,
            "record": measured.record,
            "file": measured.artifact,
            "command": spelled_out(state.row, state.slot) if state.open else "",
        }
        table.add(
            {
                **{key: Cell(text) for key, text in texts.items()},
                "measured": Cell(measured.text),
                "why": Cell(state.why),
            }
        )
    return table


def _grid(name: str, states: Sequence[CellState]) -> Table:
    columns = [Column("row", "Row", right=False)] + [
        Column(slot.column, slot.label, slot.group) for slot in slots(name)
    ]
    table = Table(f"scoreboard-{name}", f"{title(name)}: cells", columns)
    by_row: dict[int, list[CellState]] = {}
    for state in states:
        by_row.setdefault(state.row.number, []).append(state)
    for own in by_row.values():
        table.add(
            {
                "row": Cell(own[0].row.label),
                **{each.slot.column: Cell(LETTERS[each.state]) for each in own},
            }
        )
    table.notes = [", ".join(f"{letter} {state}" for state, letter in LETTERS.items())]
    return table
