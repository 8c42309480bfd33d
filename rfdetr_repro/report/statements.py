"""What the report says in words. Each sentence follows from the Records, the training log or the
summary of the run; none is printed by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rfdetr_repro.records.ap_intervals import with_range
from rfdetr_repro.records.pareto import Confirmed
from rfdetr_repro.records.record import (
    FINE_TUNING,
    MEAN,
    NEVER_TRAINED,
    TUNED,
    Latency,
    Record,
    ScoredRecord,
)
from rfdetr_repro.spec.metrics import milliseconds, percent, plural
from rfdetr_repro.tables.campaign import SYNTHETIC
from rfdetr_repro.tables.intervals import not_told_apart

from .run import Run

NAMED = 4  # names in one list
Rated = tuple[Confirmed, ScoredRecord]  # a file, and its AP on val
# sources with sentences of their own
STATED_BY_KIND = ("search", "protocol", "engine", "cost", MEAN)


def about(run: Run) -> str:
    """The report's first paragraph."""
    records = [record for record in run.records if record.published is None]
    sentences = ["This report was generated from the files in the folder of the run."]
    if not run.records:
        sentences.append("The folder holds no measurements.")
    for part in (
        _training(run),
        _search(run, records),
        _measured(records),
        _after(records),
        _other(run.records),
    ):
        sentences += part
    return " ".join(sentences)


def footer(records: Sequence[Record]) -> str:
    """Which images the APs of the report were measured on, for the foot of every page."""
    rated = [record for record in records if record.published is None and scored(record)]
    names = {record.data.name: record.data.synthetic for record in rated if record.data is not None}
    if not names:
        return (
            "This run holds no measured accuracy."
            if not rated
            else "The Records do not name the images that AP was measured on."
        )
    if all(names.values()):
        return SYNTHETIC
    real = ", ".join(sorted(name for name, composed in names.items() if not composed))
    composed = ", ".join(sorted(name for name, composed in names.items() if composed))
    text = f"AP was measured on {real}."
    return (
        f"{text} AP on {composed} is AP on composed (synthetic) images: it is not COCO AP."
        if composed
        else text
    )


def headline(run: Run) -> list[list[tuple[str, str]]]:
    """For every data set with a rated file, names and values about the file with the highest AP on
    val; which other files cannot be told apart from that file is part of them.
    """
    by_data: dict[str, list[Rated]] = {}
    for point in run.points:
        rated = point.on("val")
        if rated is not None and (with_ap := ScoredRecord.of(rated)) is not None:
            name = rated.data.name if rated.data else "unnamed images"
            by_data.setdefault(name, []).append((point, with_ap))
    return [_headline(name, points, len(by_data) > 1) for name, points in by_data.items()]


def scored(record: Record) -> bool:
    """Whether the Record holds an AP of boxes or masks."""
    return record.accuracy is not None or record.mask_accuracy is not None


def _training(run: Run) -> list[str]:
    steps = [row["step"] for row in run.log if isinstance(row.get("step"), int)]
    return (
        [f"The folder holds the log of a training run up to step {max(steps):,}."] if steps else []
    )


