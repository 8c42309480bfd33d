"""Stores of Records side by side: is what was measured later faster?

python -m rfdetr_repro.bench.compare --old OLD1.jsonl OLD2.jsonl \
    --new NEW1.jsonl NEW2.jsonl [--fail-slower]
python -m rfdetr_repro.bench.compare OLD.jsonl NEW.jsonl --between-sessions 0.02

A file of a model that is measured again some minutes later differs by more than the samples of each
time tell. So a verdict needs several stores of a side, each measured in a session of its own, or
--between-sessions, the standard deviation between sessions that is known of the machine; else every
row is UNDECIDED. Rows are joined by request: model, runtime, precision, with or without a CUDA
graph, protocol. Verdicts come from the raw samples beside each store, so all must still have them.
Rows of different machines, or of a machine that is not known, are marked, and compared only with
--any-machine; rows of different data are never.
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
    """One request in both stores.

    ``verdict`` is about the new one; without it ``reason`` says why they are not compared.
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
    """Every request of the new stores, in order. Each store is a session; one that is not there is
    an :class:`InputError`.

    ``between``: known standard deviation of a median between sessions, as a part of it.
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
        both = [one for _, one in (*before, *after)]
        if data := _other_data([one for _, one in before], [one for _, one in after]):
            pairs.append(Pair(_name(record), None, data))
            continue
        moved = sorted(
            {_machine_words(one.machine) for one in both} - {_machine_words(earlier.machine)}
        )
        note = (
            f"{_machine_words(earlier.machine)} -> {', '.join(moved)}"
            if moved
            else _changes(earlier, record)
        )
        known = all(one.machine is not None and one.machine.cpu != "unknown" for one in both)
        if not any_machine and (moved or not known):
            reason = (
                "measured on another machine"
                if moved
                else "not known to be measured on one machine"
            )
            pairs.append(Pair(_name(record), None, reason, note))
            continue
        try:
            sides = [[_series(path, one) for path, one in side] for side in (after, before)]
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
    """What the old store has of the model instead."""
    others = [
        one for found in befores.values() for _, one in found if _model(one) == _model(record)
    ]
    if not others:
        return "not in the old store"
    names = dict.fromkeys(_how(one) for one in others)
    return f"not in the old store, which has the model by {' and by '.join(names)}"


def _other_data(olds: Sequence[Record], news: Sequence[Record]) -> str:
    """Why latencies of different pictures are not compared; an empty text where they are of the
    same.
    """
    before, after = (
        {one.data and (one.data.name, one.data.sha256) for one in side} for side in (olds, news)
    )
    if before & after:
        return ""
    names = [
        " and ".join(sorted(one[0] if one else "no data set" for one in side))
        for side in (before, after)
    ]
    return (
        f"measured on other data ({names[0]} -> "
        f"{names[1]}{', of other content' if names[0] == names[1] else ''})"
    )


def _sessions(stores: Path | Sequence[Path]) -> dict[Key, list[tuple[Path, Record]]]:
    """Request -> its Record in each store that has it; samples that stand in two stores are one
    session.
    """
    found: dict[Key, list[tuple[Path, Record]]] = {}
    for path in [stores] if isinstance(stores, Path) else stores:
        for key, record in _measured(path).items():
            known = {_samples_of(one) for _, one in found.get(key, [])}
            if _samples_of(record) is None or _samples_of(record) not in known:
                found.setdefault(key, []).append((path, record))
    return found


def _samples_of(record: Record) -> str | None:
    return None if record.latency is None else record.latency.samples_sha256


def _series(path: Path, record: Record) -> Series:
    if (sha256 := _samples_of(record)) is None:
        raise InputError("the Record names no raw samples", record.id)
    return load_samples(path.parent, sha256).counted


def _measured(path: Path) -> dict[Key, Record]:
    """Request -> Record; one request on several data splits is one measurement.

    The latest one counts.
    """
    if not path.is_file():
        raise InputError("no such store", path, "give a .jsonl file of Records")
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
    return model.family, model.name, model.task, model.size, model.variant, model.arch


def _name(record: Record) -> str:
    return f"{record.model.name} {_how(record)}"


def _how(record: Record) -> str:
    measured = record.as_measured()
    artifact = measured.artifact
    protocol = measured.protocol
    graph = " CUDA graph" if measured.graph else ""
    return f"{artifact.runtime} {artifact.precision}{graph} {protocol.rhythm} {protocol.scope}"


def _machine_words(machine: Machine | None) -> str:
    """What must be the same: the processor, which every run uses, and the GPU where there is
    one.
    """
    if machine is None:
        return "unknown machine"
    gpu = machine.gpu_uuid if machine.gpu == "unknown" else machine.gpu
    return f"{machine.cpu} with {gpu}" if gpu else machine.cpu


def _changes(before: Record, after: Record) -> str:
    """What else differs between the two, besides time."""
    old = before.as_measured().artifact
    new = after.as_measured().artifact
    told = []
    if old.options != new.options:
        told.append(f"{old.options or 'no options'} -> {new.options or 'no options'}")
    if old.onnx_sha256 != new.onnx_sha256:
        told.append(f"file {old.onnx_sha256[:8]} -> {new.onnx_sha256[:8]}")
    return "; ".join(told)
