"""``rfdetr-repro rf100`` runs a training, a search near a target latency and a fine-tuning on each
of many data sets, and prints what search and fine-tuning gain over one fixed architecture, as means
with 95 % intervals over the data sets:

    rfdetr-repro rf100 --data rf100-vl/ --out runs/rf100 [--time-budget 48h] [--workers ray]

Run the command again to resume; data sets can be added.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.data.source import LAYOUTS
from rfdetr_repro.search.command import add_workers, workers_of
from rfdetr_repro.search.deployment_arguments import add_deployment
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import (
    LARGEST_SEED,
    MOST_PROCESSES,
    ArgumentParser,
    any_path,
    duration,
    folder_name,
    number,
    output_folder,
    whole,
)
from rfdetr_repro.spec.campaign import (
    CANDIDATES,
    EMBEDDED,
    ENGINES,
    FINETUNE_STEPS,
    Campaign,
    campaign,
    from_scratch,
)
from rfdetr_repro.spec.errors import EXIT_FAILED, EXIT_OK, InputError
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.metrics import plural
from rfdetr_repro.spec.presets import PICO_OWN
from rfdetr_repro.spec.train_config import TRAIN_WHOLE, of_length

if TYPE_CHECKING:
    from .data_sets import DataSet
    from .runner import Request

QUICK_STEPS, QUICK_TUNING, QUICK_ENGINES, QUICK_CANDIDATES = 100, 60, 6, 2
FEW_CANDIDATES = 3


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.reproduce.rf100",
        description=(
            "Runs the RF100-VL flow over any number of data sets. On each of them, a supernet is "
            "trained from the same weights, an architecture is searched near a target latency, and "
            "the found architecture is fine-tuned. The command then compares AP on test of one "
            "fixed architecture, of the found architecture, and of the found architecture after "
            "fine-tuning: it prints the means of the paired differences with 95 % intervals over "
            "the data sets, and how the found knobs depend on the data. All data sets are read "
            "before any training. A run that was stopped goes on where it was. A data set that "
            "fails does not stop the others, and the exit code is then 1."
        ),
        examples=(
            "rf100 --data rf100-vl/ --out runs/rf100",
            "rf100 --data data/domains --out runs/domains --time-budget 4h",
            "rf100 --data FIRST SECOND THIRD --out runs/three --quick",
            "rf100 --data rf20-vl/ --out runs/rf20 --fixed r160-p16-w1-d2-q50 --target-ms 8",
            "rf100 --data rf100-vl/ --out runs/rf100 --workers ray --address auto",
        ),
    )
    add = arguments.add_argument_group("data").add_argument
    add(
        "--data",
        nargs="+",
        type=any_path,
        required=True,
        metavar="DIR",
        help=f"data sets, each with train, val and test: {LAYOUTS}; a folder of such folders, as "
        "RF100-VL and RF20-VL are, stands for all of them",
    )
    add("--drop-bad", action="store_true", help="leave out unusable annotations and images")
    add(
        "--name",
        type=folder_name,
        help="name of the benchmark in the Records of the means (default: that of the folder)",
    )
    add = arguments.add_argument_group("what is compared").add_argument
    add(
        "--fixed",
        metavar="KEY",
        help="the architecture that is the same for all data sets; the search space is scaled to "
        "its resolution and queries (default: the base architecture, with the median of the "
        "resolutions that the data sets ask for, and the queries of the most crowded data set)",
    )
    add(
        "--target-ms",
        type=number(0, 1e6, "()"),
        help="latency near which each data set is searched (default: that of the fixed "
        "architecture)",
    )
    add(
        "--tolerance",
        type=number(0, 1, "()"),
        default=0.1,
        help="largest relative deviation of a latency from the target (default: %(default)s)",
    )
    add("--campaign", default="embedded", help="model, space and recipe: embedded, or a .toml file")
    add("--from-scratch", action="store_true", help="train from random weights")
    add_deployment(add, "the campaign's", "the campaign's")
    add = arguments.add_argument_group("what is spent").add_argument
    add(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="time for all data sets together on one machine, like 12h, divided evenly; steps and "
        "measurements are planned for it (default: 20m for each, unless --steps or --quick is "
        "given)",
    )
    add("--steps", type=whole(*TRAIN_WHOLE["steps"]), help="steps of each supernet's training")
    add(
        "--finetune-steps",
        type=whole(0, 10**9),
        help=f"steps of each fine-tuning; 0: none (default: {FINETUNE_STEPS} with --steps)",
    )
    add(
        "--engines",
        type=whole(*ENGINES),
        help="engines measured for each latency model (default: the campaign's)",
    )
    add(
        "--candidates",
        type=whole(*CANDIDATES),
        help="architectures near the target that are measured beside the fixed architecture "
        f"(default: {FEW_CANDIDATES})",
    )
    add("--seed", type=whole(0, LARGEST_SEED), help="seed of the trainings (default: the recipe's)")
    add(
        "--quick",
        action="store_true",
        help=f"a first look: {QUICK_STEPS} steps of training and {QUICK_TUNING} of fine-tuning, "
        f"{QUICK_ENGINES} engines, {QUICK_CANDIDATES} candidates and few samples of each latency, "
        "unless other options say otherwise",
    )
    run = arguments.add_argument_group("run")
    run.add_argument(
        "--out",
        required=True,
        type=output_folder,
        help="folder to write; an existing run there is continued",
    )
    run.add_argument(
        "--processes",
        type=whole(1, MOST_PROCESSES),
        metavar="N",
        help="number of processes of one machine that share each batch of a training (default: by "
        "the number of cores)",
    )
    add_workers(run, "one data set at a time on each machine")
    run.add_argument(
        "--plan",
        action="store_true",
        help="check the data sets, time a few passes of one of them on this machine, and train "
        "nothing",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the data sets that ``argv`` names; returns 1 where one of them failed."""
    args = parser().parse_args(argv)
    cluster = workers_of(args)
    chosen = _chosen(args)
    fixed = None if args.fixed is None else _fixed(args.fixed, chosen)
    command = command_line("rfdetr-repro rf100", argv)
    # slow to load; arguments are checked first
    from rfdetr_repro.reproduce.inputs import check_inputs
    from rfdetr_repro.tables.data_sets import data_sets_tables
    from rfdetr_repro.tables.format import render
    from rfdetr_repro.tables.screen import width

    from .data_set_run import Wanted
    from .data_sets import find_data_sets
    from .runner import RECORDS, Request, check_all, kept_sizing, run

    check_inputs(chosen)
    sources = find_data_sets(args.data, args.drop_bad)
    found, failed = check_all(sources, chosen.preset.arch.patch)
    if chosen.time_budget_s and args.time_budget:
        chosen = replace(chosen, time_budget_s=args.time_budget / len(found))
    request = Request(
        chosen,
        Wanted(fixed or chosen.preset.arch, args.target_ms, args.tolerance, args.quick),
        args.out.resolve(),  # workers have other current folders
        args.name or _name(args.data, found),
        command,
        cluster,
        args.processes,
    )
    if args.plan:
        _plan(request, found, fixed)
        return EXIT_OK
    args.out.mkdir(parents=True, exist_ok=True)
    sizing = kept_sizing(request, found, fixed)
    base = sizing.preset(chosen.preset).arch
    if fixed is not None:
        base = fixed
    request = replace(request, wanted=replace(request.wanted, fixed=base))
    outcome = run(request, found, failed, sizing)
    if tables := data_sets_tables(outcome.records):
        print(render(tables, "text", width()))
    for name, line in outcome.failed:
        print(f"{name} has no result: {line}")
    print(f"records in {args.out / RECORDS}")
    return EXIT_FAILED if outcome.failed else EXIT_OK


