"""AP of a configuration in the search (PyTorch) compared with AP of its confirmed file, and a
sentence about differences.

Both count the same detections of the same images by the same rule
(:data:`rfdetr_repro.records.record.AP_RULE`). The file sums its products in another order, or in
half precision, so a score may change in its last digits, and a rank with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rfdetr_repro.spec.metrics import percent

from .pareto import METRICS
from .record import AP_RULE, Record

KINDS = ("ap", "mask_ap")


@dataclass(frozen=True)
class Gap:
    """Difference of an AP of one configuration between search and confirmed file, as fractions."""

    arch: str  # its key
    kind: str  # "ap" or "mask_ap"
    searched: float
    confirmed: float
    precision: str  # of the file: "fp32", "fp16"

    @property
    def points(self) -> float:
        """Confirmed minus searched, in percentage points, not rounded."""
        return 100 * (self.confirmed - self.searched)


def ap_gaps(records: Iterable[Record]) -> list[Gap]:
    """One Gap per confirmed file and kind of AP for which ``records`` hold a search Record with the
    same weights and images.
    """
    records = list(records)
    searched = {
        _subject(record): record
        for record in records
        if record.source == "search" and _ruled(record)
    }
    gaps = {}
    for record in records:
        before = (
            searched.get(_subject(record))
            if record.source == "protocol" and _ruled(record)
            else None
        )
        if before is None or record.model.arch is None or record.artifact is None:
            continue
        for kind in KINDS:
            low = METRICS[kind].value(before)
            high = METRICS[kind].value(record)
            if low is not None and high is not None:
                gap = Gap(record.model.arch.key, kind, low, high, record.artifact.precision)
                gaps[record.artifact.sha256, record.artifact.runtime, kind] = gap
    return list(gaps.values())


def _ruled(record: Record) -> bool:
    return record.accuracy is not None and record.accuracy.rule == AP_RULE


def _subject(record: Record) -> tuple[object, ...]:
    data = record.data and (record.data.sha256, record.data.split)
    return record.model.arch, record.model.checkpoint_sha256, data


def describe_gaps(gaps: list[Gap]) -> str:
    """One sentence; empty where no configuration was both searched and confirmed."""
    if not gaps:
        return ""
    apart = [gap for gap in gaps if gap.searched != gap.confirmed]
    if not apart:
        return (
            f"AP in the search and of the confirmed file is the same to the last bit ({len(gaps)} "
            f"values)."
        )
    worst = max(apart, key=lambda gap: abs(gap.points))
    half = any(gap.precision != "fp32" for gap in apart)
    reason = "the files are not float32" if half else "float32 sums in another order"
    name = METRICS[worst.kind].name
    return (
        f"AP in the search and of the confirmed file differs for {len(apart)} of {len(gaps)} "
        f"values, by at most {abs(worst.points):.2g} points ({worst.arch}: {name} "
        f"{percent(worst.searched, digits=2)} in the search, "
        f"{percent(worst.confirmed, digits=2)} of the file): {reason}."
    )
