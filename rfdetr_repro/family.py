"""Evaluates patch sizes that training never drew, like the paper's family at 640 pixels with
patches of 27, 21 and 18:

python -m rfdetr_repro.family --model RUN --data DIR [--patches 10,14,18,24] [--resolutions 128,160]

The patch kernel is resampled to each size, as for trained sizes; nothing is learned. The Records
have the variant NEVER_TRAINED and are left out of frontiers and figures of the space. Each is
printed next to the trained architecture with the same number of tokens, both with the space's
largest decoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.spec.arch import MAX_SIDE
from rfdetr_repro.spec.arguments import ArgumentParser, wholes
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.shared_arguments import add_model


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.family",
        description=(
            "Evaluates patch sizes that training never drew, next to trained "
            "architectures with as many tokens."
        ),
        examples=(
            "family --model runs/mine --data DIR",
            "family --model runs/mine --data DIR --patches 10,14,18 --resolutions 128,160",
        ),
    )
    add_model(arguments, "--run", text="run folder of a supernet whose search is finished")
    add_data_arguments(arguments, "the val split is evaluated", ("val",))
    arguments.add_argument(
        "--patches",
        type=wholes(1, 10_000),
        help="side lengths of patches in pixels, such as 10,14,18 (default: even sizes around the "
        "trained sizes)",
    )
    arguments.add_argument(
        "--resolutions",
        type=wholes(1, MAX_SIDE),
        default=[],
        help="side lengths of images in pixels (default: the resolutions of the search space)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluates the patch sizes that ``argv`` names and prints a table."""
    args = parser().parse_args(argv)
    args.data = source_of(args, ("val",))
    from rfdetr_repro.data.census import print_census
    from rfdetr_repro.search.family import between, evaluate, never_trained
    from rfdetr_repro.search.request import SearchRequest
    from rfdetr_repro.search.run import open_search
    from rfdetr_repro.tables.family import family_table
    from rfdetr_repro.tables.format import render

    words = command_line("python -m rfdetr_repro.family", argv)
    search = open_search(SearchRequest(args.model.run_folder(), args.data, command=words))
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
