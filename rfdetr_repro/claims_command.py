"""``rfdetr-repro claims``: the paper's causal claims, each with a verdict from stored Records.

    python -m rfdetr_repro.claims [--claim ID] [--format text|markdown|csv|latex|json] \
        [--records PATH] [--stated]
    python -m rfdetr_repro.claims --run STUDY|all --out DIR [--data DIR] [--seeds N] [--steps N]
        [--start random|backbone|weights] [--quick] [--plan]

Printing needs no PyTorch; ``--run`` evaluates or trains models first.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rfdetr_repro.claims.catalog import CLAIMS, claims_named
from rfdetr_repro.claims.data_sets import FEWEST_SEEDS
from rfdetr_repro.claims.pairs import STUDY
from rfdetr_repro.claims.studies import (
    ALL,
    BACKBONE,
    DOMAIN,
    PRETRAINED,
    PRETRAINING_TIMES,
    QUICK_STEPS,
    STARTS,
    STEPS,
    STUDIES,
    Study,
)
from rfdetr_repro.claims.table import (
    claims_table,
    commands_lines,
    findings_table,
    summary_table,
)
from rfdetr_repro.claims.verdicts import judged
from rfdetr_repro.data.source import DataSource, add_data_arguments, source_of
from rfdetr_repro.paper.stated import statements
from rfdetr_repro.records import stored
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arguments import MOST_PROCESSES, ArgumentParser, output_folder, refuse, whole
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.shared_arguments import add_device, add_records
from rfdetr_repro.spec.train_config import TRAIN_WHOLE
from rfdetr_repro.tables.command import load_records
from rfdetr_repro.tables.format import FORMATS, render
from rfdetr_repro.tables.screen import show, shows_colours, width
from rfdetr_repro.tables.stated import stated_table

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.reproduce.claim_studies import StudyRequest

log = logging.getLogger(__name__)

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
            "claims --run sharing --out runs/claims --seeds 3 --steps 1000",
            "claims --run all --out runs/claims --plan",
            "claims --run all --out runs/quick --quick",
        ),
    )
    add = arguments.add_argument
    ids = [claim.id for claim in CLAIMS]
    add(
        "--claim",
        metavar="ID",
        help=f"print one claim only, {ids[0]} to {ids[-1]}, or one comparison, such as 4.1 "
        "(default: all)",
    )
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
        "from these Records alone. A study that was stopped goes on when the command is repeated; "
        "trainings and evaluations whose Records are among those of --records are not repeated.",
    )
    add = study.add_argument
    told = "; ".join(f"{one.id}: {one.words}" for one in STUDIES.values())
    add(
        "--run",
        metavar="STUDY",
        choices=(*STUDIES, ALL),
        help=f"study to run. {told}; {ALL}: all of them",
    )
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
        help="number of trainings of each variant, with the seeds 0 to N - 1; fewer than 3 decide "
        "nothing (default: 3)",
    )
    add(
        "--steps",
        type=whole(*TRAIN_WHOLE["steps"]),
        metavar="N",
        help=f"number of optimizer steps of each training (default: {STEPS}; {QUICK_STEPS} with "
        "--quick)",
    )
    add(
        "--start",
        choices=tuple(STARTS),
        help="what trainings start from: random weights everywhere, the backbone of the packaged "
        "weights with random weights elsewhere, the packaged weights as a whole, or a backbone "
        f"that is first trained for {PRETRAINING_TIMES} times as many steps on the embedded data "
        f"set (default: {BACKBONE}); another backbone than the packaged one starts from random "
        "weights unless it is pretrained",
    )
    add(
        "--quick",
        action="store_true",
        help=f"a first look with trainings of {QUICK_STEPS} steps, which decide next to nothing",
    )
    add(
        "--plan",
        action="store_true",
        help="print what each study would cost on this machine, from a few measured steps, and run "
        "nothing else",
    )
    add(
        "--processes",
        type=whole(1, MOST_PROCESSES),
        metavar="N",
        help="processes that share each batch on a CPU (default: a number that suits cores and "
        "batch)",
    )
    add_device(study, "of trainings and evaluations")
    add_data_arguments(
        arguments,
        f"only with --run (default: data that are composed in the folder of --out: {DOMAIN} of "
        "embedded-10 for trainings, the embedded data set for the packaged weights)",
        SPLITS,
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
        tables = [stated_table(statements())]
    else:
        claims = claims_named(args.claim, None if args.run == ALL else args.run)
        if args.plan:
            _plan(args, data)
            return 0
        records = _run(args, data, argv) if args.run else load_records(args.records)
        found = judged(records, claims)
        whole = claims_table(found)
        if args.format in ("csv", "json"):
            tables = [whole]
        else:
            tables = [summary_table(found), whole if args.wide else findings_table(found)]
        lines = commands_lines(found) if text else []
    limit = width() if text and not args.wide else None
    shown = render(tables, args.format, limit, colour=text and shows_colours())
    show("\n".join([shown.rstrip("\n"), *lines, ""]), paged=text and not args.no_pager)
    return 0


def _check(args: argparse.Namespace, data: DataSource | None) -> None:
    """Raises :class:`InputError` for arguments that have no meaning together."""
    of_training = {
        "--seeds": args.seeds,
        "--steps": args.steps,
        "--start": args.start,
        "--processes": args.processes,
        "--quick": args.quick or None,
    }
    of_study = {
        "--out": args.out,
        **of_training,
        "--plan": args.plan or None,
        "--device": args.device,
        "--data": data,
    }
    if args.stated:
        others = {"--claim": args.claim, "--records": args.records, "--run": args.run, **of_study}
        refuse(others, "with --stated")
    elif args.run is None:
        refuse(of_study, "without --run")
    else:
        if args.run != ALL and not STUDIES[args.run].trained:
            refuse(of_training, f"with the study {args.run}, which trains nothing")
        only = "" if args.run == ALL else STUDIES[args.run].start
        if only and args.start not in (None, only):
            raise InputError(
                f"the study {args.run} compares backbones, of which each needs its own start",
                f"--start {args.start}",
                f"write --start {only}",
            )
        if args.out is None:
            raise InputError("a study needs a folder", "--run", "add --out runs/claims")


def requests_of(
    args: argparse.Namespace, data: DataSource | None, argv: Sequence[str] | None
) -> list[StudyRequest]:
    """What ``--run`` asks for, study by study."""
    from rfdetr_repro.reproduce.claim_studies import StudyRequest

    studies: list[Study] = [STUDIES[args.run]] if args.run != ALL else list(STUDIES.values())
    words = command_line("python -m rfdetr_repro.claims", argv)
    known = load_records(args.records)
    steps = args.steps or (QUICK_STEPS if args.quick else STEPS)
    return [
        StudyRequest(
            study,
            args.out,
            data if study.trained or args.run != ALL else None,
            seeds=args.seeds or FEWEST_SEEDS,
            steps=steps,
            device=args.device,
            processes=args.processes,
            command=words,
            start=study.start or args.start or BACKBONE,
            known=[record for record in known if record.source == STUDY],
        )
        for study in studies
    ]


def _plan(args: argparse.Namespace, data: DataSource | None) -> None:
    """Prints what each study costs."""
    from rfdetr_repro.reproduce.claim_costs import cost_of

    total = 0.0
    planned: set[str] = set()
    for request, splits in _checked(requests_of(args, data, None)):
        cost = cost_of(request, splits, planned)
        planned |= cost.trainings
        total += cost.seconds
        print(cost.told, flush=True)
    print(f"in all: {total / 3600:.1f} h of processor time of one core")


def _run(
    args: argparse.Namespace, data: DataSource | None, argv: Sequence[str] | None
) -> list[Record]:
    """Runs the studies and returns their Records."""
    from rfdetr_repro.reproduce.claim_costs import cost_of
    from rfdetr_repro.reproduce.claim_studies import run_study

    records: dict[str, Record] = {}
    for request, splits in _checked(requests_of(args, data, argv)):
        log.info(cost_of(request, splits).told)
        records |= {record.id: record for record in run_study(request, splits)}
    return list(records.values())


def _checked(
    requests: Sequence[StudyRequest],
) -> list[tuple[StudyRequest, Mapping[str, CocoSplit]]]:
    """Each request with what its study reads, after all of them were checked: the last study must
    not be refused when the others have been paid for.
    """
    from rfdetr_repro.reproduce.claim_studies import check_study, read_data

    # all studies that train read the same, and those that pretrain one split more
    read: dict[tuple[bool, bool], Mapping[str, CocoSplit]] = {}
    found = []
    for request in requests:
        kind = bool(request.study.trained), request.start == PRETRAINED
        if kind not in read:
            read[kind] = read_data(request)
        check_study(request, read[kind])
        found.append((request, read[kind]))
    return found
