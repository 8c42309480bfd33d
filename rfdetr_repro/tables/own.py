"""Own rows in a table of the paper: measured Records of any model, such as an ONNX file of somebody
else, whose data set and task are the table's.

A Record of another data set, of a part of the data set, or of another task is refused, and the
refusal is stated. A latency that was measured in another way than the printed ones (device,
runtime, precision, wait) stays recognisable as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rfdetr_repro.paper.cells import KNOB_SLOTS, Slot, slots
from rfdetr_repro.paper.published import TABLES, data_set
from rfdetr_repro.records.record import MEAN, Record
from rfdetr_repro.spec.arch import KNOBS
from rfdetr_repro.spec.metrics import plural
from rfdetr_repro.spec.protocol import PAPER_WAIT_MS

from .join import (
    COCO_IMAGES,
    accuracy_of,
    ap_cell,
    count_cell,
    latency_cell,
    measured_cell,
    timed_as_published,
)
from .published import conditions
from .table import Cell

# tables without a column that a measured model could fill
WITHOUT_ROWS = {
    "9": "compares counters of operations",
    "11": "holds differences to D-FINE",
    "v2_17": "holds regressions",
}
_NAMES = {
    "coco-val2017": f"COCO val2017 ({COCO_IMAGES:,} images)",
    "rf100-vl": "RF100-VL, the mean over its 100 data sets",
    "rf20-vl": "RF20-VL, the mean over its data sets",
}
_KNOBS = dict(zip((slot.column for slot in KNOB_SLOTS), KNOBS, strict=True))


@dataclass
class OwnRow:
    """A row that is not printed in the paper: its cells by CSV column, the Record of each, and the
    columns whose latency was measured in another way than the printed ones.
    """

    label: str
    cells: dict[str, Cell] = field(default_factory=dict)
    origins: dict[str, Record] = field(default_factory=dict)
    otherwise: set[str] = field(default_factory=set)

    @property
    def record(self) -> Record:
        """One of the Records behind the row."""
        return next(iter(self.origins.values()))

    @property
    def suppressed(self) -> bool:
        """Whether the model needs a suppression of duplicate boxes, which its latency includes."""
        return any(
            record.latency is not None and record.latency.suppression_ms is not None
            for record in self.origins.values()
        )


def own_rows(name: str, records: Sequence[Record]) -> tuple[list[OwnRow], list[str]]:
    """The own rows of table ``name``, and one line for each group of Records that was refused."""
    refused: dict[tuple[str, str], int] = {}
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if reason := why_refused(name, record):
            key = (_label(record), reason)
            refused[key] = refused.get(key, 0) + 1
        else:
            groups.setdefault(_file(record), []).append(record)
    rows = []
    for group in groups.values():
        row = _row(name, sorted(group, key=_usual_first))
        if row.cells:
            rows.append(row)
        else:
            key = (_label(group[0]), "it holds no number of the table's columns")
            refused[key] = refused.get(key, 0) + len(group)
    _tell_apart(rows)
    return rows, _lines(refused)


def why_refused(name: str, record: Record) -> str:
    """Why ``record`` cannot join table ``name``; "" if it can."""
    info = TABLES[name]
    if name in WITHOUT_ROWS:
        return f"the table {WITHOUT_ROWS[name]}"
    if record.published is not None or record.source not in ("protocol", MEAN):
        return f"its source is {record.source!r}, not a measurement of a file by the protocol"
    if record.model.task != info.task:
        return f"the model's task is {record.model.task}, the table's is {info.task}"
    if record.data is None:
        alike = any(_timed_alike(record, slot) for slot in slots(name) if slot.metric == "ms")
        if info.data == "coco-val2017" and alike:
            return ""  # the file and the protocol are the table's, only no AP was measured
        timed = conditions(record) or "unknown runtime"
        return f"no AP was measured, and its latency is not timed like the table's ({timed})"
    if data_set(record) != info.data:
        return f"it was measured on {_images(record)}, the table is of {_NAMES[info.data]}"
    if info.data == "coco-val2017" and record.data.num_images not in (None, COCO_IMAGES):
        return f"it was measured on {_images(record)}, the table is of {_NAMES[info.data]}"
    return ""


def _images(record: Record) -> str:
    data = record.data
    if data is None:
        return "unknown images"
    count = f", {data.num_images:,} images" if data.num_images is not None else ""
    return f"{data.name} {data.split}{count}"


def _label(record: Record) -> str:
    model = record.model
    variant = None if model.variant == "nas" else model.variant
    return " ".join(filter(None, (model.name, model.size, variant)))


def _file(record: Record) -> tuple[object, ...]:
    """What the cells of one row have in common."""
    artifact = record.artifact
    machine = record.machine
    return (
        _label(record),
        artifact and (artifact.sha256, artifact.runtime, artifact.precision),
        machine and (machine.cpu, machine.cores, machine.gpu),
        record.latency is not None and bool(record.latency.cuda_graph),
        record.data and record.data.sha256,
    )


def _usual_first(record: Record) -> bool:
    """Sorts Records with the paper's rhythm before others."""
    return record.protocol is None or not record.protocol.only_waits(PAPER_WAIT_MS)


