"""Joins measured Records to printed rows and cells; each cell keeps the Record that it came from.

Two Records for the same cell become two lines. The cells of a line come from one machine and
runtime, and the cells of one precision from one file. Counts of parameters and operations (source
"cost") belong to the model and may be on any line.

The paper's measurement of latencies: RF-DETR (arXiv 2511.09554) section 4 and Appendix A: T4,
TensorRT 10.4, FP16, batch 1, 200 ms between two images, CUDA graphs. The authors' tool replays a
graph for RF-DETR, LW-DETR and RT-DETR and launches D-FINE and the YOLOs kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rfdetr_repro.paper.cells import NAIVE, Row, Slot, expected_params, slots, table_rows
from rfdetr_repro.paper.published import data_set, join_key
from rfdetr_repro.records.record import MEAN, TUNED, Accuracy, Record, ScoredRecord
from rfdetr_repro.spec.metrics import (
    COCO_METRICS,
    decimals,
    in_points,
    milliseconds,
    percent,
    percent_value,
)
from rfdetr_repro.spec.presets import NAMES_OF_LETTERS, wide
from rfdetr_repro.spec.protocol import PAPER_WAIT_MS

from .table import MEASURED, Cell

COCO_IMAGES = 5000  # images of val2017; AP on a part of val2017 is not comparable
# a Record without a size is taken for a size if its parameters differ by less, because an Arch
# holds no widths
SAME_MODEL = 0.25
SLOWER = 1.05  # Table 11 compares at similar latency
GPU = "T4"
# families as :func:`rfdetr_repro.paper.published.join_key` spells them
WITH_GRAPH = ("rfdetr", "lwdetr", "rtdetr")
Key = tuple[str, str, str, str]


@dataclass
class Line:
    """A printed line of measurements: CSV column -> cell, and the Records behind the cells."""

    cells: dict[str, Cell] = field(default_factory=dict)
    origins: dict[str, Record] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """The Records behind the cells, each once."""
        return list({record.id: record for record in self.origins.values()}.values())

    def takes(self, record: Record, cells: dict[str, Cell]) -> bool:
        """Whether ``record`` may be on this line too."""
        if any(
            column in self.cells and _measurement(self.cells[column]) != _measurement(cell)
            for column, cell in cells.items()
        ):
            return False
        return all(_together(record, other) for other in self.records)

    def put(self, record: Record, cells: dict[str, Cell]) -> None:
        """Fills empty cells from ``record``."""
        for column, cell in cells.items():
            self.cells.setdefault(column, cell)
            self.origins.setdefault(column, record)


def _together(a: Record, b: Record) -> bool:
    if "cost" in (a.source, b.source) or a.artifact is None or b.artifact is None:
        return True
    if (a.machine, a.artifact.runtime) != (b.machine, b.artifact.runtime) or not _timed_alike(a, b):
        return False
    other_file = a.model.size != b.model.size or a.artifact.precision != b.artifact.precision
    return other_file or a.artifact.sha256 == b.artifact.sha256


def _timed_alike(a: Record, b: Record) -> bool:
    """Whether both use a CUDA graph or neither does; the protocols may differ in the wait."""
    hows = [
        (bool(either.latency.cuda_graph), either.protocol is None or either.protocol.usual)
        for either in (a, b)
        if either.latency
    ]
    return len(set(hows)) < 2


class _Lines:
    """The lines of a printed row, indexed by their content, because a row may have thousands of
    lines.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []
        # columns -> lines that had exactly these filled, at some time
        self._filled: dict[frozenset[str], list[int]] = {}
        self._found: dict[tuple[frozenset[str], tuple[str, ...]], _Found] = {}

    def put(self, record: Record, cells: dict[str, Cell]) -> None:
        """Puts cells into the first line that accepts them, else into a new line."""
        wanted = sorted(
            {index for columns in self._filled for index in self._agreeing(columns, cells)}
        )
        index = next(
            (index for index in wanted if self.lines[index].takes(record, cells)), len(self.lines)
        )
        if index == len(self.lines):
            self.lines.append(Line())
        before = frozenset(self.lines[index].cells)
        self.lines[index].put(record, cells)
        after = frozenset(self.lines[index].cells)
        if after != before:
            self._filled.setdefault(after, []).append(index)

    def _agreeing(self, columns: frozenset[str], cells: dict[str, Cell]) -> list[int]:
        """Lines with exactly ``columns`` filled that hold, where ``cells`` has something too, the
        same.
        """
        shared = tuple(sorted(columns & cells.keys()))
        found = self._found.setdefault((columns, shared), _Found())
        for index in self._filled[columns][found.seen :]:
            found.lines.setdefault(_measurements(self.lines[index].cells, shared), []).append(index)
        found.seen = len(self._filled[columns])
        agreeing = found.lines.get(_measurements(cells, shared), ())
        return [index for index in agreeing if self.lines[index].cells.keys() == columns]


