"""The answer for a table of the paper as a printed table: one line per printed row, for each column
of numbers what the paper prints, what was measured here with its interval, and the difference.

The order in which columns are left out where a terminal is too narrow: numbers that the paper does
not print; numbers of which nothing was measured, the last printed first; the reasons; numbers of
which something was measured, the last printed first; the intervals of latency and AP; the
differences of latency and AP; the latency. Model, AP and state always stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rfdetr_repro.paper.cells import Slot, slots
from rfdetr_repro.paper.published import CITATION
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.metrics import milliseconds, plural
from rfdetr_repro.spec.protocol import PAPER_WAIT_MS

from .answer import (
    DIFFERS,
    INCOMPARABLE,
    NOT_MEASURED,
    OWN_ROW,
    REPRODUCED,
    Answer,
    AnsweredRow,
    Number,
    slot_label,
)
from .intervals import UNKNOWN_INTERVAL, interval_cell
from .join import Line, accuracy_of, counter_of
from .published import difference, file_words, how_measured, row_notes, title
from .scoreboard import AP_TOLERANCE, MS_TOLERANCE
from .table import (
    BAD,
    GOOD,
    MARKS,
    MEASURED,
    MISSING,
    OPEN,
    OWN,
    PUBLISHED,
    Cell,
    Column,
    Table,
)

MOST_IN_PAPER = 14  # columns of a table that is not wide
NOTHING = "-"  # a number that is not printed, or that an own row does not have
_TONES = {
    REPRODUCED: GOOD,
    DIFFERS: BAD,
    NOT_MEASURED: OPEN,
    INCOMPARABLE: OPEN,
    OWN_ROW: OWN,
}
# ranks: what is left out first has the highest
_MS, _AP_DIFFERENCE, _MS_DIFFERENCE, _AP_INTERVAL, _MS_INTERVAL = 1, 2, 3, 4, 5
_MEASURED_NUMBER, _WHY, _OTHER_NUMBER, _UNPRINTED, _FILE, _RECORD = 10, 30, 40, 60, 90, 91


def answer_table(
    found: Answer, *, wide: bool = False, counters: bool = False, legend: bool = True
) -> Table:
    """The printed table.

    Args:
        found: the answer for a table.
        wide: also columns for numbers of which nothing was measured, the file and the Record of a
            row, and a line for each further measurement of a row.
        counters: also a line for each count of parameters and operations.
        legend: whether the notes begin with :data:`LEGEND`; false where a document states it once.
    """
    reasons = {why: number for number, why in enumerate(found.reasons, start=1)}
    measured = _measured_columns(found)
    columns = _columns(found, measured, wide)
    table = Table(found.table, title(found.table), columns)
    for row in found.rows:
        table.add(_cells(found.table, row, reasons), row.section)
        for line, words in _further(row, wide, counters):
            table.add(_further_cells(row, line, words), row.section)
    table.notes = _notes(found, reasons, legend)
    return table.without_empty_columns(keep=("model", "state"))


def for_paper(table: Table, wide: bool = False) -> Table:
    """The answer to paste into a paper: no numbers of reasons, a title that says whose table it is,
    and, unless ``wide``, only the numbers that fit on a page.
    """
    crowded = not wide and len(table.columns) > MOST_IN_PAPER
    columns = [
        column
        for column in table.columns
        if column.key != "why" and not (crowded and column.rank >= _OTHER_NUMBER)
    ]
    number, _, rest = table.title.partition(". ")
    words = (
        f"{number} of RF-DETR ({CITATION}): {rest}. Paper: as published; here: measured, with the "
        f"ends of the 95 % interval; difference: here - paper. AP in percent."
    )
    return replace(table, title=words, columns=columns)


def _measured_columns(found: Answer) -> set[str]:
    return {
        column
        for row in found.rows
        for column, number in row.numbers.items()
        if number.cell is not None
    }


def _columns(found: Answer, measured: set[str], wide: bool) -> list[Column]:
    columns = [Column("model", "Model", right=False)]
    ranks = _ranks(found, measured)
    own = {number.slot.column for number in found.numbers}
    for slot in slots(found.table):
        printed = slot.column in own
        columns += _of_slot(slot, ranks[slot.column], (printed, slot.column in measured), wide)
    columns.append(Column("state", "state", right=False))
    columns.append(Column("why", "why", right=False, rank=_WHY))
    if wide:
        columns.append(Column("file", "file", right=False, rank=_FILE))
        columns.append(Column("record", "record", right=False, rank=_RECORD))
    return columns


def _ranks(found: Answer, measured: set[str]) -> dict[str, int]:
    """The rank of each column of numbers: AP and latency first, of FP16 where there are several;
    in a table that prints neither what it prints; last what was measured and is not printed.
    """
    own = slots(found.table)
    printed = {number.slot.column for number in found.numbers}
    main = _main(own, printed)
    ranks = {}
    for place, slot in enumerate(own):
        if slot.column not in printed:
            ranks[slot.column] = _UNPRINTED + place
        elif slot.column in main:
            ranks[slot.column] = main[slot.column]
        elif not main:
            ranks[slot.column] = 0 if slot.metric == "knob" else place
        else:
            ranks[slot.column] = place + (
                _MEASURED_NUMBER if slot.column in measured else _OTHER_NUMBER
            )
    return ranks


def _main(own: Sequence[Slot], printed: set[str]) -> dict[str, int]:
    """The columns with the AP and the latency by which the table's models are compared, and their
    ranks.
    """
    fitting = [slot for slot in own if slot.column in printed and not slot.variant]
    usual = [
        slot
        for slot in fitting
        if slot.precision in ("", "fp16") and slot.buffer_ms in (None, PAPER_WAIT_MS)
    ]
    aps = [slot.column for slot in usual if slot.metric == "ap"]
    main = {column: place for place, column in enumerate(aps)}  # Table 11 has an AP per size
    return main | {slot.column: _MS for slot in usual if slot.metric == "ms"}


def _of_slot(slot: Slot, rank: int, there: tuple[bool, bool], wide: bool) -> list[Column]:
    """Published, measured, interval and difference of one column of numbers; ``there``: whether any
    number of it is printed, and whether any was measured.
    """
    printed, measured = there
    group = slot_label(slot)
    columns = [Column(f"published_{slot.column}", "paper", group, rank=rank)] if printed else []
    if slot.metric in ("reported", "fit", "knob") and not measured:
        return columns
    if measured or (
        printed and (wide or (slot.metric in ("ap", "ms") and rank < _MEASURED_NUMBER))
    ):
        columns.append(Column(f"measured_{slot.column}", "here", group, rank=rank))
    if measured:
        timed = slot.metric == "ms"
        if timed or slot.metric == "ap":
            own = max(rank, _MS_INTERVAL if timed else _AP_INTERVAL)
            columns.append(Column(f"interval_{slot.column}", "95% CI", group, rank=own))
        own = max(rank, _MS_DIFFERENCE if timed else _AP_DIFFERENCE)
        columns.append(Column(f"difference_{slot.column}", "Δ", group, rank=own))
    return columns


def _cells(name: str, row: AnsweredRow, reasons: dict[str, int]) -> dict[str, Cell]:
    label = f"{row.label} (own)" if row.own is not None else row.label
    tone = OWN if row.own is not None else ""
    cells = {"model": Cell(label, tone=tone)}
    for slot in slots(name):
        if slot.column not in row.numbers:
            cells[f"published_{slot.column}"] = Cell(NOTHING)
            cells[f"measured_{slot.column}"] = Cell(NOTHING)
    for column, number in row.numbers.items():
        cells.update(_number_cells(column, number))
    state = row.state
    cells["state"] = Cell(state, tone=_TONES.get(state, BAD if state.startswith(DIFFERS) else ""))
    why = sorted({reasons[number.why] for number in row.printed if number.why})
    cells["why"] = Cell("".join(f"[{number}]" for number in why))
    return cells | _origin(number.cell for number in row.numbers.values() if number.cell)


def _number_cells(column: str, number: Number) -> dict[str, Cell]:
    cells = {
        f"published_{column}": _printed_cell(number),
        f"measured_{column}": Cell(state=MISSING) if number.printed else Cell(NOTHING),
    }
    cell = number.cell
    if cell is None:
        return cells
    text = f"({cell.text})" if number.state == INCOMPARABLE else cell.text
    cells[f"measured_{column}"] = replace(cell, text=text, state=MEASURED)
    cells[f"interval_{column}"] = interval_of(number.slot, number.record)
    if number.compared:
        cells[f"difference_{column}"] = Cell(
            difference(number.printed, float(cell.value or 0)), tone=_TONES[number.state]
        )
    return cells


def _printed_cell(number: Number) -> Cell:
    return Cell(number.printed, PUBLISHED) if number.printed else Cell(NOTHING)


def interval_of(slot: Slot, record: Record | None) -> Cell:
    """The 95 % interval of what a Record measured of a column, with both ends; "unknown" where the
    Record has none; empty for numbers without one.
    """
    if record is None:
        return Cell()
    if slot.metric == "ap":
        accuracy = accuracy_of(record)
        cell = interval_cell(accuracy)
        if cell.text and accuracy is not None and accuracy.ap_low is not None:
            high = accuracy.ap_high
            return replace(
                cell,
                low=round(100 * accuracy.ap_low, 4),
                high=None if high is None else round(100 * high, 4),
            )
        return cell
    if slot.metric == "ms" and record.latency is not None:
        low = record.latency.ci_low_ms
        high = record.latency.ci_high_ms
        if low is None or high is None:
            return Cell(UNKNOWN_INTERVAL)
        return Cell(f"[{milliseconds(low)}, {milliseconds(high)}]", MEASURED, low=low, high=high)
    return Cell()


def _further(row: AnsweredRow, wide: bool, counters: bool) -> list[tuple[Line, str]]:
    """Further measurements of a row that are shown too, and what each is."""
    found = []
    timed = [line for line in row.lines if any(one.source != "cost" for one in line.records)]
    for line in row.lines:
        counts = [record for record in line.records if record.source == "cost"]
        files = [record for record in line.records if record.source != "cost"]
        if counters and counts:
            names = dict.fromkeys(
                " ".join(
                    filter(
                        None,
                        (counter_of(one) or "unnamed counter", one.cost.form if one.cost else None),
                    )
                )
                for one in counts
            )
            found.append((_part(line, counts), f"counted by {', '.join(names)}"))
        if wide and files and len(timed) > 1:
            words = "; ".join(dict.fromkeys(how_measured(record) for record in files))
            found.append((_part(line, files), words))
    return found


def _part(line: Line, records: Sequence[Record]) -> Line:
    """The cells of a line that come from ``records``."""
    ids = {record.id for record in records}
    columns = [column for column, record in line.origins.items() if record.id in ids]
    return Line(
        {column: line.cells[column] for column in columns},
        {column: line.origins[column] for column in columns},
    )


def _further_cells(row: AnsweredRow, line: Line, words: str) -> dict[str, Cell]:
    cells = {"model": Cell(row.label), "state": Cell(words, tone=OPEN)}
    for column, cell in line.cells.items():
        cells[f"measured_{column}"] = cell
        number = row.numbers[column]
        cells[f"interval_{column}"] = interval_of(number.slot, line.origins[column])
        if number.printed:
            cells[f"published_{column}"] = _printed_cell(number)
        if number.printed and number.state != INCOMPARABLE:
            cells[f"difference_{column}"] = Cell(difference(number.printed, float(cell.value or 0)))
    return cells | _origin(line.cells.values())


def _origin(cells: Iterable[Cell]) -> dict[str, Cell]:
    """The files and the Records behind measured cells, each once."""
    kept = list(cells)
    files = dict.fromkeys(cell.artifact for cell in kept if cell.artifact)
    records = dict.fromkeys(cell.record for cell in kept if cell.record)
    return {"file": Cell(" ".join(map(file_words, files))), "record": Cell(" ".join(records))}


# what the columns, states and marks of every table mean
LEGEND = {
    "paper": f"the number that the camera-ready prints ({CITATION}; T4, TensorRT 10.4, "
    f"{PAPER_WAIT_MS:g} ms between two images)",
    "here": "the number that this project measured; AP is in percent",
    "Δ": "here - paper; = means equal to the printed digit",
    REPRODUCED: f"every printed number of the row was measured and lies within the tolerance "
    f"(parameters and GFLOPs: the printed digit; AP: {AP_TOLERANCE} points; latency: "
    f"{MS_TOLERANCE} ms)",
    DIFFERS: "the named numbers lie outside the tolerance",
    "N of M reproduced": "the other numbers of the row are open",
    NOT_MEASURED: "no number of the row was measured",
    INCOMPARABLE: "the number was measured in another way than the printed number, and stands in "
    "parentheses; or this suite can never measure the number",
    MARKS[MISSING]: "not measured",
    NOTHING: "not printed",
}


def _notes(found: Answer, reasons: dict[str, int], legend: bool) -> list[str]:
    meanings = [f"{name}: {meaning}." for name, meaning in LEGEND.items()]
    notes = [" ".join(meanings[:3]), " ".join(meanings[3:])] if legend else []
    for why, number in reasons.items():
        count = found.reasons[why]
        notes.append(f"[{number}] {plural(count, 'number')}: {why}")
    if any(row.own is not None for row in found.rows):
        notes += _own_notes(found)
    if found.partial:
        notes.append(f"Left out: {plural(found.partial, 'Record')} of a part of COCO val2017.")
    named = [(row.row, row.label) for row in found.rows if row.row is not None]
    return [*notes, *row_notes(named), *found.refused, *verdict_lines(found)]


def _own_notes(found: Answer) -> list[str]:
    own = [row for row in found.rows if row.own is not None]
    notes = [
        "(own): a row made from the Records given by --with. The row stands after the last row of "
        "its section whose AP is not higher; in a table of steps or pairs, at the end of the "
        "section."
    ]
    for row in own:
        apart = [number for number in row.numbers.values() if number.state == INCOMPARABLE]
        for number in apart:
            text = number.cell.text if number.cell is not None else ""
            record = number.record
            words = how_measured(record) if record is not None else "measured otherwise"
            notes.append(
                f"{row.label}: the latency in parentheses ({text} ms) was not measured like the "
                f"table's latencies and is compared with nothing: {words}."
            )
    return notes


_WORDS = {
    "yes": "Yes.",
    "no": "Not in every number.",
    "as far as measured": "As far as it was measured, yes.",
    "open": "Open.",
}


def verdict_lines(found: Answer) -> list[str]:
    """Whether the table holds, by counts: over all printed numbers, and per column."""
    number = title(found.table).partition(".")[0].partition(" (")[0].removeprefix("Table ")
    counts = found.counts
    total = len(found.numbers)
    if not total:
        return [f"Does Table {number} hold? It prints no number that can be compared."]
    parts = [f"{counts[state]:,} {_plural(state, counts[state])}" for state in _TOLD]
    first = (
        f"Does Table {number} hold? {_WORDS[found.verdict()]} Of {total:,} printed numbers, "
        f"{', '.join(parts[:-1])} and {parts[-1]}."
    )
    if unmeasured := _unmeasured(found):
        first += f" Nothing says whether its {' and its '.join(unmeasured)} hold."
    columns = []
    for slot in slots(found.table):
        own = [one for one in found.numbers if one.slot.column == slot.column]
        if own:
            columns.append(f"{slot_label(slot)} {_of_column(own)}")
    return [f"Reproduced by column: {'; '.join(columns)}.", first]


_TOLD = (REPRODUCED, DIFFERS, NOT_MEASURED, INCOMPARABLE)


def _plural(state: str, count: int) -> str:
    verbs = {REPRODUCED: "is reproduced", NOT_MEASURED: "is not measured"}
    many = {REPRODUCED: "are reproduced", DIFFERS: "differ", NOT_MEASURED: "are not measured"}
    return verbs.get(state, state) if count == 1 else many.get(state, state)


def _unmeasured(found: Answer) -> list[str]:
    """AP and latency, where the table prints them and none was compared."""
    open_words = []
    for words, metrics in (("APs", ("ap", "ap50", "ap75")), ("latencies", ("ms",))):
        own = [one for one in found.numbers if one.slot.metric in metrics]
        if own and not any(one.compared for one in own):
            open_words.append(words)
    return open_words


def _of_column(own: Sequence[Number]) -> str:
    good = sum(one.state == REPRODUCED for one in own)
    bad = sum(one.state == DIFFERS for one in own)
    text = f"{good} of {len(own)}"
    return f"{text}, {bad} {'differs' if bad == 1 else 'differ'}" if bad else text
