"""The printed cells of every table: rows of identified cells, each with its metric and with what a
Record needs to fill the cell.

A cell is one number that the camera-ready prints in a table. Labels, notes and columns that this
project derived are not cells, nor are places where the paper prints "-" or words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arch import KNOBS, Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import COCO_METRICS
from rfdetr_repro.spec.presets import NAMES_OF_LETTERS
from rfdetr_repro.spec.protocol import PAPER_WAIT_MS

from .published import (
    BUFFERS_MS,
    TABLES,
    architectures,
    column_of_knob,
    published_rows,
    published_table,
)

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
NAIVE = "naive FP16 export"  # the variant that a Record of Table 1's broken export must name
METRIC_LABELS = {
    "params_m": "Params M",
    "gflops": "GFLOPs",
    "latency_ms": "ms",
    **COCO_METRICS,
}


@dataclass(frozen=True)
class Slot:
    """A column of numbers: its name in the CSV, its ``metric`` and, where a table prints a metric
    several times, which of the columns it is.

    ``metric``: params, flops, ms, an item of :data:`COCO_METRICS`, or knob, fit and reported,
    which no Record of this suite fills.
    """

    column: str
    label: str
    metric: str
    group: str = ""
    precision: str = ""  # only files of this precision
    buffer_ms: float | None = None  # only buffered runs with this wait
    counter: str = ""  # only FLOPs of this counter
    variant: str = ""  # only Records that name this variant
    size: str = ""  # Table 11 has a column per size

    @property
    def accuracy(self) -> bool:
        """Whether the column holds an AP."""
        return self.metric in COCO_METRICS


@dataclass(frozen=True)
class Row:
    """A printed row: its cells by CSV column, and the model and data that the row is about."""

    table: str
    number: int  # 0-based line of the CSV
    printed: dict[str, str]
    identity: Record
    arch: Arch | None  # of an RF-DETR row of a single architecture

    def text(self, slot: Slot) -> str:
        """The printed number; empty if there is none."""
        text = self.printed.get(slot.column, "")
        return text if _NUMBER.fullmatch(text) else ""

    @property
    def delta(self) -> bool:
        """Whether the row's accuracies are printed as differences (Tables 15 and 16)."""
        return self.printed.get("ap_kind") == "delta"

    @property
    def label(self) -> str:
        """Name, size and variant of the row's model."""
        model = self.identity.model
        return " ".join(filter(None, (model.name, model.size, model.variant)))


def _standard() -> tuple[Slot, ...]:
    metrics = {"params_m": "params", "gflops": "flops", "latency_ms": "ms"}
    return tuple(
        Slot(column, label, metrics.get(column, column)) for column, label in METRIC_LABELS.items()
    )


def _buffered(precision: str) -> tuple[Slot, Slot]:
    upper = precision.upper()
    group = f"buffered {precision.upper()}"
    stem = f"buffered_{upper.lower()}"
    return (
        Slot(f"{stem}_ap", "AP", "ap", group, precision, PAPER_WAIT_MS),
        Slot(f"{stem}_latency_ms", "ms", "ms", group, precision, PAPER_WAIT_MS),
    )


STANDARD = _standard()
KNOB_SLOTS = tuple(
    Slot(column_of_knob(knob), knob.removeprefix("decoder_"), "knob") for knob in KNOBS
)
SLOTS: dict[str, tuple[Slot, ...]] = {
    "1": (
        Slot("reported_ap", "AP", "reported", "reported"),
        Slot("reported_latency_ms", "ms", "reported", "reported"),
        *_buffered("fp32"),
        *_buffered("fp16"),
        Slot("ap_fp16_naive_export", "AP", "ap", NAIVE, "fp16", variant=NAIVE),
    ),
    "7": KNOB_SLOTS + STANDARD,
    "8": KNOB_SLOTS + STANDARD,
    "9": (
        Slot("reported", "reported", "reported"),
        Slot("calflops", "calflops", "flops", counter="calflops"),
        Slot("flopcountermode", "FlopCounterMode", "flops", counter="flopcountermode"),
        Slot("onnx", "ONNX graph", "flops", counter="onnx"),
    ),
    "11": tuple(Slot(size.lower(), size, "ap", size=size) for size in ("S", "M", "L", "XL")),
    "v2_17": tuple(
        Slot(column, column.replace("_", " "), "fit")
        for column in ("slope", "intercept", "r_squared", "p_value", "std_error")
    ),
    "v2_20": (
        Slot("ap", "AP", "ap", precision="fp16"),
        *(
            Slot(f"latency_ms_buffer_{wait:g}", f"{wait:g} ms", "ms", "", "fp16", wait)
            for wait in BUFFERS_MS
        ),
    ),
}


def slots(table: str) -> tuple[Slot, ...]:
    """The columns of numbers of a table, in the table's order."""
    return SLOTS.get(table, STANDARD)


@functools.cache
def table_rows(table: str) -> tuple[Row, ...]:
    """The rows of a table as the camera-ready prints them. Raises :class:`InputError` for an
    unknown table.
    """
    if table not in TABLES:
        raise InputError(f"unknown table {table!r}", hint=f"choose one of {', '.join(TABLES)}")
    numbers = published_table(table).row_numbers
    rows = zip(numbers, published_rows(table), strict=True)
    return tuple(
        Row(table, number, printed, identity, _arch(identity))
        for number, (printed, identity) in rows
    )


def cells(table: str) -> Iterator[tuple[Row, Slot]]:
    """Every published cell of a table."""
    return ((row, slot) for row in table_rows(table) for slot in slots(table) if row.text(slot))


@functools.cache
def _size_params() -> dict[tuple[str, Arch], int]:
    found = {}
    for table in ("2", "3", "12", "13"):
        for row in table_rows(table):
            cost = row.identity.cost
            if row.arch is not None and cost is not None and cost.params is not None:
                found[row.identity.model.task, row.arch] = cost.params
    return found


def expected_params(row: Row) -> int | None:
    """Number of parameters that the paper prints for the row's model, in this table or, for the
    same architecture, in another table.
    """
    cost = row.identity.cost
    task = row.identity.model.task
    if cost is not None and cost.params is not None:
        return cost.params
    return _size_params().get((task, row.arch)) if row.arch is not None else None


def preset_name(row: Row) -> str:
    """The preset of an RF-DETR row with a size, e.g. ``seg-nano``; "" for any other row."""
    model = row.identity.model
    name = NAMES_OF_LETTERS.get((model.size or "").upper(), "")
    if row.arch is None or not name:
        return ""
    return f"seg-{name}" if model.task == "segment" else name


def _arch(identity: Record) -> Arch | None:
    """RF100-VL rows without a fixed architecture average over 100 data sets, each with its own."""
    model = identity.model
    data = identity.data
    if model.arch is not None or model.family != "rfdetr":
        return model.arch
    if (
        data is not None
        and not data.name.startswith("coco")
        and model.variant != "fixed architecture (coco)"
    ):
        return None
    return architectures().get((model.task, model.size or ""))
