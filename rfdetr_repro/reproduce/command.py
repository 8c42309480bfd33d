"""``rfdetr-repro reproduce``: the whole flow, from data to report.

:mod:`.run` holds the stages.
"""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NoReturn

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.search.command import add_front, front_of
from rfdetr_repro.search.deployment_arguments import add_deployment
from rfdetr_repro.search.pick_command import add_budget, refuse_quantile_alone, tell_pick
from rfdetr_repro.spec.arguments import (
    MOST_PROCESSES,
    ArgumentParser,
    duration,
    output_folder,
    whole,
)
from rfdetr_repro.spec.campaign import EMBEDDED, Campaign, campaign, from_scratch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import writable_folder
from rfdetr_repro.spec.launch import command_line, place_in_torchrun
from rfdetr_repro.spec.presets import PICO_OWN


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.reproduce",
        description=(
            "Runs the whole flow: data, supernet, search, artifacts, measured "
            "Records and report. A run that was stopped goes on where it was; the "
            "run ends with the table of the frontier."
        ),
        examples=(
            "reproduce --plan",
            "reproduce --data DIR --out runs/mine",
            "reproduce --data DIR --out runs/mine --budget-ms 8 --time-budget 30m",
            "reproduce --data DIR --out runs/mine --budget-ms 8 --finetune-front",
            "reproduce --data DIR --out runs/mine --backend torch-graph --precision bf16",
            "reproduce --campaign campaigns/paper.toml --out runs/paper",
            "reproduce --data DIR --out runs/mine --processes 4",
        ),
    )
    add = arguments.add_argument
    add("--campaign", default="embedded", help="campaign to run: embedded, coco, or a .toml file")
    add_data_arguments(arguments, "these data replace the campaign's own data")
    add_budget(add)
    add(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="time for the whole run, like 30m or 2h: steps of training, engines and confirmed "
        "models are planned for it on this machine (default: 20m with --data, else the campaign's "
        "own numbers)",
    )
    add_front(add)
    add_deployment(add, "the campaign's", "the campaign's")
    add(
        "--queries",
        type=whole(1, 1000),
        help="object queries of the model, for images with more objects than the default covers "
        "(default: by the data with --data, else the campaign's)",
    )
    add("--out", type=output_folder, help="run folder to write (default: runs/CAMPAIGN)")
    add(
        "--from-scratch",
        action="store_true",
        help="start the training from random weights instead of the campaign's weights",
    )
    add(
        "--processes",
        type=whole(1, MOST_PROCESSES),
        metavar="N",
        help="number of processes of this machine that share each batch of a training and the "
        "passes of the search on the CPU; several GPUs are used by starting the command with "
        "torchrun instead (default: by the number of cores in trainings, one in the search)",
    )
    add(
        "--plan",
        action="store_true",
        help="do not run; time a few passes of each stage on this machine and print the estimated "
        "duration",
    )
    return arguments


def _chosen(args: argparse.Namespace) -> Campaign:
    """The campaign with the changes that the command line asks for."""
    chosen = campaign(args.campaign)
    if args.from_scratch:
        chosen = from_scratch(chosen)
    if (source := source_of(args, needed=False)) is not None:
        title = f"Weight-sharing search on {source.name}"
        chosen = replace(chosen, data=source, name=source.name, title=title, departures=())
        if args.campaign == EMBEDDED.name:
            own = chosen.train if args.from_scratch else PICO_OWN
            chosen = replace(chosen, follow_data=True, train=own)
    chosen = replace(
        chosen,
        time_budget_s=args.time_budget or chosen.time_budget_s,
        queries=args.queries or chosen.queries,
        drop_bad=args.drop_bad or chosen.drop_bad,
    )
    if args.budget_ms is not None:
        chosen = replace(
            chosen, budget_ms=args.budget_ms, quantile=args.quantile or chosen.quantile
        )
    return _with_front(_with_deployment(chosen, args), args)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the campaign that ``argv`` names. Under ``torchrun`` its first process does, and the
    others take part.
    """
    if place_in_torchrun()[0] > 0:
        _follow(argv)
    args = parser().parse_args(argv)
    refuse_quantile_alone(args)
    chosen = _chosen(args)
    chosen.space.check()
    if args.plan:
        _plan(chosen, args.processes)
        return
    from rfdetr_repro.train.crew import check_torchrun, leading

    from .inputs import check_data, check_inputs
    from .run import Reproduction
    from .together import Together, check_processes

    check_torchrun()
    check_processes(args.processes, chosen)
    check_inputs(chosen)
    folder = args.out or Path("runs") / chosen.name
    read = check_data(chosen, folder)
    folder = writable_folder(folder)
    command = command_line("python -m rfdetr_repro.reproduce", argv)
    with leading() as ranks:
        together = Together(ranks if ranks.size > 1 else None, args.processes)
        reproduction = Reproduction(chosen, folder, command, together, read)
        report = reproduction.run()
    from rfdetr_repro.tables.command import main as tables

    tables(["--table", "frontier", "--records", str(folder / "records.jsonl"), "--no-pager"])
    print(f"\nreport: {report}")
    if reproduction.budget is not None:
        tell_pick(folder, reproduction.budget, chosen.backend)
    else:
        print(f"next: rfdetr-repro pick {shlex.quote(str(folder))} --budget-ms MS")


def _follow(argv: Sequence[str] | None) -> NoReturn:
    """The life of a process of ``torchrun`` other than the first, which states what is wrong with
    the arguments and prints their help.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # ends the process without a line
    with redirect_stdout(StringIO()), suppress(InputError):
        parser().parse_args(argv)
    from rfdetr_repro.train.crew import follow

    follow()


def _plan(chosen: Campaign, processes: int | None) -> None:
    """Prints the estimated duration of the campaign."""
    # these modules load slowly, so the arguments are checked first
    from .plan import plan
    from .schedule import followed_plan

    if place_in_torchrun()[1] > 1:
        raise InputError(
            "--plan under torchrun",
            hint="start --plan without torchrun, with --processes N on the CPU",
        )
    if chosen.data is None and chosen.time_budget_s:
        raise InputError(
            "--plan divides a time budget by the images of a data set, and none is given",
            hint="give --data, or leave the time budget out",
        )
    planned = chosen.data is not None and (chosen.follow_data or chosen.time_budget_s)
    lines = followed_plan(chosen, processes) if planned else plan(chosen, processes or 1)
    for line in lines:
        print(line, flush=True)


def _with_deployment(chosen: Campaign, args: argparse.Namespace) -> Campaign:
    """The campaign on the runtime and in the precision that the arguments name; another runtime
    replays a CUDA graph only if the arguments ask for that.
    """
    other = args.backend is not None and args.backend != chosen.backend
    return replace(
        chosen,
        backend=args.backend or chosen.backend,
        precision=args.precision or chosen.precision,
        cuda_graph=args.cuda_graph or (chosen.cuda_graph and not other),
    )


def _with_front(chosen: Campaign, args: argparse.Namespace) -> Campaign:
    """The campaign with the fine-tuning of the front, if the arguments ask for it. Raises
    :class:`InputError` for a number of steps in a run whose steps follow from its time.
    """
    if (front := front_of(args)) is None:
        return chosen
    if args.finetune_steps is not None and (chosen.follow_data or chosen.time_budget_s):
        raise InputError(
            "--finetune-steps in a run whose steps are planned for a given time",
            hint="leave --finetune-steps out; the time for fine-tuning is divided among the models",
        )
    steps = args.finetune_steps or chosen.finetune_steps or front.steps
    return replace(chosen, finetune_front=True, finetune_steps=steps)
