"""Values that figures read from Records: numbers in the units of the axes, and words for titles."""

from __future__ import annotations

from rfdetr_repro.records.pareto import latency_mode
from rfdetr_repro.records.record import Record, ScoredRecord
from rfdetr_repro.spec.arch import Arch

from .style import drawable, shortened


def mode_of(record: Record) -> str:
    """The latency mode of a Record, or "unknown mode"."""
    return latency_mode(record) or "unknown mode"


def arch_of(record: Record) -> Arch:
    """The architecture of a searched Record."""
    return record.as_searched().arch


def ms_of(record: Record) -> float:
    """The latency in ms."""
    return record.as_latency().ms


def has_ap(record: Record) -> bool:
    """Whether the Record has an AP."""
    return ScoredRecord.of(record) is not None


def ap_percent(record: Record) -> float:
    """The AP in percent."""
    return 100 * record.as_accuracy().ap


def data_name(record: Record) -> str:
    """The name of the data set, or ""."""
    return record.data.name if record.data else ""


def data_words(record: Record) -> str:
    """The data set in parentheses, for a title; synthetic data are marked."""
    if record.data is None:
        return ""
    return (
        " (synthetic data: not COCO AP)"
        if record.data.synthetic
        else drawable(f" ({shortened(record.data.name, 40)})")
    )


def ap_label(record: Record) -> str:
    """The label of an AP axis; synthetic data are marked."""
    return "synthetic AP, %" if record.data and record.data.synthetic else "AP, %"
