"""The report's headline: of each data set the file with the highest AP on val, and how far that is
established.
"""

from __future__ import annotations

from collections.abc import Sequence

from rfdetr_repro.records.ap_intervals import with_range
from rfdetr_repro.records.pareto import Confirmed
from rfdetr_repro.records.record import Latency, Record, ScoredRecord
from rfdetr_repro.spec.metrics import milliseconds, percent
from rfdetr_repro.tables.intervals import not_told_apart

from .blocks import Block, Facts, Paragraph
from .run import Run

NAMED = 4  # names in one list
Rated = tuple[Confirmed, ScoredRecord]  # a file, and its AP on val


def headline(run: Run) -> list[Block]:
    """Facts of every data set with a rated file; which others are not told apart from it is part of
    them.
    """
    by_data: dict[str, list[Rated]] = {}
    for point in run.points:
        rated = point.on("val")
        if rated is not None and (scored := ScoredRecord.of(rated)) is not None:
            name = rated.data.name if rated.data else "unnamed images"
            by_data.setdefault(name, []).append((point, scored))
    if not by_data:
        return [Paragraph("A file with AP measured on a val split: not in this run.", quiet=True)]
    return [Facts(_facts(name, points, len(by_data) > 1)) for name, points in by_data.items()]


def _facts(data: str, rated: Sequence[Rated], several: bool) -> list[tuple[str, str]]:
    best, chosen = max(rated, key=lambda pair: pair[1].ap)
    pairs = [("data set", data)] if several else []
    pairs.append(("highest AP on val", _name(best)))
    others = [pair for pair in rated if pair[0].sha256 != best.sha256]
    if said := _established(chosen.record, others):
        pairs.append(("how sure", said))
    for split, record in ((split, best.on(split)) for split in ("val", "test")):
        pairs.append((f"{split} AP50 / AP", ap_words(record)))
    for mode, record in (("buffered", best.buffered), ("sustained", best.sustained)):
        if record is not None and record.latency is not None:
            pairs.append((f"latency, {mode} median", _latency_words(record.latency)))
    return [*pairs, ("file", f"SHA-256 {best.sha256[:16]}")]


def _established(chosen: Record, rated: Sequence[Rated]) -> str:
    """Which other files are not told apart from the best; empty for the only file."""
    others = {point.sha256: (point, scored.record) for point, scored in rated}
    if not others:
        return ""
    same, unknown = not_told_apart(chosen, [record for _, record in others.values()])
    sentences = []
    if same:
        names = [
            _name(point)
            for point, record in others.values()
            if any(record is found for found in same)
        ]
        sentences.append(
            f"not told apart from {_listed(names)}: the 95 % interval of the paired difference of "
            f"AP holds 0."
        )
    if unknown:
        sentences.append(
            f"Whether it is better than {len(unknown)} of {len(others)} other files is not known: "
            f"nothing is stored per image."
        )
    if not sentences:
        if len(others) == 1:
            sentences.append(
                "Better than the other file: the 95 % interval of the paired difference of AP lies "
                "above 0."
            )
        else:
            sentences.append(
                f"Better than each of the {len(others)} other files: no 95 % interval of a paired "
                f"difference holds 0."
            )
    text = " ".join(sentences)
    return (
        f"{text[0].upper()}{text[1:]} It was chosen by this AP, which makes its AP on val a little "
        f"too high."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def _name(point: Confirmed) -> str:
    return point.arch.key if point.arch else point.any.model.name


def _latency_words(latency: Latency) -> str:
    interval = ""
    if latency.ci_low_ms is not None and latency.ci_high_ms is not None:
        interval = f" [{milliseconds(latency.ci_low_ms)}, {milliseconds(latency.ci_high_ms)}]"
    count = f", {latency.num_samples} samples" if latency.num_samples else ""
    return f"{milliseconds(latency.median_ms)} ms{interval}{count}"


def ap_words(record: Record | None) -> str:
    """AP50 and AP of boxes with its interval, then of masks, as printed; "not measured" without."""
    if record is None or record.accuracy is None:
        return "not measured"
    kind = " (synthetic)" if record.data and record.data.synthetic else ""
    known = record.accuracy.ap_low is not None
    sure = "" if known or record.accuracy.ap is None else ", interval unknown"
    masks = record.mask_accuracy
    mask_words = (
        f"; masks {percent(masks.ap50)} / {with_range(masks)}"
        if masks and masks.ap is not None
        else ""
    )
    return (
        f"{percent(record.accuracy.ap50) or 'n/a'} / "
        f"{with_range(record.accuracy)}{kind}{sure}{mask_words}"
    )
