"""The output of the benchmark command: a table, verdicts on speed, the loss by FP16, failures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from rfdetr_repro.records.record import Accuracy, Latency, Record
from rfdetr_repro.records.samples import load_samples
from rfdetr_repro.records.statistics import Verdict, compare_series
from rfdetr_repro.spec.errors import InputError, shortened
from rfdetr_repro.spec.metrics import decimals, percent, share
from rfdetr_repro.spec.protocol import AP_GATES

# columns that a narrow terminal does without, in this order
DISPENSABLE = (
    "file",
    "weights",
    "n",
    "others",
    "throttled",
    "p99 ms",
    "suppression ms",
    "between builds",
    "p90 ms",
    "scope",
    "AP50",
    "missed",
    "file MB",
    "memory MB",
    "data",
)
# columns that a table has only where they tell rows apart, or are not the value given here
COMMON = {"precision": "fp32", "runtime": "", "threads": ""}
MEDIAN = "median ms (95 % CI in this session)"
SHORTER = {MEDIAN: "median ms (95 % CI)"}  # titles on a terminal
# characters of a name that stay on a terminal: beside intervals, and however narrow it is
SHORT_NAME = 18
LEAST_NAME = 10
EARLIER = " *"  # after the name of a row that an earlier command measured
HEADER = (
    "model",
    "precision",
    "runtime",
    "threads",
    "data",
    "AP",
    "AP50",
    "mask AP",
    "protocol",
    "scope",
    MEDIAN,
    "between builds",
    "p90 ms",
    "p99 ms",
    "suppression ms",
    "images/s",
    "memory MB",
    "file MB",
    "weights",
    "missed",
    "throttled",
    "others",
    "n",
    "file",
)

NOTHING = 0.005  # AP below which the file or the data must be wrong


def lines(
    records: Mapping[str, Sequence[Record]],
    failures: Mapping[str, Exception] | None = None,
    width: int | None = None,
) -> list[str]:
    """The lines of the table of Records, with AP in percent; "-" means not measured, "n/a" too few
    samples. A row that failed has its reason in place of numbers.

    Columns without any value are left out, and with ``width``, the number of characters of a line,
    also columns of DISPENSABLE, which a last line names.
    """
    rows = [HEADER] + [_cells(name, record) for name, found in records.items() for record in found]
    kept = [
        index for index, column in enumerate(zip(*rows, strict=True)) if index < 1 or _tells(column)
    ]
    titles = list(failures or {})
    left_out: list[str] = []
    if width is not None:
        kept, left_out = _narrowed(rows, kept, titles, width)
    widths = _widths(rows, titles)
    found = ["  ".join(row[index].ljust(widths[index]) for index in kept).rstrip() for row in rows]
    for title, failure in zip(titles, (failures or {}).values(), strict=True):
        found += _failed(title.ljust(widths[0]), failure, width)
    if left_out:
        note = f"left out on this narrow terminal: {', '.join(left_out)}; --wide prints them"
        found += textwrap.wrap(note, width or len(note))
    return found


def _tells(column: Sequence[str]) -> bool:
    """Whether a column, with its title first, says anything."""
    values = set(column[1:])
    if column[0] in COMMON and len(values) == 1:
        return COMMON[column[0]] not in ("", *values)
    return values != {"-"}


def _narrowed(
    rows: list[tuple[str, ...]], kept: list[int], titles: list[str], width: int
) -> tuple[list[int], list[str]]:
    """The columns that fit ``width``, and the titles of those that do not. Where that is not
    enough, ``rows`` and ``titles`` are shortened: the interval of images per second, the names, and
    last the interval of the latency.
    """
    rows[0] = tuple(SHORTER.get(name, name) for name in HEADER)
    left_out = []
    for name in DISPENSABLE:
        index = HEADER.index(name)
        if index in kept and _total(_widths(rows, titles), kept) > width:
            kept = [one for one in kept if one != index]
            left_out.append(name)
    for name, least in (("images/s", SHORT_NAME), (MEDIAN, LEAST_NAME)):
        index = HEADER.index(name)
        if index in kept and _total(_widths(rows, titles), kept) > width:
            for place, row in enumerate(rows):
                rows[place] = (*row[:index], row[index].partition(" (")[0], *row[index + 1 :])
            left_out.append(f"interval of {name.partition(' (')[0]}")
        excess = _total(_widths(rows, titles), kept) - width
        if excess > 0:
            longest = max(least, _widths(rows, titles)[0] - excess)
            rows[:] = [(shortened(row[0], longest, tail=4), *row[1:]) for row in rows]
            titles[:] = [shortened(title, longest, tail=4) for title in titles]
    return kept, left_out


def _widths(rows: Sequence[tuple[str, ...]], titles: Sequence[str]) -> list[int]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(HEADER))]
    widths[0] = max(widths[0], *map(len, titles), 0)
    return widths


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + 2 * (len(kept) - 1)


def _failed(name: str, failure: Exception, width: int | None) -> list[str]:
    """The row of a model that failed; its reason goes on below its beginning."""
    text = f"failed: {failure}"
    room = None if width is None else width - len(name) - 2
    parts = [text] if room is None or room < 20 else textwrap.wrap(text, room)
    return [f"{name}  {parts[0]}", *(f"{'':{len(name)}}  {part}" for part in parts[1:])]


def beside(
    records: Mapping[str, Sequence[Record]], stored: Sequence[Record]
) -> dict[str, list[Record]]:
    """Other rows of the store that can stand in the same table: measured by the same protocols on
    the same machine and data, by an earlier command. Their names end in EARLIER.
    """
    own = [record for found in records.values() for record in found]
    known = {record.id for record in own}
    wanted = {_where(record) for record in own}
    found: dict[str, list[Record]] = {}
    for record in stored:
        measured = record.source == "protocol" and record.latency is not None
        if measured and record.artifact and record.id not in known and _where(record) in wanted:
            name = " ".join(filter(None, (record.model.name, record.model.size)))
            found.setdefault(f"{name}{EARLIER}", []).append(record)
    return found


def _where(record: Record) -> tuple[object, ...]:
    data = record.data and (record.data.name, record.data.split, record.data.sha256)
    machine = record.machine and (record.machine.cpu, record.machine.gpu)
    return record.protocol, data, machine


def _cells(name: str, record: Record) -> tuple[str, ...]:
    measured = record.as_measured()
    latency = measured.latency
    protocol = measured.protocol
    artifact = measured.artifact
    return (
        name,
        artifact.precision,
        artifact.runtime,
        str(protocol.threads),
        "-" if record.data is None else f"{record.data.name}/{record.data.split}",
        _percent(record.accuracy, "ap"),
        _percent(record.accuracy, "ap50"),
        _percent(record.mask_accuracy, "ap"),
        protocol.rhythm,
        protocol.scope,
        f"{latency.median_ms:.2f} ({_interval(latency)})",
        "-" if latency.between_builds_ms is None else f"{latency.between_builds_ms:.2f}",
        "n/a" if latency.p90_ms is None else f"{latency.p90_ms:.2f}",
        "n/a" if latency.p99_ms is None else f"{latency.p99_ms:.2f}",
        "-" if latency.suppression_ms is None else f"{latency.suppression_ms:.2f}",
        _rate(latency),
        _megabytes(latency.peak_memory_bytes),
        _megabytes(artifact.size_bytes),
        "random" if record.model.weights == "random" else "-",
        "-" if latency.paced is None else f"{share(latency.paced.missed_share)}",
        _throttled(latency),
        _others(latency),
        str(latency.num_samples),
        artifact.sha256[:8],
    )


def _interval(latency: Latency) -> str:
    if latency.ci_low_ms is None or latency.ci_high_ms is None:
        return "n/a"
    return f"{latency.ci_low_ms:.2f}-{latency.ci_high_ms:.2f}"


def _megabytes(count: int | None) -> str:
    """Millions of bytes; "-" where they are not known."""
    return "-" if count is None else f"{count / 1e6:.1f}"


def _rate(latency: Latency) -> str:
    """Images per second with their interval; "-" where they are not measured."""
    if latency.images_per_s is None:
        return "-"
    text = f"{latency.images_per_s:.1f}"
    if latency.images_per_s_low is None or latency.images_per_s_high is None:
        return text
    return f"{text} ({latency.images_per_s_low:.1f}-{latency.images_per_s_high:.1f})"


def _throttled(latency: Latency) -> str:
    """Whether the GPU throttled; "-" where no GPU is watched."""
    return "-" if latency.throttled == "unknown" else latency.throttled.partition(":")[0]


def _others(latency: Latency) -> str:
    """Other programs that were seen on the GPU; "-" where no GPU is watched."""
    if latency.gpu is None:
        return "-"
    return "unknown" if latency.gpu.other_programs is None else str(latency.gpu.other_programs)


def _percent(accuracy: Accuracy | None, metric: str) -> str:
    """AP in percent; "-" where not measured, and a remark where there were no detections."""
    value = getattr(accuracy, metric, None)
    if accuracy is None or value is None:
        return "-"
    nothing = " (no detections)" if accuracy.detections == 0 and metric == "ap" else ""
    return f"{percent(value)}{nothing}"


def wrapped(output: Sequence[str], width: int | None) -> list[str]:
    """Lines of at most ``width`` characters; a line that goes on is indented."""
    if width is None:
        return list(output)
    return [
        part
        for line in output
        for part in textwrap.wrap(
            line, width, subsequent_indent="    ", drop_whitespace=True, break_on_hyphens=False
        )
        or [""]
    ]


def verdict_line(first: str, second: str, verdict: Verdict) -> str:
    """One line that compares ``first`` with ``second``: the verdict, the difference in ms and its
    95 % interval.
    """
    joint = {"SAME": "as", "UNDECIDED": "against"}.get(verdict.word, "than")
    interval = "no interval"
    if verdict.interval_ms is not None:
        interval = f"{verdict.interval_ms.low:+.3f} to {verdict.interval_ms.high:+.3f}"
    reason = f": {verdict.reason}" if verdict.reason else ""
    return (
        f"{first}: {verdict.word} {joint} {second}, {verdict.difference_ms:+.3f} ms "
        f"({interval}){reason}"
    )


def instrument_lines(records: Mapping[str, Sequence[Record]]) -> list[str]:
    """Lines on A/A measurements: the error of the measurement itself, from files that were measured
    twice.
    """
    output = []
    for name, found in records.items():
        for record in found:
            if (
                record.latency is not None
                and record.latency.itself is not None
                and record.protocol is not None
            ):
                output.append(
                    f"A/A, {name} twice, {record.protocol.rhythm}: {record.latency.itself.told}"
                )
    return list(dict.fromkeys(output))


def verdicts(records: Mapping[str, Sequence[Record]], folder: Path) -> list[str]:
    """Lines that compare every model with the fastest model of the same protocol, by the raw
    samples in ``folder``.
    """
    output = []
    protocols = dict.fromkeys(record.protocol for found in records.values() for record in found)
    counts = {protocol.threads for protocol in protocols if protocol is not None}
    for protocol in protocols:
        rows = {name: _first(found, protocol) for name, found in records.items()}
        latencies = {
            name: record.latency for name, record in rows.items() if record and record.latency
        }
        if len(latencies) < 2 or protocol is None:
            continue
        fastest = min(latencies, key=lambda name: latencies[name].median_ms)
        threads = f", {protocol.threads} threads" if len(counts) > 1 else ""
        output.append(f"{protocol.rhythm}{threads}:")
        for name in latencies:
            if name != fastest:
                output.append("  " + _against(name, fastest, latencies, folder))
    return output


def _first(records: Sequence[Record], protocol: object) -> Record | None:
    return next((record for record in records if record.protocol == protocol), None)


def _against(name: str, other: str, latencies: Mapping[str, Latency], folder: Path) -> str:
    try:
        pair = [load_samples(folder, latencies[key].samples_sha256 or "") for key in (name, other)]
    except InputError as error:
        return f"{name}: not compared with {other} ({error})"
    sessions = [latencies[key].session for key in (name, other)]
    verdict = compare_series(*(series.counted for series in pair))
    if None in sessions or sessions[0] != sessions[1]:
        output = "not measured in one session, and sessions differ by more than their samples show"
        verdict = Verdict(
            "UNDECIDED", latencies[name].median_ms - latencies[other].median_ms, None, output
        )
    return verdict_line(name, other, verdict)


def gate(
    records: Mapping[str, Sequence[Record]], limit_points: float | None = None
) -> tuple[list[str], list[str]]:
    """Compares every smaller precision with FP32, of each model, split and runtime: all lines, and
    the lines of those that lose more than ``limit_points`` AP (None: the limits of AP_GATES).
    """
    scored: dict[tuple[object, ...], dict[str, float]] = {}
    for found in records.values():
        for record in found:
            # mask AP where it is known, because a split may hold no masks
            kinds = (record.mask_accuracy, record.accuracy)
            accuracy = next((one for one in kinds if one is not None and one.ap is not None), None)
            if accuracy is not None and accuracy.ap is not None and record.artifact and record.data:
                # several sizes share a name
                shown = " ".join(filter(None, (record.model.name, record.model.size)))
                key = (shown, record.data.name, record.data.split, record.artifact.runtime)
                scored.setdefault(key, {})[record.artifact.precision] = 100 * accuracy.ap
    several = len({key[-1] for key in scored}) > 1
    output = []
    failed = []
    for (name, *_, runtime), points in scored.items():
        if "fp32" not in points:
            continue
        where = f" on {runtime}" if several else ""
        for precision, default in AP_GATES.items():
            if precision not in points:
                continue
            limit = default if limit_points is None else limit_points
            lost = points["fp32"] - points[precision] > limit
            output.append(
                f"{name}{where}: {precision.upper()} {decimals(points[precision], 1)} AP, FP32 "
                f"{decimals(points['fp32'], 1)}, {'lost more than' if lost else 'within'} {limit:g}"
            )
            failed += output[-1:] if lost else []
    return output, failed


def hints(records: Mapping[str, Sequence[Record]]) -> list[str]:
    """Hints for a file that detects nothing, and for an adopted file whose AP is close to 0, which
    may have been read wrongly.
    """
    output = []
    for name, found in records.items():
        for record in found:
            ap = record.accuracy.ap if record.accuracy else None
            if record.accuracy is not None and record.accuracy.detections == 0:
                output.append(
                    f"hint: {name}: the model detected nothing on any image, so that its AP is not "
                    f"a measure of how well it detects. Check its export, its score threshold and "
                    f"the names of its classes."
                )
            if ap is not None and ap < NOTHING and record.adoption:
                taken = "; ".join(f"{key} {value}" for key, value in record.adoption.items())
                line = (
                    f"hint: {name}: AP {percent(ap)}. The file was read as: {taken}. If one of "
                    f"these is wrong, give --form, "
                )
                line += (
                    "--boxes, --classes, --resize or --normalise; are these the data the model was "
                    "trained on?"
                )
                output.append(line)
    return list(dict.fromkeys(output))
