"""``rfdetr-repro claims``: the paper's causal claims, each with a verdict from stored Records.

    python -m rfdetr_repro.claims [--claim ID] [--format text|markdown|csv|latex|json] \
        [--records PATH] [--stated]
    python -m rfdetr_repro.claims --run STUDY --out DIR [--data DIR] [--seeds N] [--steps N]

Printing needs no PyTorch; ``--run`` evaluates or trains models first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from rfdetr_repro.claims.catalog import CLAIMS, STUDIES, claims_named
from rfdetr_repro.claims.table import claims_table, commands_lines
from rfdetr_repro.claims.verdicts import FEWEST_SEEDS, judged
from rfdetr_repro.data.source import DataSource, add_data_arguments, source_of
from rfdetr_repro.paper.stated import statements
from rfdetr_repro.records import stored
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    add_device,
    add_records,
    add_steps,
    output_folder,
    whole,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.tables.command import load_records
from rfdetr_repro.tables.format import FORMATS, render
from rfdetr_repro.tables.screen import show, shows_colours, width
from rfdetr_repro.tables.stated import stated_table

MOST_SEEDS = 100
SPLITS = ("train", "val")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.claims",
        description=(
            "Prints the causal claims of the paper: what was compared, at which scale, the effect "
            "with its 95 % interval, and a verdict (holds at this scale, fails at this scale, "
            "undecided, not run). The scale is small and says nothing about COCO."
        ),
        examples=(
            "claims",
            "claims --claim 4 --records runs/mine",
            "claims --format csv",
            "claims --stated",
            "claims --run weights --out runs/claims",
            "claims --run sharing --out runs/claims --seeds 3",
        ),
    )
    add = arguments.add_argument
    ids = [claim.id for claim in CLAIMS]
    add("--claim", metavar="ID", help=f"print one claim only, {ids[0]} to {ids[-1]} (default: all)")
    add(
        "--stated",
        action="store_true",
        help="print instead the sentences of the paper that state a number, each recomputed from "
        "the printed tables",
    )
    add(
        "--format",
        choices=FORMATS,
        default="text",
        help="format of the printed table: text and markdown to read, latex to paste, csv and json "
        "for programs (default: text)",
    )
    add_records(arguments, stored.DEFAULT)
    add(
        "--wide", action="store_true", help="print every column, whatever the width of the terminal"
    )
    add("--no-pager", action="store_true", help="print to the terminal without a pager")
    study = arguments.add_argument_group(
        "study",
        "A study writes the Records that some claims need. The command then prints the verdicts "
        "from these Records alone. A study that was stopped goes on when the command is repeated.",
    )
    add = study.add_argument
    told = "; ".join(f"{one.id}: {one.words}" for one in STUDIES.values())
    add("--run", metavar="STUDY", choices=tuple(STUDIES), help=f"study to run. {told}")
    add(
        "--out",
        type=output_folder,
        metavar="DIR",
        help="folder of the study: its data, trainings and Records",
    )
    add(
        "--seeds",
        type=whole(1, MOST_SEEDS),
        metavar="N",
        help="number of trainings of each side, with the seeds 0 to N - 1; fewer than 3 decide "
        "nothing (default: 3)",
    )
    add_steps(study, "number of optimizer steps of each training")
    add_device(study, "of trainings and evaluations")
    add_data_arguments(
        arguments, "the data set of the package, composed in DIR/data of --out, without", SPLITS
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what ``argv`` asks for; returns the exit code."""
    args = parser().parse_args(argv)
    data = source_of(args, SPLITS, needed=False)
    _check(args, data)
    text = args.format == "text"
    lines: list[str] = []
    if args.stated:
        table = stated_table(statements())
    else:
        claims = claims_named(args.claim, args.run)
        records = _study(args, data, argv) if args.run else load_records(args.records)
        found = judged(records, claims)
        table = claims_table(found)
        lines = commands_lines(found) if text else []
    limit = width() if text and not args.wide else None
    shown = render([table], args.format, limit, colour=text and shows_colours())
    show("\n".join([shown.rstrip("\n"), *lines, ""]), paged=text and not args.no_pager)
    return 0


def _check(args: argparse.Namespace, data: DataSource | None) -> None:
    """Raises :class:`InputError` for arguments that have no meaning together."""
    of_study = {
        "--out": args.out,
        "--seeds": args.seeds,
        "--steps": args.steps,
        "--device": args.device,
        "--data": data,
    }
    if args.stated:
        others = {"--claim": args.claim, "--records": args.records, "--run": args.run, **of_study}
        _refuse(others, "with --stated")
    elif args.run is None:
        _refuse(of_study, "without --run")
    else:
        _refuse({"--records": args.records}, "with --run")
        if not STUDIES[args.run].trained:
            of_training = {"--seeds": args.seeds, "--steps": args.steps}
            _refuse(of_training, f"with the study {args.run}, which trains nothing")
        if args.out is None:
            raise InputError("a study needs a folder", "--run", "add --out runs/claims")


def _refuse(given: Mapping[str, object], when: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} has no meaning {when}", hint="leave one of them out")


def _study(
    args: argparse.Namespace, data: DataSource | None, argv: Sequence[str] | None
) -> list[Record]:
    """Runs a study and returns its Records."""
    from rfdetr_repro.reproduce.claim_studies import StudyRequest, run_study

    words = "python -m rfdetr_repro.claims " + " ".join(sys.argv[1:] if argv is None else argv)
    request = StudyRequest(
        STUDIES[args.run],
        args.out,
        data,
        seeds=args.seeds or FEWEST_SEEDS,
        steps=args.steps,
        device=args.device,
        command=words,
    )
    run_study(request)
    return request.store.read()
