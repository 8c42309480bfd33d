"""``rfdetr-repro reproduce``: the whole flow, from data to report.

:mod:`.run` holds the stages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.search.command import add_front, front_of
from rfdetr_repro.search.pick_command import add_budget, refuse_quantile_alone, tell_pick
from rfdetr_repro.spec.arguments import ArgumentParser, duration, output_folder, whole
from rfdetr_repro.spec.campaign import EMBEDDED, Campaign, campaign, from_scratch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import writable_folder
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
            "reproduce --campaign campaigns/paper.toml --out runs/paper",
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
    return _with_front(chosen, args)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the campaign that ``argv`` names."""
    args = parser().parse_args(argv)
    refuse_quantile_alone(args)
    chosen = _chosen(args)
    chosen.space.check()
    if args.plan:
        # these modules load slowly, so the arguments are checked first
        from .plan import plan
        from .schedule import followed_plan

        if chosen.data is None and chosen.time_budget_s:
            raise InputError(
                "--plan divides a time budget by the images of a data set, and none is given",
                hint="give --data, or leave the time budget out",
            )
        planned = chosen.data is not None and (chosen.follow_data or chosen.time_budget_s)
        for line in followed_plan(chosen) if planned else plan(chosen):
            print(line, flush=True)
        return
    from .run import Reproduction, check_inputs

    check_inputs(chosen)
    folder = writable_folder(args.out or Path("runs") / chosen.name)
    command = "python -m rfdetr_repro.reproduce " + " ".join(sys.argv[1:] if argv is None else argv)
    reproduction = Reproduction(chosen, folder, command.strip())
    report = reproduction.run()
    from rfdetr_repro.tables.command import main as tables

    tables(["--table", "frontier", "--records", str(folder / "records.jsonl"), "--no-pager"])
    print(f"\nreport: {report}")
    if reproduction.budget is not None:
        tell_pick(folder, reproduction.budget)
    else:
        print(f"next: rfdetr-repro pick {folder} --budget-ms MS")


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
