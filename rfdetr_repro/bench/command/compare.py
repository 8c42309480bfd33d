"""``python -m rfdetr_repro.bench.compare``: is what was measured later faster?

The verdicts themselves are made by :mod:`rfdetr_repro.bench.compare`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser, input_path, number
from rfdetr_repro.spec.errors import InputError, StatedFailure

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.bench.compare",
        description="Compares the latencies of two groups of stores of Records, row by row.",
        examples=(
            "compare --old A.jsonl B.jsonl --new C.jsonl D.jsonl --fail-slower",
            "compare OLD.jsonl NEW.jsonl --between-sessions 0.02",
        ),
    )
    arguments.add_argument(
        "first",
        type=input_path,
        nargs="?",
        metavar="OLD.jsonl",
        help="store that was measured before the change",
    )
    arguments.add_argument(
        "second",
        type=input_path,
        nargs="?",
        metavar="NEW.jsonl",
        help="store that was measured after the change",
    )
    stores = (
        "of the same models, each measured in a session of its own; added to OLD.jsonl or "
        "NEW.jsonl if those are given"
    )
    arguments.add_argument(
        "--old",
        type=input_path,
        nargs="+",
        default=[],
        metavar="STORE",
        help=f"stores measured before the change, {stores}",
    )
    arguments.add_argument(
        "--new",
        type=input_path,
        nargs="+",
        default=[],
        metavar="STORE",
        help=f"stores measured after the change, {stores}",
    )
    text = (
        "known standard deviation of the median between sessions, as a fraction of the median, "
        "such as 0.02; default: estimated from several stores on each side"
    )
    arguments.add_argument("--between-sessions", type=number(0, 1), metavar="PART", help=text)
    arguments.add_argument(
        "--fail-slower",
        action="store_true",
        help="exit code 1 if a row is SLOWER, or if no row could be decided",
    )
    arguments.add_argument(
        "--any-machine",
        action="store_true",
        help="compare rows of different machines too, and mark them",
    )
    arguments.add_argument(
        "--margin",
        type=number(0, 1),
        default=0.01,
        help="largest difference, as a fraction of the median, at which two rows count as the SAME",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a verdict for every row of the stores that ``argv`` names.

    Raises :class:`InputError` if there is nothing to compare and, with --fail-slower,
    :class:`StatedFailure` for a slower row.
    """
    args = parser().parse_args(argv)
    olds = [*([args.first] if args.first else []), *args.old]
    news = [*([args.second] if args.second else []), *args.new]
    if not olds or not news:
        raise InputError(
            "nothing to compare",
            hint="give OLD.jsonl NEW.jsonl, or --old and --new with several stores each",
        )
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.bench.compare import compare_stores
    from rfdetr_repro.records.store import Store, unverified_words

    from .printing import verdict_line

    pairs = compare_stores(
        olds, news, any_machine=args.any_machine, margin=args.margin, between=args.between_sessions
    )
    for pair in pairs:
        text = f"{pair.name}: not compared: {pair.reason}"
        if pair.verdict is not None:
            text = verdict_line(f"{pair.name}, new", "old", pair.verdict)
        print(text + (f" [{pair.note}]" if pair.note else ""))
    if text := unverified_words(
        [record for path in dict.fromkeys([*olds, *news]) for record in Store(path).read()]
    ):
        log.warning(text)
    words = [pair.verdict.word for pair in pairs if pair.verdict is not None]
    counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    print(f"{len(words)} of {len(pairs)} rows compared" + (f": {counts}" if counts else ""))
    if args.fail_slower and "SLOWER" in words:
        raise StatedFailure(f"{words.count('SLOWER')} rows are slower")
    if args.fail_slower and not set(words) - {"UNDECIDED"}:
        raise StatedFailure("no row could be decided" if words else "no row could be compared")
