"""The paper's tables with measured values in columns of their own, never in place of published
values.

Every printed column of numbers has a measured column of the same name; GFLOPs of the RF-DETR rows
also have a computed column. A cell without a measurement states whether one is possible: "not
measured" or "not measurable here".

GFLOPs of RF-DETR rows are computed from their architecture, without a measurement or a Record. Two
conventions reproduce every printed value: Tables 2, 3 and 12 to 17 count upstream's evaluation
forward ("eager" of ``rfdetr_repro.spec.flops``); Tables 5, 6 and v2 19 count the same without the
attention products.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rfdetr_repro.paper.cells import Row, preset_name, slots, table_rows
from rfdetr_repro.paper.published import CITATION, TABLES
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.flops import flops_by_part
from rfdetr_repro.spec.metrics import COCO_METRICS, decimals, decimals_of, plural, rounds_to
from rfdetr_repro.spec.presets import PRESETS

from .intervals import interval_cell
from .join import Line, Measured, accuracy_of, counter_of
from .missing import Here, published_only
from .table import COMPUTED, MARKS, MEASURED, MISSING, PUBLISHED, UNAVAILABLE, Cell, Column, Table

HERE = "measured here"
# numbers that must agree to the printed digit, so that their difference is shown
_COUNTED = ("params", "flops")
CONVENTION = "computed from the architecture by rfdetr_repro.spec.flops, convention eager"
WITHOUT_ATTENTION = "without attention products"
_ATTENTION = ("backbone attention", "decoder attention")


def paper_table(
    name: str, records: Sequence[Record] | Measured = (), here: Here | None = None
) -> Table:
    """Table ``name`` of the paper with its camera-ready rows and measured values; ``records`` that
    match no row are ignored.
    """
    measured = Measured.of(records)
    here = here or Here.detect(() if isinstance(records, Measured) else records)
    table = Table(name, title(name), _columns(name))
    reasons: dict[str, int] = {}
    for row in table_rows(name):
        section = row.printed.get("section", "")
        lines = measured.lines(row)
        for index, line in enumerate(lines):
            table.add({**(_left(row) if index == 0 else {}), **_measured_cells(row, line)}, section)
        if not lines:
            table.add({**_left(row), **_open_cells(row, here, reasons)}, section)
    table.notes = _notes(name, reasons, measured)
    return table


def title(name: str) -> str:
    """The table's number, the numbering that it belongs to, and the table's subject."""
    number = name.removeprefix("v2_")
    if name.startswith("v2_"):
        return f"Table {number} of the camera-ready (not in version 1). {TABLES[name].title}"
    also = " (version 1 numbering; Table 18 of the camera-ready)" if name == "17" else ""
    return f"Table {number}{also}. {TABLES[name].title}"


def _columns(name: str) -> list[Column]:
    label = "Relationship" if name == "v2_17" else "Model"
    columns = [
        Column("model", label, right=False),
        Column("size", "Size", right=False),
        Column("variant", "Variant", right=False),
    ]
    groups = list(dict.fromkeys(slot.group for slot in slots(name)))
    # Table 1 prints AP and latency under several conditions, each followed by its measurement
    for group in groups:
        prefix = f"{group}, " if group else ""
        own = [slot for slot in slots(name) if slot.group == group]
        columns += [
            Column(f"published_{slot.column}", slot.label, prefix + PUBLISHED) for slot in own
        ]
        for slot in own if group != "reported" else ():
            columns.append(Column(f"measured_{slot.column}", slot.label, prefix + HERE))
            if slot.metric == "ap":
                columns.append(Column(f"interval_{slot.column}", "95% CI", prefix + HERE))
            if slot.metric in _COUNTED:
                columns.append(Column(f"difference_{slot.column}", "Δ", prefix + HERE))
    columns += [
        Column("computed_gflops", "GFLOPs", COMPUTED),
        Column("difference_computed_gflops", "Δ", COMPUTED),
    ]
    return [*columns, *(Column(key, key, right=False) for key in ("state", "file", "record"))]


def _left(row: Row) -> dict[str, Cell]:
    """The columns that the paper prints, and those computed from the architecture."""
    model = row.identity.model
    cells = {
        "model": Cell(model.name),
        "size": Cell(model.size or ""),
        "variant": Cell(model.variant or ""),
    }
    for slot in slots(row.table):
        if text := row.text(slot):
            # a difference is not an AP: it keeps its printed sign and has no value
            delta = row.delta and slot.accuracy
            cells[f"published_{slot.column}"] = Cell(
                text, PUBLISHED, None if delta else float(text)
            )
    computed = computed_gflops(row)
    if computed is not None and any(slot.column == "gflops" for slot in slots(row.table)):
        cells["computed_gflops"] = computed
        if printed := row.printed.get("gflops"):
            cells["difference_computed_gflops"] = Cell(
                difference(printed, float(computed.value or 0)), COMPUTED
            )
    return cells


def without_attention(table: str) -> bool:
    """Whether the GFLOPs of a table exclude the attention products."""
    return table in ("5", "6", "v2_19")


def computed_gflops(row: Row) -> Cell | None:
    """GFLOPs (2 per multiply-add) of the row's architecture; ``None`` if the row is not a single
    RF-DETR architecture.
    """
    if row.arch is None:
        return None
    name = preset_name(row)
    nano = PRESETS["nano"].model  # Table 5 changes the patch and the layers of the S family
    model = (
        PRESETS[name].model
        if name
        else replace(nano, patch=row.arch.patch, decoder_layers=row.arch.decoder_layers)
    )
    parts = flops_by_part(model, row.arch, "eager")
    total = sum(
        value
        for part, value in parts.items()
        if not (without_attention(row.table) and part in _ATTENTION)
    )
    return Cell(decimals(total / 1e9, 1), COMPUTED, total / 1e9)


def difference(printed: str, value: float) -> str:
    """ "=" if ``value`` rounds to the printed number, else the signed difference from the printed
    number.
    """
    if rounds_to(value, printed):
        return "="
    return decimals(value - float(printed), max(decimals_of(printed), 1), signed=True)


def _open_cells(row: Row, here: Here, reasons: dict[str, int]) -> dict[str, Cell]:
    """Cells of a row without measurements, and the numbers of the reasons in the notes."""
    cells = {}
    used = []
    for slot in slots(row.table):
        if not row.text(slot) or slot.metric == "reported":
            continue
        reason = here.why_not(row, slot)
        if reason and reasons.setdefault(reason, len(reasons) + 1) not in used:
            used.append(reasons[reason])
        cells[f"measured_{slot.column}"] = Cell(state=UNAVAILABLE if reason else MISSING)
    states = {cell.state for cell in cells.values()}
    words = [MISSING] if MISSING in states else []
    words += (
        [f"{UNAVAILABLE} {''.join(f'[{number}]' for number in sorted(used))}"]
        if UNAVAILABLE in states
        else []
    )
    return {**cells, "state": Cell("; ".join(words))}


def _measured_cells(row: Row, line: Line) -> dict[str, Cell]:
    cells = {f"measured_{column}": cell for column, cell in line.cells.items()}
    for slot in slots(row.table):
        text = row.text(slot)
        cell = line.cells.get(slot.column)
        if text and cell is None and slot.metric != "reported" and not published_only(row, slot):
            cells[f"measured_{slot.column}"] = Cell(state=MISSING)
        if text and cell is not None and slot.metric == "ap" and not row.delta:
            cells[f"interval_{slot.column}"] = interval_cell(accuracy_of(line.origins[slot.column]))
        if text and cell is not None and slot.metric in _COUNTED:
            cells[f"difference_{slot.column}"] = Cell(
                difference(text, float(cell.value or 0)), MEASURED
            )
    cells["state"] = Cell("; ".join(dict.fromkeys(how_measured(record) for record in line.records)))
    cells["file"] = Cell(
        " ".join(
            dict.fromkeys(
                file for cell in line.cells.values() if (file := file_words(cell.artifact))
            )
        )
    )
    return {**cells, "record": Cell(_record_words(line))}


def file_words(sha256: str) -> str:
    """The first twelve digits of a file's SHA-256; of a difference of two files those of both; ""
    without a file.
    """
    return " - ".join(part[:12] for part in sha256.split(" - ")) if sha256 else ""


def _record_words(line: Line) -> str:
    """The Record's id, or, for several Records, each id with the columns that it fills."""
    by_record: dict[str, list[str]] = {}
    for column, cell in line.cells.items():
        by_record.setdefault(cell.record, []).append(column)
    if len(by_record) == 1:
        return next(iter(by_record))
    return "; ".join(f"{identity} ({' '.join(columns)})" for identity, columns in by_record.items())