def _chosen(args: argparse.Namespace) -> Campaign:
    """The campaign for one data set, by the arguments: boxes alone, as RF100-VL has them."""
    chosen = campaign(args.campaign)
    if chosen.pretraining is not None:
        raise InputError(
            "a campaign with a pretraining, which would be done for each data set",
            args.campaign,
            "pretrain once with rfdetr-repro train, and name the result as weights",
        )
    own = chosen.train
    if args.from_scratch:
        chosen = from_scratch(chosen)
        own = chosen.train
    elif args.campaign == EMBEDDED.name:
        own = PICO_OWN
    steps = args.steps or (QUICK_STEPS if args.quick and not args.time_budget else None)
    if args.steps and args.time_budget:
        raise InputError("--steps and --time-budget", hint="give one of them")
    if args.finetune_steps is not None and steps is None:
        raise InputError(
            "--finetune-steps in a run whose steps are planned for a time budget",
            hint="give --steps too, or leave --finetune-steps out",
        )
    own = replace(own, seed=own.seed if args.seed is None else args.seed)
    if steps is not None:
        own = replace(of_length(own, steps), evaluate_every=0)
    tuning = args.finetune_steps
    if tuning is None:
        tuning = QUICK_TUNING if args.quick else chosen.finetune_steps or FINETUNE_STEPS
    engines = args.engines or (QUICK_ENGINES if args.quick else chosen.engines)
    other = args.backend is not None and args.backend != chosen.backend
    return replace(
        chosen,
        data=None,  # each data set's own
        preset=replace(chosen.preset, model=replace(chosen.preset.model, masks=False)),
        train=own,
        metric="ap",
        search_masks=False,
        targets_ms=(),
        budget_ms=None,
        finetune_steps=tuning,
        finetune_front=False,
        engines=engines,
        most_engines=max(engines, engines + engines // 2),
        candidates=args.candidates or (QUICK_CANDIDATES if args.quick else FEW_CANDIDATES),
        time_budget_s=0.0 if steps is not None else (args.time_budget or 20 * 60.0),
        drop_bad=args.drop_bad,
        backend=args.backend or chosen.backend,
        precision=args.precision or chosen.precision,
        cuda_graph=args.cuda_graph or (chosen.cuda_graph and not other),
    )


def _fixed(key: str, chosen: Campaign) -> Arch:
    """The fixed architecture. Raises :class:`InputError` for one outside the campaign's space."""
    arch = Arch.parse(key)
    space = chosen.space
    for knob, allowed in (
        ("patch", space.patches),
        ("windows", space.windows),
        ("decoder_layers", space.decoder_layers),
    ):
        if (value := getattr(arch, knob)) not in allowed:
            raise InputError(
                f"the fixed architecture has {knob} {value}",
                f"--fixed {key}",
                f"the space has {', '.join(map(str, allowed))}",
            )
    return arch


def _name(paths: Sequence[Path], found: Sequence[DataSet]) -> str:
    """The name of the folder of data sets, marked as composed where the images are."""
    name = paths[0].resolve().name if len(paths) == 1 else "data-sets"
    composed = found[0].name.startswith("embedded") and not name.startswith("embedded")
    return f"embedded-{name}" if composed else name


def _plan(request: Request, found: Sequence[DataSet], fixed: Arch | None) -> None:
    """Prints what one data set of median size would take."""
    from rfdetr_repro.reproduce.follow import sized
    from rfdetr_repro.reproduce.plan import plan

    from .runner import common_sizing

    middle = sorted(found, key=lambda one: one.images["train"])[len(found) // 2]
    sizing = common_sizing(found, fixed)
    print("\n".join(sizing.reasons))
    chosen = sized(replace(request.campaign, data=middle.source), sizing)
    if chosen.time_budget_s:
        minutes = chosen.time_budget_s / 60
        sets = plural(len(found), "data set")
        print(f"{sets} of {minutes:.3g} min each: {len(found) * minutes / 60:.3g} h")
        return
    for line in plan(chosen, request.processes or 1):
        print(line, flush=True)
    print(f"all of this for each of {len(found)} data sets; {middle.name} has the median size")
