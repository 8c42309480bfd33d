"""``rfdetr-repro census``: what a data set holds, and whether its files can be used."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser, folder_names, output_file
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import write_atomic

from .source import SPLITS, add_data_arguments, source_of


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``rfdetr-repro census``."""
    arguments = ArgumentParser(
        "rfdetr_repro.data.census_command",
        description="Counts the images, objects and classes of each split of a data set, and "
        "checks the annotations. Nothing is written unless --json is given.",
        examples=(
            "census --data DIR",
            "census --data DIR --split val --json census.json",
        ),
    )
    add_data_arguments(arguments, "every split that exists is counted")
    arguments.add_argument(
        "--split",
        type=folder_names,
        help="only these splits, like val or train,val (default: every split that exists)",
    )
    arguments.add_argument("--json", type=output_file, help="also write the counts to this file")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``rfdetr-repro census``."""
    args = parser().parse_args(argv)
    source = source_of(args)
    if source is None:
        raise InputError("no data", hint="give a data set with --data")
    # loads slowly; the arguments are checked first
    from .census import census_json, print_census
    from .coco import has_split, read_split

    if args.split is None:
        wanted = [name for name in SPLITS if has_split(source, name)]
    else:
        wanted = [name.strip() for name in args.split.split(",")]
    if not wanted:
        raise InputError("no split found", source, "give a folder with train, val or test")
    found = print_census([read_split(source, name) for name in wanted])
    if args.json is not None:
        write_atomic(args.json, census_json(found))
