"""What happened, in sentences that each follow from the Records, the log or the summary of the run;
none is said by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rfdetr_repro.records.record import FINE_TUNING, MEAN, NEVER_TRAINED, TUNED, Record
from rfdetr_repro.tables.campaign import SYNTHETIC

from .run import Run


def about(run: Run) -> str:
    """The report's first paragraph."""
    records = [record for record in run.records if record.published is None]
    sentences = [
        "This report was written by the program from what is stored in the folder of the run."
    ]
    if not run.records:
        sentences.append("No measurement is stored in it.")
    for part in (
        _training(run),
        _search(run, records),
        _measured(records),
        _after(records),
        _other(run.records),
    ):
        sentences += part
    sentences.append("Published numbers of the paper stand beside and are marked as published.")
    return " ".join(sentences)


def footer(records: Sequence[Record]) -> str:
    """Which images the APs of the report are of, for the foot of every page."""
    rated = [record for record in records if record.published is None and scored(record)]
    names = {record.data.name: record.data.synthetic for record in rated if record.data is not None}
    if not names:
        return (
            "This run holds no measured accuracy."
            if not rated
            else "The images of these APs are not named in the Records."
        )
    if all(names.values()):
        return SYNTHETIC
    real = ", ".join(sorted(name for name, composed in names.items() if not composed))
    composed = ", ".join(sorted(name for name, composed in names.items() if composed))
    told = f"AP was measured on {real}."
    return (
        f"{told} AP on {composed} is of composed (synthetic) images: it is not COCO AP."
        if composed
        else told
    )


def _training(run: Run) -> list[str]:
    steps = [row["step"] for row in run.log if isinstance(row.get("step"), int)]
    return (
        [f"The folder holds the log of a training run up to step {max(steps):,}."] if steps else []
    )


def _search(run: Run, records: Sequence[Record]) -> list[str]:
    """One sentence per supernet and data set; how many of the space only where the summary tells
    its size.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.source == "search" and record.model.variant != NEVER_TRAINED and scored(record):
            data = f"{record.data.name} {record.data.split}" if record.data else "unnamed images"
            groups.setdefault((record.model.checkpoint_sha256 or "", data), []).append(record)
    whole = run.part("search").get("configurations")
    sentences = []
    for (checkpoint, data), found in groups.items():
        archs = {record.model.arch for record in found}
        of = (
            f" of {whole:,}"
            if len(groups) == 1 and isinstance(whole, int) and whole >= len(archs)
            else ""
        )
        weights = f"of one supernet ({checkpoint[:8]}) " if checkpoint else ""
        sentence = (
            f"{len(archs):,}{of} configurations {weights}were evaluated on {data} with shared "
            f"weights"
        )
        if any(
            record.latency is not None and record.latency.method == "modelled" for record in found
        ):
            sentence += "; their latencies are modelled, not measured"
        sentences.append(f"{sentence}.")
    return sentences


def _measured(records: Sequence[Record]) -> list[str]:
    """What was measured from files, by what they hold: AP, latency, both."""
    own = [
        record
        for record in records
        if record.source == "protocol" and record.artifact is not None and not _tuned(record)
    ]
    files: dict[str, list[Record]] = {}
    for record in own:
        files.setdefault(record.artifact.sha256, []).append(record)  # type: ignore[union-attr]
    kinds = Counter(
        (any(map(scored, found)), any(record.latency is not None for record in found))
        for found in files.values()
    )
    sentences = []
    if both := kinds[True, True]:
        one = both == 1
        sentences.append(
            f"{_count(both, 'exported file')} {'has' if one else 'have'} both AP and latency, "
            f"measured from the same file, which is named by its SHA-256."
        )
    if latency := kinds[False, True]:
        random = sum(
            all(r.model.weights == "random" for r in found)
            for found in files.values()
            if not any(map(scored, found))
        )
        why = f", {random} of them with random weights" if random else ""
        sentences.append(f"Of {_count(latency, 'file')} latency alone was measured{why}.")
    if accuracy := kinds[True, False]:
        sentences.append(f"Of {_count(accuracy, 'file')} AP alone was measured.")
    modes = sorted(
        {
            record.protocol.rhythm
            for record in own
            if record.protocol is not None and record.latency is not None
        }
    )
    if modes:
        sentences.append(
            f"Latencies were taken in {'this mode' if len(modes) == 1 else 'these modes'}: "
            f"{', '.join(modes)}."
        )
    unusual = [
        record for record in own if record.protocol is not None and not record.protocol.usual
    ]
    if unusual:
        sentences.append(
            f"{_count(len(unusual), 'Record')} of another rhythm than these two, buffered and "
            f"sustained, are in no frontier."
        )
    rated = [record for record in own if scored(record)]
    if rated and not any(record.mask_accuracy for record in rated):
        sentences.append("AP is of boxes; masks were not measured.")
    return sentences


def _after(records: Sequence[Record]) -> list[str]:
    sentences = []
    if tuned := {
        record.artifact.sha256
        for record in records
        if record.model.variant == TUNED and record.artifact
    }:
        sentences.append(
            f"{_count(len(tuned), 'fine-tuned file')} {'is' if len(tuned) == 1 else 'are'} "
            f"measured beside."
        )
    if fresh := {
        record.model.arch
        for record in records
        if record.model.variant == NEVER_TRAINED and record.accuracy
    }:
        one = len(fresh) == 1
        patch = "a patch size" if one else "patch sizes"
        sentences.append(
            f"{_count(len(fresh), 'configuration')} of {patch} that training never drew "
            f"{'was' if one else 'were'} evaluated."
        )
    return sentences


def _other(records: Sequence[Record]) -> list[str]:
    sentences = []
    if means := [record for record in records if record.source == MEAN]:
        sentences.append(
            f"{_count(len(means), 'Record')} {'is a mean' if len(means) == 1 else 'are means'} "
            f"over several data sets."
        )
    if counts := [record for record in records if record.source == "cost"]:
        sentences.append(
            f"{_count(len(counts), 'Record')} {'counts' if len(counts) == 1 else 'count'} "
            f"parameters or operations."
        )
    if published := [record for record in records if record.published is not None]:
        one = len(published) == 1
        sentences.append(
            f"{_count(len(published), 'Record')} {'holds' if one else 'hold'} published numbers, "
            f"not measured here."
        )
    return sentences


def _tuned(record: Record) -> bool:
    return record.campaign == FINE_TUNING or record.model.variant == TUNED


def scored(record: Record) -> bool:
    """Whether the Record holds an AP of boxes or masks."""
    return record.accuracy is not None or record.mask_accuracy is not None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
