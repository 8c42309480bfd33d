"""Two stores of Records side by side: is what was measured later faster?

python -m rfdetr_repro.bench.compare OLD.jsonl NEW.jsonl [--fail-slower]

Rows are joined by request: model, runtime, precision, with or without a CUDA graph, protocol. Verdicts come from the raw samples
beside each store, so both must still have them. Rows of different machines are marked, and compared only with --any-machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError, StatedFailure, run_main
from ..record import Machine, Record
from ..store import Store
from .printing import verdict_line
from .samples import load_samples
from .statistics import Verdict, compare_series

Key = tuple[object, ...]


class Pair(NamedTuple):
    """One request in both stores. ``verdict`` is about the new one; without it ``reason`` says why they are not compared."""

    name: str
    verdict: Verdict | None
    reason: str = ""
    note: str = ""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("rfdetr_repro.bench.compare", description="Verdicts on latencies of two stores.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--fail-slower", action="store_true", help="exit code 1 if a row is SLOWER, or none can be compared")
    parser.add_argument("--any-machine", action="store_true", help="compare rows of different machines too; they stay marked")
    parser.add_argument("--margin", type=float, default=0.01, help="part of the median within which two rows are the SAME")
    args = parser.parse_args(argv)
    if args.margin < 0:
        raise InputError(f"--margin {args.margin} is negative")
    pairs = compare_stores(args.old, args.new, any_machine=args.any_machine, margin=args.margin)
    for pair in pairs:
        told = f"{pair.name}: not compared: {pair.reason}"
        if pair.verdict is not None:
            told = verdict_line(f"{pair.name}, new", "old", pair.verdict)
        print(told + (f" [{pair.note}]" if pair.note else ""))
    words = [pair.verdict.word for pair in pairs if pair.verdict is not None]
    print(
        f"{len(words)} of {len(pairs)} rows compared: " + ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    )
    if args.fail_slower and (not words or "SLOWER" in words):
        raise StatedFailure(f"{words.count('SLOWER')} rows are slower" if words else "no row could be compared")


def compare_stores(old: Path, new: Path, *, any_machine: bool = False, margin: float = 0.01) -> list[Pair]:
    """Every request of the new store, in its order. A store that is not there is an :class:`InputError`."""
    befores, afters = _measured(old), _measured(new)
    pairs = []
    for key, after in afters.items():
        if (before := befores.get(key)) is None:
            pairs.append(Pair(_name(after), None, "not in the old store"))
            continue
        moved = _machine_words(before.machine) != _machine_words(after.machine)
        note = f"{_machine_words(before.machine)} -> {_machine_words(after.machine)}" if moved else _changes(before, after)
        if moved and not any_machine:
            pairs.append(Pair(_name(after), None, "measured on another machine", note))
            continue
        try:
            series = [load_samples(path.parent, _samples(record)) for path, record in ((new, after), (old, before))]
        except InputError as error:
            pairs.append(Pair(_name(after), None, str(error), note))
            continue
        pairs.append(Pair(_name(after), compare_series(*series, margin=margin), note=note))
    return pairs


def _measured(path: Path) -> dict[Key, Record]:
    """Request -> Record; one request on several data splits is one measurement. The latest one counts."""
    if not path.is_file():
        raise InputError("no such store", path, "give a .jsonl file of Records")
    records = [r for r in Store(path).read() if r.latency and r.latency.method == "measured" and r.artifact and r.protocol]
    return {_key(record): record for record in records}


def _key(record: Record) -> Key:
    model, artifact, protocol = record.model, record.artifact, record.protocol
    assert artifact is not None and protocol is not None
    identity = (model.family, model.name, model.task, model.size, model.variant, model.arch)
    graph = record.latency is not None and record.latency.cuda_graph
    return (record.source, *identity, artifact.runtime, artifact.precision, bool(graph), protocol)


def _name(record: Record) -> str:
    artifact, protocol = record.artifact, record.protocol
    assert artifact is not None and protocol is not None
    graph = " CUDA graph" if record.latency is not None and record.latency.cuda_graph else ""
    return f"{record.model.name} {artifact.runtime} {artifact.precision}{graph} {protocol.rhythm} {protocol.scope}"


def _machine_words(machine: Machine | None) -> str:
    return (machine.gpu or machine.cpu) if machine else "unknown machine"


def _changes(before: Record, after: Record) -> str:
    """What else differs between the two, besides time."""
    assert before.artifact is not None and after.artifact is not None
    told = []
    if before.artifact.options != after.artifact.options:
        told.append(f"{before.artifact.options or 'no options'} -> {after.artifact.options or 'no options'}")
    if before.artifact.onnx_sha256 != after.artifact.onnx_sha256:
        told.append(f"file {before.artifact.onnx_sha256[:8]} -> {after.artifact.onnx_sha256[:8]}")
    return "; ".join(told)


def _samples(record: Record) -> str:
    if record.latency is None or record.latency.samples_sha256 is None:
        raise InputError("the Record names no raw samples", record.id)
    return record.latency.samples_sha256


if __name__ == "__main__":
    raise SystemExit(run_main(main))
