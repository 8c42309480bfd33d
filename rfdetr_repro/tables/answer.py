"""Does a table of the paper hold? For every printed row what is published, what was measured here,
the difference and a state; and a verdict by counts.

A number is in one of four states: reproduced, differs, not measured, or cannot be compared (it was
measured on another device or in another way than the printed one, or this suite can never measure
it). Tolerances are those of :mod:`.scoreboard`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rfdetr_repro.paper.cells import Row, Slot, slots, table_rows
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.protocol import PAPER_WAIT_MS

from .join import GPU, Line, Measured
from .missing import Here
from .own import OwnRow, own_rows
from .published import how_measured
from .scoreboard import PUBLISHED_ONLY, CellState, cell_states
from .scoreboard import REPRODUCED as CELL_REPRODUCED
from .table import Cell

REPRODUCED = "reproduced"
DIFFERS = "differs"
NOT_MEASURED = "not measured"
INCOMPARABLE = "cannot be compared"
NUMBER_STATES = (REPRODUCED, DIFFERS, NOT_MEASURED, INCOMPARABLE)
OWN_ROW = "own"
NOT_RUN = "it can be measured on this machine, but no Record holds it"
_AS_PRINTED = (
    f"the printed latency is a {GPU}'s, by TensorRT in FP16 (PyTorch where the paper says so), "
    f"with {PAPER_WAIT_MS:g} ms between two images"
)


@dataclass(frozen=True)
class Number:
    """A number of a row: what is printed (or ""), its state, the reason for an open state, and the
    measured cell with its Record.
    """

    slot: Slot
    printed: str
    state: str
    why: str = ""
    cell: Cell | None = None
    record: Record | None = None

    @property
    def compared(self) -> bool:
        """Whether a measured number stands beside the printed number."""
        return self.state in (REPRODUCED, DIFFERS)


@dataclass(frozen=True)
class AnsweredRow:
    """A printed row, or an own row (``row`` is None), with its numbers by CSV column."""

    label: str
    section: str
    numbers: dict[str, Number]
    row: Row | None = None
    own: OwnRow | None = None
    lines: tuple[Line, ...] = ()  # everything that was measured of the row

    @property
    def printed(self) -> list[Number]:
        """The numbers that the paper prints."""
        return [number for number in self.numbers.values() if number.printed]

    @property
    def state(self) -> str:
        """The row's state in words: that of all its printed numbers, or how many are reproduced."""
        if self.own is not None:
            return OWN_ROW
        printed = self.printed
        differing = [number.slot for number in printed if number.state == DIFFERS]
        found = sum(number.state == REPRODUCED for number in printed)
        if not printed:
            return "nothing printed"
        if differing:
            few = len(differing) <= 2
            names = ", ".join(slot_label(slot).removesuffix(" M") for slot in differing)
            return f"differs: {names if few else f'{len(differing)} of {len(printed)}'}"
        if found == len(printed):
            return REPRODUCED
        if found:
            return f"{found} of {len(printed)} reproduced"
        states = {number.state for number in printed}
        return NOT_MEASURED if NOT_MEASURED in states else INCOMPARABLE


@dataclass(frozen=True)
class Answer:
    """The answer for one table: its rows in the printed order, own rows among them, and what was
    refused of the own Records.
    """

    table: str
    rows: tuple[AnsweredRow, ...]
    refused: tuple[str, ...] = ()
    partial: int = 0  # Records of a part of COCO val2017, which are left out
    reasons: dict[str, int] = field(default_factory=dict)  # why numbers are open -> how many

    @property
    def numbers(self) -> list[Number]:
        """Every printed number."""
        return [number for row in self.rows for number in row.printed]

    @property
    def counts(self) -> Counter[str]:
        """Printed numbers per state of :data:`NUMBER_STATES`."""
        return Counter(number.state for number in self.numbers)

    def verdict(self) -> str:
        """One word for the whole table: "yes", "no", "as far as measured" or "open"."""
        counts = self.counts
        if counts[DIFFERS]:
            return "no"
        if counts[REPRODUCED] == len(self.numbers):
            return "yes"
        return "as far as measured" if counts[REPRODUCED] else "open"


def slot_label(slot: Slot) -> str:
    """The name of a column of numbers, with the condition under which it was measured."""
    return f"{slot.group} {slot.label}" if slot.group and slot.group != slot.label else slot.label


def answer(
    name: str,
    records: Sequence[Record] | Measured = (),
    here: Here | None = None,
    own: Iterable[Record] = (),
) -> Answer:
    """The answer for table ``name``.

    Args:
        name: a key of ``TABLES``.
        records: what was measured here.
        here: the resources of this machine; None: those that are found.
        own: Records of models that the table does not print, which join as rows of their own.
    """
    measured = Measured.of(records)
    here = here or Here.detect(() if isinstance(records, Measured) else records)
    by_row: dict[int, list[CellState]] = {}
    for state in cell_states([name], measured, here):
        by_row.setdefault(state.row.number, []).append(state)
    rows = [_answered(row, by_row.get(row.number, []), measured) for row in table_rows(name)]
    reasons = Counter(number.why for row in rows for number in row.printed if number.why)
    joined, refused = own_rows(name, list(own))
    placed = _placed(name, rows, [_own(name, each) for each in joined])
    return Answer(name, tuple(placed), tuple(refused), measured.partial, dict(reasons))


