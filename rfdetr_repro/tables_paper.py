"""The paper's tables with the numbers measured here beside them, never in their place.

A measured Record joins a published row by family, size, task and data (``paper.join_key``); Records on composed data therefore
never reach a COCO row. Where nothing was measured the cell says whether it could be: "not measured" or "not measurable here".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .paper import CITATION, METRICS, TABLES, join_key, published_records, published_table
from .record import Accuracy, Record
from .tables_format import MARKS, MEASURED, MISSING, PUBLISHED, UNAVAILABLE, Cell, Column, Table, milliseconds, percent

AS_PRINTED = ("7", "8", "9", "11", "v2_17")  # not one accuracy or latency per row: shown as the paper prints them
METRIC_LABELS = {"ms": "ms", "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_s": "APs", "ap_m": "APm", "ap_l": "APl"}
_ALWAYS = ("ms", "ap", "ap50")  # measured columns that are shown even when nothing was measured


@dataclass(frozen=True)
class Here:
    """What this machine could measure; decides between "not measured" and "not measurable here"."""

    gpu: bool
    data: frozenset[str]

    @classmethod
    def detect(cls, records: Iterable[Record] = ()) -> Here:
        """An NVIDIA driver, the folder in the environment variable ``RFDETR_COCO``, and whatever Records were measured on."""
        data = {record.data.name for record in records if record.data and record.published is None}
        if Path(os.environ.get("RFDETR_COCO", "no such folder")).is_dir():
            data.add("coco-val2017")
        return cls(Path("/proc/driver/nvidia/version").exists(), frozenset(data))

    def why_not(self, metric: str, published: Record) -> str:
        """Why ``metric`` of a published row cannot be measured on this machine; "" if it can."""
        if published.published and published.published.latency_backend == "author-reported":
            return "reported by the model's authors"
        if metric == "ms":
            return "" if self.gpu else "no NVIDIA GPU on this machine"
        name = published.data.name if published.data else ""
        if name in self.data:
            return ""
        return "no COCO val2017 on this machine (RFDETR_COCO)" if name == "coco-val2017" else f"no {name.upper()} on this machine"


def paper_table(name: str, records: Sequence[Record] = (), here: Here | None = None) -> Table:
    """Table ``name`` of the paper, camera-ready rows, measured values beside; of ``records`` only those that join are used."""
    if name in AS_PRINTED or not (name in TABLES and TABLES[name].records):
        return _printed_table(name)
    here = here or Here.detect(records)
    columns = [
        Column("model", "Model", right=False),
        Column("size", "Size", right=False),
        Column("variant", "Variant", right=False),
    ]
    columns += [Column("params", "Params M", PUBLISHED), Column("gflops", "GFLOPs", PUBLISHED)]
    columns += [Column(f"published_{metric}", label, PUBLISHED) for metric, label in METRIC_LABELS.items()]
    columns += [Column(f"measured_{metric}", label, "measured here") for metric, label in METRIC_LABELS.items()]
    table = Table(name, _title(name), [*columns, Column("state", "state", right=False)])
    reasons: dict[str, int] = {}
    for published in published_records(name):
        joined = [record for record in records if _joins(record, published)]
        _add_rows(table, published, joined, here, reasons)
    table.notes += [
        f"Published: {CITATION}, camera-ready (T4, TensorRT 10.4, 200 ms pause): the authors' numbers, not ours. AP in percent."
    ]
    table.notes.append(f"{MARKS[MISSING]} = not measured; {MARKS[UNAVAILABLE]} = not measurable here")
    table.notes += [f"[{number}] {reason}" for reason, number in reasons.items()]
    table.notes += _row_notes(name)
    return table


def shown_columns(table: Table) -> Table:
    """For reading: without empty columns, and without measured columns that hold no measurement beyond ms, AP and AP50."""
    measured = {key for row in table.rows for key, cell in row.items() if cell.state == MEASURED}
    kept = [
        column
        for column in table.columns
        if column.group != "measured here" or column.key in measured or column.key.removeprefix("measured_") in _ALWAYS
    ]
    return Table(table.name, table.title, kept, table.rows, table.sections, table.notes).without_empty_columns()


def scoreboard(names: Iterable[str], records: Sequence[Record], here: Here | None = None) -> list[Table]:
    """A summary with the counts of cells per table, then for each table the state of every cell."""
    summary = Table(
        "scoreboard",
        "State of every accuracy and latency cell",
        [Column("table", "Table"), Column("title", "Title", right=False)]
        + [Column(state, label) for state, label in ((PUBLISHED, "published"), (MEASURED, "measured"), (MISSING, "not measured"))]
        + [Column(UNAVAILABLE, "not measurable here")],
    )
    grids = []
    for name in names:
        if name in AS_PRINTED or not TABLES[name].records:
            summary.add({"table": Cell(name), "title": Cell(f"{TABLES[name].title}: published only")})
            continue
        table = paper_table(name, records, here)
        cells = [cell for row in table.rows for key, cell in row.items() if key.startswith(("published_", "measured_"))]
        counts = {state: sum(cell.state == state for cell in cells) for state in (PUBLISHED, MEASURED, MISSING, UNAVAILABLE)}
        counted = {state: Cell(str(count), value=count) for state, count in counts.items()}
        summary.add({"table": Cell(name), "title": Cell(TABLES[name].title), **counted})
        grids.append(_grid(name, table))
    return [summary, *grids]


def _grid(name: str, table: Table) -> Table:
    letters = {MEASURED: "M", MISSING: "P", UNAVAILABLE: "×"}
    columns = [Column("row", "Row", right=False)] + [Column(metric, label) for metric, label in METRIC_LABELS.items()]
    grid = Table(f"scoreboard-{name}", f"Table {name}: cells", columns)
    for row in table.rows:
        label = " ".join(row[key].text for key in ("model", "size", "variant") if key in row and row[key].text)
        cells = {metric: row[f"measured_{metric}"].state for metric in METRIC_LABELS if f"measured_{metric}" in row}
        grid.add({"row": Cell(label), **{metric: Cell(letters.get(state, ""), state) for metric, state in cells.items()}})
    grid.notes = ["M = measured here; P = published, not measured; × = published, not measurable here"]
    return grid


def _title(name: str) -> str:
    number = name.replace("v2_", "v2 ")
    return f"Table {number}. {TABLES[name].title}"


def _printed_table(name: str) -> Table:
    shown = published_table(name)
    keys = [key for key in shown.columns if not key.startswith("derived_") and key not in ("note", "rfdetr_config_check")]
    columns = [Column(key, key.replace("_", " "), PUBLISHED, right=index > 0) for index, key in enumerate(keys)]
    table = Table(name, _title(name) if name in TABLES else shown.title, columns)
    for row in shown.rows:
        table.add({key: Cell(row[key], PUBLISHED if row[key] else "") for key in keys})
    table.notes = [f"Published: {CITATION}, camera-ready. As printed."]
    return table.without_empty_columns()


def _joins(record: Record, published: Record) -> bool:
    """Whether a measured Record stands beside a published row. Without a variant it stands beside every variant of its size."""
    if record.source != "protocol" or join_key(record) != join_key(published):
        return False
    variant = published.model.variant or ""
    if variant in ("author-reported", "naive FP16 export"):
        return False
    if variant.startswith("buffered FP"):
        return record.artifact is not None and record.artifact.precision == variant.removeprefix("buffered ").lower()
    if variant.startswith("buffer "):
        return record.protocol is not None and variant == f"buffer {record.protocol.buffer_ms:g} ms"
    return record.model.variant in (None, published.model.variant)


def _add_rows(table: Table, published: Record, joined: list[Record], here: Here, reasons: dict[str, int]) -> None:
    row = _published_cells(published)
    section = published.published.section if published.published else ""
    if not joined:
        used: list[int] = []
        for metric in METRIC_LABELS:
            if row[f"published_{metric}"].state == PUBLISHED:
                reason = here.why_not(metric, published)
                if reason and reasons.setdefault(reason, len(reasons) + 1) not in used:
                    used.append(reasons[reason])
                row[f"measured_{metric}"] = Cell(state=UNAVAILABLE if reason else MISSING)
        states = {row[f"measured_{metric}"].state for metric in METRIC_LABELS if f"measured_{metric}" in row}
        row["state"] = Cell("; ".join(_state_words(states, used)))
        table.add(row, section)
    for index, record in enumerate(joined):
        measured = _measured_cells(record)
        blanks = {key: Cell(state=MISSING) for key in _expected(row) if key not in measured}
        table.add({**(row if index == 0 else {}), **blanks, **measured, "state": Cell(_measured_state(record))}, section)


def _state_words(states: set[str], used: list[int]) -> list[str]:
    words = [MISSING] if MISSING in states else []
    return words + ([f"{UNAVAILABLE} {''.join(f'[{number}]' for number in used)}"] if UNAVAILABLE in states else [])


def _expected(row: dict[str, Cell]) -> list[str]:
    return [key.replace("published_", "measured_") for key, cell in row.items() if key.startswith("published_") and cell.state]


def _published_cells(record: Record) -> dict[str, Cell]:
    """Left half of a row. Tables 15 and 16 print some accuracies as differences: those keep their printed text."""
    model, cost = record.model, record.cost
    row = {"model": Cell(model.name), "size": Cell(model.size or ""), "variant": Cell(model.variant or "")}
    if cost is not None:
        row["params"] = Cell(f"{cost.params / 1e6:.1f}", PUBLISHED, cost.params / 1e6) if cost.params else Cell()
        row["gflops"] = Cell(f"{cost.flops / 1e9:.1f}", PUBLISHED, cost.flops / 1e9) if cost.flops else Cell()
    latency = record.latency
    row["published_ms"] = Cell(f"{latency.median_ms:.1f}", PUBLISHED, latency.median_ms) if latency else Cell()
    accuracy = _accuracy(record)
    printed = _printed_row(record)
    for metric in METRICS:
        value = getattr(accuracy, metric) if accuracy else None
        text = percent(value) or (printed.get(metric, "") if printed.get("ap_kind") == "delta" else "")
        number = None if value is None else round(100 * value, 4)
        row[f"published_{metric}"] = Cell(text, PUBLISHED if text else "", number)
    return row


def _printed_row(record: Record) -> dict[str, str]:
    assert record.published is not None
    shown = published_table(record.published.table)
    return shown.rows[shown.row_numbers.index(record.published.row)]


def _accuracy(record: Record) -> Accuracy | None:
    return record.mask_accuracy if record.model.task == "segment" else record.accuracy


def _measured_cells(record: Record) -> dict[str, Cell]:
    cells = {}
    if record.latency is not None:
        cells["measured_ms"] = Cell(milliseconds(record.latency.median_ms), MEASURED, record.latency.median_ms)
    accuracy = _accuracy(record)
    for metric in METRICS if accuracy else ():
        value = getattr(accuracy, metric)
        if value is not None:
            cells[f"measured_{metric}"] = Cell(percent(value), MEASURED, round(100 * value, 4))
    return cells


def _measured_state(record: Record) -> str:
    words = ["measured"]
    if record.artifact is not None:
        words += [record.artifact.runtime, record.artifact.precision]
    words += [record.protocol.mode] if record.protocol else []
    words += ["random weights"] if record.model.weights == "random" else []
    words += [f"on {record.machine.gpu or record.machine.cpu}"] if record.machine else []
    return " ".join(words) + (f", file {record.artifact.sha256[:8]}" if record.artifact else "")


def _row_notes(name: str) -> list[str]:
    notes: dict[str, list[str]] = {}
    for row in published_table(name).rows:
        if row.get("note"):
            label = " ".join(filter(None, (row.get("model") or row.get("backbone"), row.get("size"))))
            notes.setdefault(row["note"], []).append(label)
    return [f"{', '.join(dict.fromkeys(labels))}: {note}" for note, labels in notes.items()]