def how_measured(record: Record) -> str:
    """How a Record was measured or counted: runtime, precision, rhythm, weights and device."""
    if record.source == "cost":
        return f"counted by {counter_of(record) or 'an unnamed counter'}"
    return f"measured {conditions(record)}".rstrip()


def conditions(record: Record) -> str:
    """Runtime, precision, rhythm, weights and device of a measurement in a few words; the paper's
    wait of 200 ms goes without saying.
    """
    words = []
    if record.artifact is not None:
        words += [record.artifact.runtime, record.artifact.precision]
    words += ["CUDA graph"] if record.latency is not None and record.latency.cuda_graph else []
    words += [record.protocol.short] if record.protocol else []
    words += [f"mean over {len(record.parts)} data sets"] if record.parts else []
    words += ["random weights"] if record.model.weights == "random" else []
    words += [f"on {record.machine.gpu or record.machine.cpu}"] if record.machine else []
    return " ".join(words)


def _notes(name: str, reasons: dict[str, int], measured: Measured) -> list[str]:
    notes = [
        f"Published: {CITATION}, camera-ready (T4, TensorRT 10.4, 200 ms pause): these are the "
        f"authors' numbers. AP in percent."
    ]
    if any(slot.column in COCO_METRICS for slot in slots(name)) or reasons:
        notes.append(
            f"{MARKS[MISSING]} = not measured; {MARKS[UNAVAILABLE]} = not measurable here; Δ = "
            f"measured - published"
        )
    if any(computed_gflops(row) for row in table_rows(name)) and any(
        slot.column == "gflops" for slot in slots(name)
    ):
        notes.append(
            f"GFLOPs {CONVENTION}{f', {WITHOUT_ATTENTION}' if without_attention(name) else ''}: "
            f"no model was run for these values."
        )
    notes += [f"[{number}] {reason}" for reason, number in reasons.items()]
    if measured.partial:
        notes.append(f"Left out: {plural(measured.partial, 'Record')} of a part of COCO val2017.")
    named = [
        (row, " ".join(filter(None, (row.identity.model.name, row.identity.model.size))))
        for row in table_rows(name)
    ]
    return notes + row_notes(named)


def row_notes(rows: Iterable[tuple[Row, str]]) -> list[str]:
    """What the published file notes about rows, each note once, behind the names of its rows."""
    found: dict[str, list[str]] = {}
    for row, name in rows:
        if note := row.printed.get("note"):
            found.setdefault(note, []).append(name)
    return [f"{', '.join(dict.fromkeys(labels))}: {note}" for note, labels in found.items()]
