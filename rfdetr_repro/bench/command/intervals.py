"""``python -m rfdetr_repro.bench.intervals``: are the stored intervals what the raw samples give?

:mod:`rfdetr_repro.bench.intervals` computes the intervals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import input_path
from rfdetr_repro.spec.errors import ArgumentParser, StatedFailure


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        "rfdetr_repro.bench.intervals", description="Intervals of stores from their raw samples."
    )
    arguments.add_argument(
        "stores",
        type=input_path,
        nargs="+",
        metavar="STORE.jsonl",
        help="Records; their samples lie beside",
    )
    arguments.add_argument(
        "--quiet", action="store_true", help="print only what is not equal, and the counts"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    # loads slowly; the arguments are checked first
    from rfdetr_repro.bench.intervals import recompute
    from rfdetr_repro.records.store import Store, unverified_words

    lines = [line for store in args.stores for line in recompute(store)]
    for line in lines:
        if line.word != "no samples" and not (args.quiet and line.word == "equal"):
            print(f"{line.word}: {line.name}: {line.told}")
    words = [line.word for line in lines]
    print(
        ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "no latencies"
    )
    if told := unverified_words(
        [record for store in args.stores for record in Store(store).read()]
    ):
        print(told, file=sys.stderr)
    if bad := words.count("different") + words.count("lost"):
        raise StatedFailure(f"{bad} of {len(words)} latencies are not what their samples give")