def _row(name: str, records: Sequence[Record]) -> OwnRow:
    row = OwnRow(_label(records[0]))
    for record in records:
        for slot in slots(name):
            cell = _cell(record, slot)
            if cell is None or slot.column in row.cells:
                continue
            row.cells[slot.column] = cell
            row.origins[slot.column] = record
            if slot.metric == "ms" and not _timed_alike(record, slot):
                row.otherwise.add(slot.column)
    return row


def _timed_alike(record: Record, slot: Slot) -> bool:
    """Whether the latency was measured like the printed ones; with or without a CUDA graph, because
    for another model the paper states neither.
    """
    wait_ms = PAPER_WAIT_MS if slot.buffer_ms is None else slot.buffer_ms
    precision = slot.precision or "fp16"
    return timed_as_published(record, precision=precision, wait_ms=wait_ms, any_graph=True)


def _cell(record: Record, slot: Slot) -> Cell | None:
    artifact = record.artifact
    if slot.precision and (artifact is None or artifact.precision != slot.precision):
        return None
    if slot.variant or slot.metric in ("reported", "fit"):
        return None
    if slot.metric in ("params", "flops"):
        return count_cell(record, slot)
    if slot.metric == "knob":
        arch = record.model.arch
        value = None if arch is None else getattr(arch, _KNOBS[slot.column])
        return None if value is None else measured_cell(str(value), value, record)
    if slot.metric == "ms":
        return _latency_cell(record, slot)
    value = getattr(accuracy_of(record), slot.metric, None)
    return None if value is None else ap_cell(value, record)


def _latency_cell(record: Record, slot: Slot) -> Cell | None:
    """The buffered latency with the column's wait, which is the paper's where none is stated."""
    wait_ms = PAPER_WAIT_MS if slot.buffer_ms is None else slot.buffer_ms
    if record.protocol is None or not record.protocol.only_waits(wait_ms):
        return None
    return latency_cell(record)


def _tell_apart(rows: Sequence[OwnRow]) -> None:
    """Rows of one name get their runtime and device too."""
    names = [row.label for row in rows]
    for row in rows:
        if names.count(row.label) > 1:
            row.label = f"{row.label}, {conditions(row.record) or 'unknown runtime'}"


def _lines(refused: dict[tuple[str, str], int]) -> list[str]:
    """One line per reason: a run holds hundreds of Records of its search."""
    reasons: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for (label, reason), count in refused.items():
        reasons.setdefault(reason, []).append(label)
        counts[reason] = counts.get(reason, 0) + count
    lines = []
    for reason, labels in reasons.items():
        names = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
        lines.append(f"refused, {names} ({plural(counts[reason], 'Record')}): {reason}")
    return lines