def _search(run: Run, records: Sequence[Record]) -> list[str]:
    """One sentence per supernet and data set; the size of the space only where the summary tells
    it.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.source == "search" and record.model.variant != NEVER_TRAINED and scored(record):
            data = f"{record.data.name} {record.data.split}" if record.data else "unnamed images"
            groups.setdefault((record.model.checkpoint_sha256 or "", data), []).append(record)
    whole = run.part("search").get("configurations")
    sentences = []
    for (checkpoint, data), found in groups.items():
        count = len({record.model.arch for record in found})
        of = (
            f" of {whole:,}"
            if len(groups) == 1 and isinstance(whole, int) and whole >= count
            else ""
        )
        one = count == 1 and not of
        weights = f"of one supernet ({checkpoint[:8]}) " if checkpoint else ""
        sentence = (
            f"{count:,}{of} configuration{'' if one else 's'} {weights}"
            f"{'was' if count == 1 else 'were'} evaluated on {data} with shared weights"
        )
        if any(
            record.latency is not None and record.latency.method == "modelled" for record in found
        ):
            latency = "its latency is" if count == 1 else "their latencies are"
            sentence += f"; {latency} modelled, not measured"
        sentences.append(f"{sentence}.")
    return sentences


def _measured(records: Sequence[Record]) -> list[str]:
    """What was measured on files, by what their Records hold: AP, latency, both."""
    own = [
        record
        for record in records
        if record.source == "protocol" and record.artifact is not None and not _tuned(record)
    ]
    files: dict[str, list[Record]] = {}
    for record in own:
        files.setdefault(record.artifact.sha256, []).append(record)  # type: ignore[union-attr]
    return [*_files(files), *_modes(own), *_boxes_alone(own)]


def _files(files: dict[str, list[Record]]) -> list[str]:
    kinds = Counter(
        (any(map(scored, found)), any(record.latency is not None for record in found))
        for found in files.values()
    )
    sentences = []
    if both := kinds[True, True]:
        sentences.append(
            f"For {plural(both, 'model file')}, AP and latency were measured on the same file, "
            f"identified by its SHA-256."
        )
    if latency := kinds[False, True]:
        random = sum(
            all(record.model.weights == "random" for record in found)
            for found in files.values()
            if not any(map(scored, found))
        )
        one = (
            "the weights are random" if latency == 1 else f"{random:,} of them with random weights"
        )
        text = f" ({one})" if random else ""
        sentences.append(f"For {plural(latency, 'file')}, only latency was measured{text}.")
    if accuracy := kinds[True, False]:
        sentences.append(f"For {plural(accuracy, 'file')}, only AP was measured.")
    return sentences


def _modes(own: Sequence[Record]) -> list[str]:
    timed = [
        record.protocol
        for record in own
        if record.protocol is not None and record.latency is not None
    ]
    sentences = []
    if modes := sorted({protocol.rhythm for protocol in timed}):
        word = "this mode" if len(modes) == 1 else "these modes"
        sentences.append(f"Latency was measured in {word}: {', '.join(modes)}.")
    machines = {record.machine for record in own if record.machine and record.latency}
    if len(machines) > 1:
        sentences.append(
            f"The latencies come from {len(machines)} machines; no frontier mixes two of them."
        )
    unusual = sum(record.protocol is not None and not record.protocol.usual for record in own)
    if unusual:
        one = unusual == 1
        sentences.append(
            f"{plural(unusual, 'Record')} of a mode other than the usual buffered and sustained "
            f"modes {'is' if one else 'are'} part of no frontier."
        )
    return sentences


def _boxes_alone(own: Sequence[Record]) -> list[str]:
    rated = [record for record in own if scored(record)]
    if not rated or any(record.mask_accuracy for record in rated):
        return []
    return ["AP is box AP; masks were not evaluated."]


def _after(records: Sequence[Record]) -> list[str]:
    sentences = []
    tuned = {
        record.artifact.sha256
        for record in records
        if record.model.variant == TUNED and record.artifact
    }
    if tuned:
        verb = "was" if len(tuned) == 1 else "were"
        sentences.append(f"{plural(len(tuned), 'fine-tuned file')} {verb} measured as well.")
    fresh = {
        record.model.arch
        for record in records
        if record.model.variant == NEVER_TRAINED and record.accuracy
    }
    if fresh:
        one = len(fresh) == 1
        patch = "a patch size that was" if one else "patch sizes that were"
        sentences.append(
            f"{plural(len(fresh), 'configuration')} with {patch} not used in training "
            f"{'was' if one else 'were'} evaluated."
        )
    return sentences


def _other(records: Sequence[Record]) -> list[str]:
    means = sum(record.source == MEAN for record in records)
    counts = sum(record.source == "cost" for record in records)
    engines = sum(record.source == "engine" for record in records)
    published = sum(record.published is not None for record in records)
    others = Counter(
        record.source
        for record in records
        if record.published is None and record.source not in STATED_BY_KIND
    )
    sentences = [
        f"{plural(number, 'Record')} {'comes' if number == 1 else 'come'} from another source: "
        f"{source}."
        for source, number in sorted(others.items())
    ]
    if engines:
        verb = "holds the latency" if engines == 1 else "hold latencies"
        sentences.append(
            f"{plural(engines, 'Record')} {verb} of {'an engine' if engines == 1 else 'engines'} "
            f"measured for the latency model."
        )
    if means:
        verb = "is a mean" if means == 1 else "are means"
        sentences.append(f"{plural(means, 'Record')} {verb} over several data sets.")
    if counts:
        verb = "counts" if counts == 1 else "count"
        sentences.append(f"{plural(counts, 'Record')} {verb} parameters or operations.")
    if published:
        verb = "holds" if published == 1 else "hold"
        sentences.append(
            f"{plural(published, 'Record')} {verb} published numbers, which were not measured here."
        )
    return sentences


def _tuned(record: Record) -> bool:
    return record.campaign == FINE_TUNING or record.model.variant == TUNED


def _headline(data: str, rated: Sequence[Rated], several: bool) -> list[tuple[str, str]]:
    best, chosen = max(rated, key=lambda pair: pair[1].ap)
    pairs = [("data set", data)] if several else []
    pairs.append(("highest AP on val", name_of(best)))
    others = [pair for pair in rated if pair[0].sha256 != best.sha256]
    if said := _established(chosen.record, others):
        pairs.append(("certainty", said))
    for split, record in ((split, best.on(split)) for split in ("val", "test")):
        pairs.append((f"{split} AP50 / AP", ap_words(record)))
    for mode, record in (("buffered", best.buffered), ("sustained", best.sustained)):
        if record is not None and record.latency is not None:
            pairs.append((f"latency, {mode} median", _latency_words(record.latency)))
    return [*pairs, ("file", f"SHA-256 {best.sha256[:16]}")]


def _established(chosen: Record, rated: Sequence[Rated]) -> str:
    """Which other files cannot be told apart from the best; empty for the only file."""
    others = {point.sha256: (point, with_ap.record) for point, with_ap in rated}
    if not others:
        return ""
    same, unknown = not_told_apart(chosen, [record for _, record in others.values()])
    sentences = []
    if same:
        names = [
            name_of(point)
            for point, record in others.values()
            if any(record is found for found in same)
        ]
        sentences.append(
            f"Not distinguishable from {_listed(names)}: the 95 % interval of the paired "
            f"difference in AP contains 0."
        )
    if unknown:
        sentences.append(
            f"Whether this file is better than {len(unknown)} of "
            f"{plural(len(others), 'other file')} is unknown: no results per image are stored."
        )
    if not sentences and len(others) == 1:
        sentences.append(
            "Better than the other file: the 95 % interval of the paired difference in AP lies "
            "above 0."
        )
    elif not sentences:
        sentences.append(
            f"Better than each of the {len(others)} other files: no 95 % interval of a paired "
            f"difference contains 0."
        )
    return (
        f"{' '.join(sentences)} The file was selected by this AP, so its AP on val is slightly "
        f"optimistic."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def name_of(point: Confirmed) -> str:
    """The architecture of a file, or the name of a model without one."""
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
