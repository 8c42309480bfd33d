"""Patch sizes that training never drew, and the family of one resolution (paper: 640 px with
patches of 27, 21 and 18):

python -m rfdetr_repro.family --run RUN --data DIR [--patches 10,14,18,24] [--resolutions 128,160]

The patch kernel is resampled to each size as to the trained ones, nothing is learned. Records have
the variant NEVER_TRAINED and stay out of frontiers and figures of the space; printed is each beside
the trained architecture with as many tokens, both with the space's largest decoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.spec.arch import MAX_SIDE
from rfdetr_repro.spec.arguments import ArgumentParser, input_folder, wholes
from rfdetr_repro.spec.errors import run_main


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        "rfdetr_repro.family", description="Patch sizes that training never drew."
    )
    arguments.add_argument(
        "--run", required=True, type=input_folder, help="run folder of a supernet that was searched"
    )
    add_data_arguments(arguments, "the val split is evaluated", ("val",))
    arguments.add_argument(
        "--patches",
        type=wholes(1, 10_000),
        help="patch sides in px, like 10,14,18; default: even sizes around the trained ones",
    )
    arguments.add_argument(
        "--resolutions",
        type=wholes(1, MAX_SIDE),
        default=[],
        help="image sides in px; default: those of the space",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.data = source_of(args, ("val",))
    from rfdetr_repro.data.census import print_census
    from rfdetr_repro.search.family import between, evaluate, never_trained
    from rfdetr_repro.search.request import SearchRequest
    from rfdetr_repro.search.run import open_search
    from rfdetr_repro.tables.family import family_table
    from rfdetr_repro.tables.format import render

    words = "python -m rfdetr_repro.family " + " ".join(sys.argv[1:] if argv is None else argv)
    search = open_search(SearchRequest(args.run, args.data, command=words))
    print_census([search.split])
    with search.store.exclusive():
        records = evaluate(
            search,
            never_trained(search.space, args.patches or between(search.space), args.resolutions),
        )
    trained = [
        record
        for record in search.store.read()
        if record.source == "search" and record.model.variant is None
    ]
    print(render([family_table(records, trained)], "text"), end="")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
