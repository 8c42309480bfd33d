"""Recomputes the medians and intervals of a store from its raw samples and compares them with the
Records.

python -m rfdetr_repro.bench.intervals results/embedded.jsonl

The command prints one line per latency with the stored and the computed value, and "equal" or
"different". The exit code is 1 if a latency is different, or if its samples are lost or altered.
Latencies of older versions name no interval method, because theirs was another method; both
intervals are shown. Published and modelled latencies, and latencies whose samples were not kept,
are only counted.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below: the program loads them when it needs them
    from rfdetr_repro.spec.launch import Program

    Program("rfdetr_repro.bench.command.intervals").run()

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rfdetr_repro.records.record import Latency, PartTime, Record
from rfdetr_repro.records.samples import load_samples
from rfdetr_repro.records.statistics import median_of
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError

from .twin import stored_twin

# relative tolerance: logarithms and exponentials of other libraries differ in the last digits
TOLERANCE = 1e-9


class Line(NamedTuple):
    """``word``: "equal", "different", "older method", "lost" or "no samples"."""

    word: str
    name: str
    text: str = ""


def recompute(path: Path) -> list[Line]:
    """A :class:`Line` for every latency of the store, and for every part of a latency.

    Raises :class:`InputError` if the store does not exist.
    """
    if not path.is_file():
        raise InputError("the store does not exist", path, "give a .jsonl file of Records")
    lines = []
    for record in Store(path).read():
        if record.latency is not None:
            lines.append(_line(path.parent, record, record.latency))
            lines += _part_lines(path.parent, record, record.latency)
    return lines


def _name(record: Record) -> str:
    split = f" {record.data.split}" if record.data else ""
    return f"{record.model.name} {record.protocol.rhythm if record.protocol else ''}{split}"


def _part_lines(folder: Path, record: Record, latency: Latency) -> Iterator[Line]:
    for frame in latency.parts or ():
        for part in ("decoding", "preprocessing", "network", "postprocessing"):
            found: PartTime | None = getattr(frame, part)
            if found is not None:
                name = f"{_name(record)}, {part} of {frame.height}x{frame.width}"
                yield _part_line(folder, name, found)


def _part_line(folder: Path, name: str, part: PartTime) -> Line:
    if part.samples_sha256 is None:
        return Line("no samples", name)
    try:
        series = load_samples(folder, part.samples_sha256)
        found = median_of(series)
    except InputError as error:
        return Line("lost", name, str(error))
    computed = (found.ms, *(found.interval or (None, None)))
    stored = (part.median_ms, part.low_ms, part.high_ms)
    text = f"{_shown(stored)} stored, {_shown(computed)} from {len(series.ms)} samples"
    return Line("equal" if all(map(_close, stored, computed)) else "different", name, text)


def _line(folder: Path, record: Record, latency: Latency) -> Line:
    name = _name(record)
    if latency.samples_sha256 is None:
        return Line("no samples", name)
    try:
        series = load_samples(folder, latency.samples_sha256).counted
        found = median_of(series)
        twin = stored_twin(folder, latency)
    except InputError as error:
        return Line("lost", name, str(error))
    computed = (found.ms, *(found.interval or (None, None)))
    stored = (latency.median_ms, latency.ci_low_ms, latency.ci_high_ms)
    text = f"{_shown(stored)} stored, {_shown(computed)} from {len(series.ms)} samples"
    equal = all(map(_close, stored, computed)) and latency.num_samples == len(series.ms)
    if latency.itself is not None and twin is not None:
        text += f"; A/A {latency.itself.told} stored, {twin.told} computed"
        equal = (
            equal
            and twin.verdict == latency.itself.verdict
            and _close(twin.difference, latency.itself.difference)
        )
        equal = (
            equal
            and _close(twin.low, latency.itself.low)
            and _close(twin.high, latency.itself.high)
        )
    if latency.interval is None and _close(stored[0], computed[0]):
        return Line("older method", name, text)
    return Line("equal" if equal else "different", name, text)


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-12)


def _shown(numbers: tuple[float | None, ...]) -> str:
    median, low, high = numbers
    interval = "no interval" if low is None or high is None else f"{low:.4f} to {high:.4f}"
    return f"{median:.4f} ms ({interval})"