@dataclass
class _Found:
    """Lines of one set of columns by what stands in some of these; of the first ``seen`` of
    them.
    """

    lines: dict[tuple[object, ...], list[int]] = field(default_factory=dict)
    seen: int = 0


def _measurements(cells: dict[str, Cell], columns: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(_measurement(cells[column]) for column in columns)


def _measurement(cell: Cell) -> tuple[object, str]:
    """A key that is equal for two cells with the same measurement, such as an AP that several
    Records of one file hold.
    """
    return cell.value, cell.artifact


class Measured:
    """Measured Records by model family and task, ready to be joined to printed rows."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """Groups ``records`` by family and task; Records that no printed row can use are left
        out.
        """
        self.partial = 0  # Records left out because their AP is of a part of COCO val2017
        self._groups: dict[tuple[str, str], list[tuple[Key, Record]]] = {}
        self._lines: dict[tuple[str, int], list[Line]] = {}  # of each row that was asked for
        for record in records:
            if record.published is not None or record.source not in ("protocol", "cost", MEAN):
                continue
            if _part_of_coco(record):
                self.partial += 1
                continue
            key = join_key(record)
            self._groups.setdefault((key[0], key[2]), []).append((key, record))

    @classmethod
    def of(cls, records: Measured | Sequence[Record]) -> Measured:
        """``records`` as Measured, or unchanged if they already are."""
        return records if isinstance(records, Measured) else cls(records)

    def of_row(self, row: Row) -> Iterator[Record]:
        """The Records of the row's model."""
        key = join_key(row.identity)
        for other, record in self._groups.get((key[0], key[2]), ()):
            if _same_model(row, key, other, record):
                yield record

    def of_size(self, family: str, size: str) -> list[ScoredRecord]:
        """Protocol Records of one family and size on COCO detection with an AP (Table 11)."""
        group = self._groups.get((family, "detect"), ())
        return [
            scored
            for key, record in group
            if key[1] == size
            and _on(record, "coco-val2017")
            and (scored := ScoredRecord.of(record)) is not None
        ]

    def lines(self, row: Row) -> list[Line]:
        """The measurements for ``row``, with one line for each measurement that cannot share a
        line.
        """
        key = (row.table, row.number)
        if key not in self._lines:
            found = _Lines()
            for record, cells in self._candidates(row):
                found.put(record, cells)
            self._lines[key] = found.lines
        return self._lines[key]

    def _candidates(self, row: Row) -> Iterator[tuple[Record, dict[str, Cell]]]:
        if row.table == "11":
            yield from _gaps(self, row)
            return
        own = list(self.of_row(row))
        for record in own:
            cells = {
                slot.column: cell
                for slot in slots(row.table)
                if (cell := _fill(record, row, slot)) is not None
            }
            if cells:
                yield record, cells
        if row.delta:
            yield from _gains(self, row, own)


def _part_of_coco(record: Record) -> bool:
    return (
        _on(record, "coco-val2017")
        and record.data is not None
        and record.data.num_images not in (None, COCO_IMAGES)
    )


def _on(record: Record, name: str) -> bool:
    return record.source == "protocol" and data_set(record) == name


def _same_model(row: Row, key: Key, other: Key, record: Record) -> bool:
    """Whether row and Record have the same model: by architecture where both have one, else by
    size.

    Widths are checked by size or by parameters.
    """
    arch = record.model.arch
    if row.identity.model.family == "rfdetr" and row.arch is None:
        # a mean over data sets: the Record must be a mean too
        return arch is None and other[1] == key[1] and other[3] == key[3]
    if row.arch is None or arch is None:
        return other[1] == key[1] != ""
    if arch != row.arch:
        return False
    if other[1]:
        return other[1] == key[1] or (not key[1] and other[1] in NAMES_OF_LETTERS)
    expected = expected_params(row)
    params = record.cost.params if record.cost else None
    return (
        expected is not None
        and params is not None
        and abs(params - expected) <= SAME_MODEL * expected
    )


def _fill(record: Record, row: Row, slot: Slot) -> Cell | None:
    """The cell of ``row`` that ``record`` fills; ``None`` if the Record measured something else."""
    if slot.metric in ("params", "flops"):
        return _cost_cell(record, row, slot)
    artifact = record.artifact
    protocol = record.protocol
    if record.source not in ("protocol", MEAN) or (
        slot.precision and (artifact is None or artifact.precision != slot.precision)
    ):
        return None
    if record.model.variant != slot.variant and NAIVE in (record.model.variant, slot.variant):
        return None
    if (
        slot.metric == "ms"
        and record.latency is not None
        and _data_allows(record, row)
        and _variant_allows(record, row, True)
    ):
        if slot.buffer_ms is None or (protocol is not None and protocol.only_waits(slot.buffer_ms)):
            return latency_cell(record)
    if (
        slot.accuracy
        and not row.delta
        and _same_data(record, row)
        and _variant_allows(record, row, False)
    ):
        value = getattr(accuracy_of(record), slot.metric, None)
        return None if value is None else ap_cell(value, record)
    return None


def ap_cell(fraction: float, record: Record) -> Cell:
    """A cell with an AP of ``record`` in percent."""
    return measured_cell(percent(fraction), percent_value(fraction), record)


def latency_cell(record: Record) -> Cell | None:
    """A cell with the median latency of ``record`` in ms; None where the Record has none."""
    if record.latency is None:
        return None
    median_ms = record.latency.median_ms
    return measured_cell(milliseconds(median_ms), median_ms, record)


def measured_cell(text: str, value: float, record: Record) -> Cell:
    """A cell with what ``record`` measured, which names the Record and its file."""
    return Cell(text, MEASURED, value, record.id, record.artifact.sha256 if record.artifact else "")


def counter_of(record: Record) -> str:
    """Name of the FLOPs counter in lower case; "" if the Record does not state a counter."""
    return (getattr(record.cost, "counter", None) or "").lower()


def _cost_cell(record: Record, row: Row, slot: Slot) -> Cell | None:
    # nothing is printed in the cell, so the exported file's own count may fill it
    own = row.table in ("7", "8")
    if record.source == MEAN:  # architectures that were chosen per data set
        own = _same_data(record, row) and _variant_allows(record, row, False)
    if (
        record.cost is None
        or not (record.source == "cost" or own)
        or (slot.counter and counter_of(record) != slot.counter)
    ):
        return None
    return count_cell(record, slot)


def count_cell(record: Record, slot: Slot) -> Cell | None:
    """A cell with the Record's parameters in millions, or its operations in 10^9; None where the
    Record has no such count.
    """
    cost = record.cost
    value = None if cost is None else cost.params if slot.metric == "params" else cost.flops
    if value is None:
        return None
    scaled = value / (1e6 if slot.metric == "params" else 1e9)
    return measured_cell(decimals(scaled, 1), scaled, record)


def _same_data(record: Record, row: Row) -> bool:
    return (
        record.data is not None
        and row.identity.data is not None
        and data_set(record) == row.identity.data.name
    )


def _data_allows(record: Record, row: Row) -> bool:
    """Whether the data match; a latency that was measured without a data set belongs to COCO
    rows.
    """
    return _same_data(record, row) or (
        record.data is None and row.identity.data is not None and "coco" in row.identity.data.name
    )


def _variant_allows(record: Record, row: Row, latency: bool) -> bool:
    """Whether the variants match: a Record without a variant belongs to every variant of its model;
    the steps of Table 5 differ only in training.
    """
    own = record.model.variant
    printed = row.identity.model.variant or ""
    if printed.startswith("step "):
        # step 1 is LW-DETR unchanged; from step 5 on the weights are the supernet's
        step = int(printed.removeprefix("step "))
        return latency or own == printed or (step in (1, *range(5, 11)) and own in (None, "nas"))
    return own in (None, printed or "nas", NAIVE)


def accuracy_of(record: Record) -> Accuracy | None:
    """Mask accuracy for a segmentation model, else box accuracy."""
    return record.mask_accuracy if record.model.task == "segment" else record.accuracy


def _gains(
    measured: Measured, row: Row, after: Sequence[Record]
) -> Iterator[tuple[Record, dict[str, Cell]]]:
    """Gains in Tables 15 and 16: fine-tuned minus searched, both measured on the same data with the
    same runtime, machine and precision.
    """
    searched = next(other for other in table_rows(row.table) if _is_start(other, row))
    before = [
        record
        for record in measured.of_row(searched)
        if record.model.variant == "nas" and _same_data(record, row)
    ]
    for tuned in after:
        if tuned.model.variant != TUNED or not _same_data(tuned, row):
            continue
        for start in before:
            if _alike(tuned, start) and (cells := _difference(tuned, start)):
                yield tuned, cells


def _is_start(other: Row, row: Row) -> bool:
    return not other.delta and other.identity.model.size == row.identity.model.size


def _alike(a: Record, b: Record) -> bool:
    how = [
        (record.artifact and (record.artifact.runtime, record.artifact.precision), record.machine)
        for record in (a, b)
    ]
    return how[0] == how[1]


def _difference(a: Record, b: Record) -> dict[str, Cell]:
    """Percentage points by which ``a`` is better, for each metric that both have."""
    cells = {}
    for metric in COCO_METRICS:
        high = getattr(accuracy_of(a), metric, None)
        low = getattr(accuracy_of(b), metric, None)
        if high is not None and low is not None:
            difference = high - low
            files = " - ".join(
                record.artifact.sha256 if record.artifact else "" for record in (a, b)
            )
            cells[metric] = Cell(
                in_points(difference),
                MEASURED,
                percent_value(difference),
                f"{a.id} - {b.id}",
                files,
            )
    return cells


def _gaps(measured: Measured, row: Row) -> Iterator[tuple[Record, dict[str, Cell]]]:
    """Cells of Table 11: D-FINE's AP, or the gap to the best RF-DETR with the row's backbone that
    is at most 5 % slower.
    """
    large = "DINOv2-B" in row.identity.model.name
    sizes = [letter for letter, name in NAMES_OF_LETTERS.items() if wide(name) is large]
    for slot in slots("11"):
        for base in measured.of_size("dfine", slot.size):
            if not row.printed["kind"].startswith("delta"):
                cell = ap_cell(base.ap, base.record)
                yield base.record, {slot.column: cell}
                continue
            rivals = [
                rival
                for size in sizes
                for rival in measured.of_size("rfdetr", size)
                if _near(rival.record, base.record)
            ]
            if rivals:
                best = max(rivals, key=lambda rival: rival.ap).record
                yield best, {slot.column: _difference(best, base.record)["ap"]}


def _near(record: Record, base: Record) -> bool:
    if (
        record.latency is None
        or base.latency is None
        or not _alike(record, base)
        or record.protocol != base.protocol
    ):
        return False
    if not _timed_alike(record, base):
        return False
    return record.latency.median_ms <= SLOWER * base.latency.median_ms


def timed_as_published(
    record: Record,
    *,
    precision: str = "fp16",
    wait_ms: float = PAPER_WAIT_MS,
    in_pytorch: bool = False,
    any_graph: bool = False,
) -> bool:
    """Whether GPU, runtime, precision, wait and CUDA graph equal those of a published latency.

    ``in_pytorch``: the latency of a row with a star. ``any_graph``: with or without a CUDA graph,
    for a model of which the paper prints nothing.
    """
    artifact = record.artifact
    protocol = record.protocol
    machine = record.machine
    latency = record.latency
    if (
        record.source not in ("protocol", MEAN)
        or artifact is None
        or protocol is None
        or machine is None
        or latency is None
    ):
        return False
    if GPU not in (machine.gpu or "").replace("-", " ").split() or not protocol.only_waits(wait_ms):
        return False
    if in_pytorch:
        return artifact.runtime.startswith("torch") and not latency.cuda_graph
    graph = join_key(record)[0] in WITH_GRAPH
    return (
        artifact.runtime.startswith("tensorrt")
        and artifact.precision == precision
        and (any_graph or latency.cuda_graph is graph)
    )