def _answered(row: Row, states: Sequence[CellState], measured: Measured) -> AnsweredRow:
    lines = measured.lines(row)
    numbers = {state.slot.column: _number(state) for state in states}
    for slot in slots(row.table):  # what the paper does not print of the row
        holder = next((line for line in lines if slot.column in line.cells), None)
        if slot.column not in numbers and holder is not None:
            cell = holder.cells[slot.column]
            record = holder.origins[slot.column]
            numbers[slot.column] = Number(slot, "", "", cell=cell, record=record)
    label = row.label if _needs_variant(row) else row.label.removesuffix(" nas")
    label = label.removesuffix(" (coco)")  # of "fixed architecture (coco)"
    return AnsweredRow(label, row.printed.get("section", ""), numbers, row, lines=tuple(lines))


def _needs_variant(row: Row) -> bool:
    """Whether the table has rows of the same model and size that differ in their variant."""
    model = row.identity.model
    alike = [
        other
        for other in table_rows(row.table)
        if (other.identity.model.name, other.identity.model.size) == (model.name, model.size)
    ]
    return len(alike) > 1


def _number(state: CellState) -> Number:
    printed = state.printed
    if not state.open:
        found = REPRODUCED if state.state == CELL_REPRODUCED else DIFFERS
        return Number(state.slot, printed, found, "", state.measured, state.record)
    if state.other is not None:
        cell, record = state.other
        return Number(state.slot, printed, INCOMPARABLE, measured_otherwise(record), cell, record)
    if state.state == PUBLISHED_ONLY:
        return Number(state.slot, printed, INCOMPARABLE, state.why)
    return Number(state.slot, printed, NOT_MEASURED, state.why or NOT_RUN)


def measured_otherwise(record: Record) -> str:
    """Why a latency of ``record`` is not compared with a printed one."""
    return f"{how_measured(record)}; {_AS_PRINTED}"


def _own(name: str, found: OwnRow) -> AnsweredRow:
    numbers = {}
    for slot in slots(name):
        if slot.column not in found.cells:
            continue
        cell = found.cells[slot.column]
        record = found.origins[slot.column]
        alike = slot.column not in found.otherwise
        state = OWN_ROW if alike else INCOMPARABLE
        why = "" if alike else measured_otherwise(record)
        numbers[slot.column] = Number(slot, "", state, why, cell, record)
    return AnsweredRow(found.label, "", numbers, own=found)


def _placed(
    name: str, rows: Sequence[AnsweredRow], own: Sequence[AnsweredRow]
) -> list[AnsweredRow]:
    """The rows with each own row behind the last row of its section that has no higher AP."""
    placed = list(rows)
    for each in sorted(own, key=lambda row: (_ap(name, row) is None, _ap(name, row) or 0)):
        section = _section(rows, each)
        index = _place(name, placed, section, _ap(name, each))
        placed.insert(index, AnsweredRow(each.label, section, each.numbers, own=each.own))
    return placed


def _place(name: str, rows: Sequence[AnsweredRow], section: str, value: float | None) -> int:
    """Where an own row of this AP is put in: a table of steps or of pairs keeps its order, and an
    own row is the last of its section there, as is one without an AP.
    """
    inside = [index for index, row in enumerate(rows) if row.section == section]
    if value is None or name not in COMPARISONS:
        return inside[-1] + 1
    below = [
        index for index in inside if (ap := _ap(name, rows[index])) is not None and ap <= value
    ]
    return (below[-1] + 1) if below else inside[0]


# tables that compare models, whose rows ascend; the others are ablations or pairs
COMPARISONS = ("1", "2", "3", "4", "12", "13", "14", "v2_20")


def _section(rows: Sequence[AnsweredRow], own: AnsweredRow) -> str:
    """The section for detectors with a suppression of duplicates where the file has one, else the
    last one, which is that of end-to-end detectors.
    """
    sections = list(dict.fromkeys(row.section for row in rows))
    suppressed = own.own is not None and own.own.suppressed
    return next((name for name in sections if suppressed and "NMS" in name), sections[-1])


def _ap(name: str, row: AnsweredRow) -> float | None:
    """The AP that rows are sorted by: FP16's where a table has several."""
    own = [slot for slot in slots(name) if slot.metric == "ap"]
    chosen = next((slot for slot in own if slot.precision == "fp16" and not slot.variant), None)
    column = (chosen or own[0]).column if own else ""
    number = row.numbers.get(column)
    if number is None:
        return None
    if number.printed:
        return float(number.printed)
    return float(number.cell.value) if number.cell and number.cell.value is not None else None
