"""Cells and notes on the uncertainty of AP: its interval, and whether a row is significantly better
than the row before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rfdetr_repro.records.ap_intervals import Difference, paired
from rfdetr_repro.records.record import Accuracy, Record
from rfdetr_repro.spec.metrics import in_points, percent, percent_value

from .table import MEASURED, Cell

SAME = "≈"
UNKNOWN = "?"
UNKNOWN_INTERVAL = "unknown"


def interval_cell(accuracy: Accuracy | None) -> Cell:
    """A cell with the 95 % interval of AP in percent; "unknown" for an AP without an interval;
    empty without an AP; "no detections" where the model found nothing.
    """
    if accuracy is None or accuracy.ap is None:
        return Cell()
    if accuracy.detections == 0:
        return Cell("no detections")
    if accuracy.ap_low is None or accuracy.ap_high is None:
        return Cell(UNKNOWN_INTERVAL)
    return Cell(f"[{percent(accuracy.ap_low)}, {percent(accuracy.ap_high)}]", MEASURED)


def gain_cell(before: Record | None, record: Record | None, masks: bool = False) -> Cell:
    """A cell with the AP gained over ``before`` in points, marked ≈ where the order of the two is
    not established, and ? where that is unknown.
    """
    first, second = (
        None if side is None else side.mask_accuracy if masks else side.accuracy
        for side in (before, record)
    )
    if (
        before is None
        or record is None
        or first is None
        or second is None
        or first.ap is None
        or second.ap is None
    ):
        return Cell()
    difference = second.ap - first.ap
    text = f"{in_points(difference)}{mark(paired(before, record, masks))}"
    return Cell(text, MEASURED, percent_value(difference))


def change_interval_cell(before: Record, after: Record, masks: bool = False) -> Cell:
    """A cell with the 95 % interval of the paired difference of AP in points; empty where an AP is
    missing.
    """
    if not gain_cell(before, after, masks).text:
        return Cell()
    change = paired(before, after, masks)
    if change is None:
        return Cell(UNKNOWN_INTERVAL)
    return Cell(
        f"[{in_points(change.low)}, {in_points(change.high)}]"
        f"{'' if change.distinguishable else f' {SAME}'}",
        MEASURED,
    )


def mark(change: Difference | None) -> str:
    """The mark of a difference; "" where the difference is established."""
    return f" {UNKNOWN}" if change is None else "" if change.distinguishable else f" {SAME}"


def interval_notes(accuracies: Iterable[Accuracy | None], compared: bool = True) -> list[str]:
    """Notes on the intervals and on the marks of :func:`gain_cell`; ``compared``: whether the table
    has such cells.
    """
    known = [
        accuracy for accuracy in accuracies if accuracy is not None and accuracy.ap is not None
    ]
    ways = {way for accuracy in known if (way := _way(accuracy))}
    notes = []
    if ways:
        notes.append(
            f"AP's 95 % CI: over other images of the same kind, by {'; '.join(sorted(ways))}."
        )
    if any(accuracy.ap_low is None for accuracy in known):
        notes.append(
            "Where the CI is unknown, the Record keeps nothing per image: how far that AP is from "
            "others is not known either."
        )
    if compared:
        notes.append(
            f"gain: AP on val beyond the last row above that is on the front. {SAME}: the 95 % "
            f"interval of this paired difference over images contains 0, so which of the two is "
            f"better is not established; {UNKNOWN}: it is not known."
        )
    return notes


def _way(accuracy: Accuracy) -> str:
    resampled = accuracy.resampled
    if resampled is None:
        return "its data sets' intervals" if accuracy.ap_low is not None else ""
    if resampled.method == "bootstrap":
        return (
            f"{resampled.resamples} resamples of {resampled.images} images, seed {resampled.seed}"
        )
    return f"the influence of each of {resampled.images} images"


def not_told_apart(
    best: Record, others: Sequence[Record], masks: bool = False
) -> tuple[list[Record], list[Record]]:
    """The Records of ``others`` whose AP is not established to be lower than that of ``best``, and
    those for which that is unknown.
    """
    same = []
    unknown = []
    for other in others:
        change = paired(other, best, masks)
        if change is None:
            unknown.append(other)
        elif not change.low > 0:
            same.append(other)
    return same, unknown
