"""``python -m rfdetr_repro.bench.intervals``: are the stored intervals what the raw samples give?

:mod:`rfdetr_repro.bench.intervals` computes the intervals.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser, input_path
from rfdetr_repro.spec.errors import StatedFailure

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.bench.intervals",
        description="Recomputes the latency intervals of stores from their raw samples and "
        "compares them with the Records. With --quiet only what is not equal is printed, "
        "and the counts.",
        examples=("intervals results/embedded.jsonl",),
    )
    arguments.add_argument(
        "stores",
        type=input_path,
        nargs="+",
        metavar="STORE.jsonl",
        help="stores of Records, each with its folder of raw samples next to it",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the comparison of the stores that ``argv`` names with their raw samples.

    Raises :class:`StatedFailure` if a latency differs from its samples.
    """
    args = parser().parse_args(argv)
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.bench.intervals import recompute
    from rfdetr_repro.records.store import Store, unverified_words

    lines = [line for store in args.stores for line in recompute(store)]
    for line in lines:
        if line.word != "no samples" and not (args.quiet and line.word == "equal"):
            print(f"{line.word}: {line.name}: {line.text}")
    words = [line.word for line in lines]
    print(
        ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "no latencies"
    )
    if text := unverified_words(
        [record for store in args.stores for record in Store(store).read()]
    ):
        log.warning(text)
    if bad := words.count("different") + words.count("lost"):
        raise StatedFailure(
            f"{bad} of {len(words)} latencies differ from their samples, or their samples are lost"
        )
