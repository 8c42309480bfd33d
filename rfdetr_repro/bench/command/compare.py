"""``python -m rfdetr_repro.bench.compare``: is what was measured later faster?

The verdicts themselves are made by :mod:`rfdetr_repro.bench.compare`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import input_path, number
from rfdetr_repro.spec.errors import ArgumentParser, InputError, StatedFailure


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        "rfdetr_repro.bench.compare", description="Verdicts on latencies of stores of Records."
    )
    arguments.add_argument(
        "first",
        type=input_path,
        nargs="?",
        metavar="OLD.jsonl",
        help="a store that was measured before",
    )
    arguments.add_argument(
        "second",
        type=input_path,
        nargs="?",
        metavar="NEW.jsonl",
        help="a store that was measured after the change",
    )
    stores = (
        "stores of the same models, each measured in a session of its own; beside OLD.jsonl or "
        "NEW.jsonl if that is given"
    )
    arguments.add_argument(
        "--old", type=input_path, nargs="+", default=[], metavar="STORE", help=f"before: {stores}"
    )
    arguments.add_argument(
        "--new", type=input_path, nargs="+", default=[], metavar="STORE", help=f"after: {stores}"
    )
    told = (
        "known standard deviation of a median between sessions, as a part of it, like 0.02; "
        "default: seen from several stores"
    )
    arguments.add_argument("--between-sessions", type=number(0, 1), metavar="PART", help=told)
    arguments.add_argument(
        "--fail-slower",
        action="store_true",
        help="exit code 1 if a row is SLOWER, or if no row could be decided",
    )
    arguments.add_argument(
        "--any-machine",
        action="store_true",
        help="compare rows of different machines too; they stay marked",
    )
    arguments.add_argument(
        "--margin",
        type=number(0, 1),
        default=0.01,
        help="part of the median within which two rows are the SAME",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    olds = [*([args.first] if args.first else []), *args.old]
    news = [*([args.second] if args.second else []), *args.new]
    if not olds or not news:
        raise InputError(
            "nothing to compare",
            hint="give OLD.jsonl NEW.jsonl, or --old and --new with several stores each",
        )
    # loads slowly; the arguments are checked first
    from rfdetr_repro.bench.compare import compare_stores
    from rfdetr_repro.records.store import Store, unverified_words

    from .printing import verdict_line

    pairs = compare_stores(
        olds, news, any_machine=args.any_machine, margin=args.margin, between=args.between_sessions
    )
    for pair in pairs:
        told = f"{pair.name}: not compared: {pair.reason}"
        if pair.verdict is not None:
            told = verdict_line(f"{pair.name}, new", "old", pair.verdict)
        print(told + (f" [{pair.note}]" if pair.note else ""))
    if told := unverified_words(
        [record for path in dict.fromkeys([*olds, *news]) for record in Store(path).read()]
    ):
        print(told, file=sys.stderr)
    words = [pair.verdict.word for pair in pairs if pair.verdict is not None]
    counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    print(f"{len(words)} of {len(pairs)} rows compared" + (f": {counts}" if counts else ""))
    if args.fail_slower and "SLOWER" in words:
        raise StatedFailure(f"{words.count('SLOWER')} rows are slower")
    if args.fail_slower and not set(words) - {"UNDECIDED"}:
        raise StatedFailure("no row could be decided" if words else "no row could be compared")
