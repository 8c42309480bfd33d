"""Compares stores of Records: are the later measurements faster?

python -m rfdetr_repro.bench.compare --old OLD1.jsonl OLD2.jsonl \
    --new NEW1.jsonl NEW2.jsonl [--fail-slower]
python -m rfdetr_repro.bench.compare OLD.jsonl NEW.jsonl --between-sessions 0.02

The latency of one file, measured again a few minutes later, differs by more than the samples of
each session show. A verdict therefore needs several stores on each side, each measured in a session
of its own, or --between-sessions, the machine's known standard deviation between sessions;
otherwise every row is UNDECIDED. Rows are joined by request: model, runtime, precision, CUDA graph
or not, protocol. Verdicts are computed from the raw samples next to each store, which must still be
there. Rows of different or unknown machines are marked, and compared only with --any-machine; rows
of different data are never compared.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below: the program loads them when it needs them
    from rfdetr_repro.spec.launch import Program

    Program("rfdetr_repro.bench.command.compare").run()

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rfdetr_repro.records.record import Machine, MeasuredRecord, Record
from rfdetr_repro.records.samples import Series, load_samples
from rfdetr_repro.records.statistics import Verdict, compare_sessions
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError

Key = tuple[object, ...]


class Pair(NamedTuple):
    """One measurement request in both stores.

    ``verdict`` compares the new measurement with the old; where it is None, ``reason`` says why the
    two are not compared.
    """

    name: str
    verdict: Verdict | None
    reason: str = ""
    note: str = ""


def compare_stores(
    old: Path | Sequence[Path],
    new: Path | Sequence[Path],
    *,
    any_machine: bool = False,
    margin: float = 0.01,
    between: float | None = None,
) -> list[Pair]:
    """Compares every request of the new stores, in order, with the old stores. Each store is a
    session.

    ``between``: known standard deviation of the median between sessions, as a fraction of the
    median. ``margin``: largest difference, as a fraction of the median, at which two rows are the
    SAME. Raises :class:`InputError` for a store that does not exist or holds no measured latency.
    """
    befores = _sessions(old)
    afters = _sessions(new)
    pairs = []
    for key, after in afters.items():
        record = after[-1][1]
        if (before := befores.get(key)) is None:
            pairs.append(Pair(_name(record), None, _why_not_there(record, befores)))
            continue
        earlier = before[-1][1]
        both = [record for _, record in (*before, *after)]
        if data := _other_data([record for _, record in before], [record for _, record in after]):
            pairs.append(Pair(_name(record), None, data))
            continue
        moved = sorted(
            {_machine_words(record.machine) for record in both} - {_machine_words(earlier.machine)}
        )
        note = (
            f"{_machine_words(earlier.machine)} -> {', '.join(moved)}"
            if moved
            else _changes(earlier, record)
        )
        known = all(
            record.machine is not None and record.machine.cpu != "unknown" for record in both
        )
        if not any_machine and (moved or not known):
            reason = (
                "measured on another machine"
                if moved
                else "not known to be measured on one machine"
            )
            pairs.append(Pair(_name(record), None, reason, note))
            continue
        try:
            sides = [[_series(path, record) for path, record in side] for side in (after, before)]
        except InputError as error:
            pairs.append(Pair(_name(record), None, str(error), note))
            continue
        pairs.append(
            Pair(_name(record), compare_sessions(*sides, margin=margin, between=between), note=note)
        )
    pairs += [
        Pair(_name(found[-1][1]), None, "not in the new store")
        for key, found in befores.items()
        if key not in afters
    ]
    return pairs


def _why_not_there(record: Record, befores: Mapping[Key, Sequence[tuple[Path, Record]]]) -> str:
    """Why a request is not in the old stores: they lack the model, or hold other measurements of
    it.
    """
    others = [
        other for found in befores.values() for _, other in found if _model(other) == _model(record)
    ]
    if not others:
        return "not in the old store"
    names = dict.fromkeys(_how(other) for other in others)
    return f"not in the old store, which has the model by {' and by '.join(names)}"


def _other_data(olds: Sequence[Record], news: Sequence[Record]) -> str:
    """The reason not to compare latencies that were measured on different data; "" where the data
    are the same.
    """
    before, after = (
        {record.data and (record.data.name, record.data.sha256) for record in side}
        for side in (olds, news)
    )
    if before & after:
        return ""
    names = [
        " and ".join(sorted(record[0] if record else "no data set" for record in side))
        for side in (before, after)
    ]
    return (
        f"measured on other data ({names[0]} -> "
        f"{names[1]}{', of other content' if names[0] == names[1] else ''})"
    )


def _sessions(stores: Path | Sequence[Path]) -> dict[Key, list[tuple[Path, Record]]]:
    """Request -> its Record in each store that has one; samples that two stores share count as one
    session.
    """
    found: dict[Key, list[tuple[Path, Record]]] = {}
    for path in [stores] if isinstance(stores, Path) else stores:
        for key, record in _measured(path).items():
            known = {_samples_of(record) for _, record in found.get(key, [])}
            if _samples_of(record) is None or _samples_of(record) not in known:
                found.setdefault(key, []).append((path, record))
    return found


def _samples_of(record: Record) -> str | None:
    return None if record.latency is None else record.latency.samples_sha256


def _series(path: Path, record: Record) -> Series:
    if (sha256 := _samples_of(record)) is None:
        raise InputError("the Record has no raw samples", record.id)
    return load_samples(path.parent, sha256).counted


def _measured(path: Path) -> dict[Key, Record]:
    """Request -> Record; a request on several data splits is one measurement, of which the latest
    Record counts.
    """
    if not path.is_file():
        raise InputError("the store does not exist", path, "give a .jsonl file of Records")
    records = [
        r
        for r in Store(path).read()
        if (view := MeasuredRecord.of(r)) is not None and view.latency.method == "measured"
    ]
    if not records:
        raise InputError(
            "no measured latencies in the store",
            path,
            "give the Records of a benchmark or a campaign",
        )
    return {_key(record): record for record in records}


def _key(record: Record) -> Key:
    measured = record.as_measured()
    return (
        record.source,
        *_model(record),
        measured.artifact.runtime,
        measured.artifact.precision,
        measured.graph,
        measured.protocol,
    )


def _model(record: Record) -> tuple[object, ...]:
    model = record.model
    named = (model.family, model.name, model.task, model.size, model.variant, model.arch)
    return *named, model.backbone


def _name(record: Record) -> str:
    return f"{record.model.name} {_how(record)}"


def _how(record: Record) -> str:
    measured = record.as_measured()
    artifact = measured.artifact
    protocol = measured.protocol
    graph = " CUDA graph" if measured.graph else ""
    return f"{artifact.runtime} {artifact.precision}{graph} {protocol.rhythm} {protocol.scope}"


def _machine_words(machine: Machine | None) -> str:
    """What must be equal for a comparison: the processor, and the GPU where there is one."""
    if machine is None:
        return "unknown machine"
    gpu = machine.gpu_uuid if machine.gpu == "unknown" else machine.gpu
    return f"{machine.cpu} with {gpu}" if gpu else machine.cpu


def _changes(before: Record, after: Record) -> str:
    """Other differences between two measurements: options of the runtime and the model file."""
    old = before.as_measured().artifact
    new = after.as_measured().artifact
    message = []
    if old.options != new.options:
        message.append(f"{old.options or 'no options'} -> {new.options or 'no options'}")
    if old.onnx_sha256 != new.onnx_sha256:
        message.append(f"file {old.onnx_sha256[:8]} -> {new.onnx_sha256[:8]}")
    return "; ".join(message)
