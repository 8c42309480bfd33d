"""What figures read from a Record: numbers in the units of the axes, and words for titles."""

from __future__ import annotations

from rfdetr_repro.records.pareto import latency_mode
from rfdetr_repro.records.record import Record, ScoredRecord
from rfdetr_repro.spec.arch import Arch

from .style import drawable, shortened


def mode_of(record: Record) -> str:
    return latency_mode(record) or "unknown mode"


def arch_of(record: Record) -> Arch:
    return record.as_searched().arch


def ms_of(record: Record) -> float:
    return record.as_latency().ms


def has_ap(record: Record) -> bool:
    return ScoredRecord.of(record) is not None


def ap_percent(record: Record) -> float:
    return 100 * record.as_accuracy().ap


def data_name(record: Record) -> str:
    return record.data.name if record.data else ""


def data_words(record: Record) -> str:
    if record.data is None:
        return ""
    return (
        " (synthetic data: not COCO AP)"
        if record.data.synthetic
        else drawable(f" ({shortened(record.data.name, 40)})")
    )


def ap_label(record: Record) -> str:
    return "synthetic AP, %" if record.data and record.data.synthetic else "AP, %"
