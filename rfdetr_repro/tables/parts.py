"""The parts of the latency (``bench --parts``): for every measured row and every size of frame the
medians of preprocessing, network and post-processing, and their shares of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rfdetr_repro.records.record import FrameTimes, PartTime, Record
from rfdetr_repro.spec.metrics import decimals, percent, percent_value

from .table import COMPUTED, MEASURED, Cell, Column, Table

PARTS = {  # field of FrameTimes -> heading
    "preprocessing": "preprocessing",
    "network": "network",
    "postprocessing": "post-processing",
}
NOTES = (
    "From a decoded frame in memory (uint8 RGB) to boxes in pixels, labels, scores and, with "
    "masks, run lengths of the 100 best detections. network: from the input tensor to outputs in "
    "host memory, with copies to and from a device.",
    "Medians of a closed loop of one frame per run; 95% CI: within the session. whole: the sum of "
    "the three medians; %: shares of it. Reading, drawing and waits are in no part.",
)
DECODING_NOTE = (
    "JPEG: decoding of a synthetic JPEG of the frame's size in memory, which is not part of the "
    "whole; the time grows with the size of the file."
)
SYNTHETIC_NOTE = (
    "Where no data are named, frames are synthetic. Masks in them, and masks of random weights, "
    "have long outlines, so their post-processing takes longer than in pictures of the kind that "
    "a model was trained on."
)


def parts_tables(records: Sequence[Record]) -> list[Table]:
    """One table for every machine of the Records whose latency has parts."""
    groups: dict[str, dict[tuple[object, ...], tuple[Record, FrameTimes]]] = {}
    for record, frame in _rows(records):
        rows = groups.setdefault(_machine(record), {})
        rows.setdefault((*_row(record), frame), (record, frame))  # shared by several Records
    return [_table(machine, list(rows.values())) for machine, rows in groups.items()]


def _rows(records: Sequence[Record]) -> Iterator[tuple[Record, FrameTimes]]:
    for record in records:
        for frame in (record.latency and record.latency.parts) or ():
            yield record, frame


def _machine(record: Record) -> str:
    machine = record.machine
    return (machine.gpu or machine.cpu) if machine else "an unknown machine"


def _row(record: Record) -> tuple[object, ...]:
    """What tells one row of a benchmark from another, whatever the data and the protocol."""
    protocol = record.protocol
    return record.model, record.artifact, protocol and protocol.threads


def _table(machine: str, rows: Sequence[tuple[Record, FrameTimes]]) -> Table:
    columns = [
        Column("model", "model", right=False),
        Column("arch", "architecture", right=False, rank=7),
        Column("weights", "weights", right=False, rank=4),
        Column("runtime", "runtime", right=False, rank=3),
        Column("threads", "threads", rank=1),
        Column("frame", "frame", right=False),
        Column("picture", "first picture of", right=False, rank=6),
    ]
    for name, label in PARTS.items():
        columns += [
            Column(f"{name}_ms", "ms", label),
            Column(f"{name}_ci", "95% CI", label, rank=5),
            Column(f"{name}_share", "%", label),
        ]
    columns += [
        Column("whole_ms", "ms", "whole"),
        Column("decoding_ms", "ms", "JPEG", rank=2),
        Column("decoding_ci", "95% CI", "JPEG", rank=5),
        Column("jpeg_mb", "MB", "JPEG", rank=8),
        Column("samples", "n", rank=9),
    ]
    title = f"From a frame to its detections, on {machine}"
    table = Table("parts", title, columns, facts={"machine": machine})
    for record, frame in rows:
        table.add(_cells(record, frame))
    table.notes = list(NOTES)
    if any(frame.decoding for _, frame in rows):
        table.notes.append(DECODING_NOTE)
    if any(record.data is None and record.model.task == "segment" for record, _ in rows):
        table.notes.append(SYNTHETIC_NOTE)
    return table.without_empty_columns()


def _cells(record: Record, frame: FrameTimes) -> dict[str, Cell]:
    model = record.model
    artifact = record.artifact
    row = {
        "model": Cell(" ".join(filter(None, (model.name, model.size, model.variant)))),
        "arch": Cell(model.arch.key if model.arch else ""),
        "weights": Cell("random" if model.weights == "random" else ""),
        "runtime": Cell(f"{artifact.runtime} {artifact.precision}" if artifact else ""),
        "frame": Cell(f"{frame.height}x{frame.width}"),
        "picture": Cell(f"{record.data.name} {record.data.split}" if record.data else ""),
        "whole_ms": Cell(_ms(frame.whole_ms), COMPUTED, frame.whole_ms),
    }
    if record.protocol is not None:
        threads = record.protocol.threads
        row["threads"] = Cell(str(threads), value=threads)
    for name in PARTS:
        part: PartTime = getattr(frame, name)
        share = part.median_ms / frame.whole_ms
        row |= _part_cells(name, part, record, artifact.sha256 if artifact else "")
        row[f"{name}_share"] = Cell(percent(share), COMPUTED, percent_value(share))
    if frame.decoding is not None:
        row |= _part_cells("decoding", frame.decoding, record, "")
    if frame.jpeg_bytes is not None:
        megabytes = frame.jpeg_bytes / 1e6
        row["jpeg_mb"] = Cell(decimals(megabytes, 2), value=round(megabytes, 6))
    if frame.num_samples is not None:
        row["samples"] = Cell(str(frame.num_samples), value=frame.num_samples)
    return row


def _part_cells(name: str, part: PartTime, record: Record, artifact: str) -> dict[str, Cell]:
    ms = part.median_ms
    low = part.low_ms
    high = part.high_ms
    cells = {f"{name}_ms": Cell(_ms(ms), MEASURED, ms, record.id, artifact, low, high)}
    if low is not None and high is not None:
        text = f"[{_ms(low)}, {_ms(high)}]"
        cells[f"{name}_ci"] = Cell(text, MEASURED, low=low, high=high)
    return cells


def _ms(value: float) -> str:
    """Three decimals below 1 ms, two below 10 ms, one above: parts differ by orders of
    magnitude.
    """
    return decimals(value, 3 if value < 1 else 2 if value < 10 else 1)
