"""Searches the space of a trained supernet for its frontier of accuracy and latency:

python -m rfdetr_repro.search --model runs/embedded --data runs/embedded/data \
    [--strategy exhaustive|race] [--metric ap|mask_ap|...] [--mode buffered|sustained] \
    [--targets-ms 2.3,3.5,4.4 [--tolerance 0.1]] [--engines 18] [--candidates 10] [--plan] \
    [--workers ray] [--backend tensorrt --precision fp16 --cuda-graph] [--device cuda]

The command writes Records to RUN/records.jsonl and artifacts to RUN/artifacts; run the same command
again to resume an interrupted search.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rfdetr_repro.bench.command.named_inputs import split_names
from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arguments import (
    MOST_PROCESSES,
    ArgumentParser,
    folder_names,
    number,
    refuse,
    whole,
)
from rfdetr_repro.spec.campaign import CANDIDATES, ENGINES, FINETUNE_STEPS, METRICS
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.protocol import (
    DECISION,
    MODES,
)
from rfdetr_repro.spec.shared_arguments import add_device, add_model
from rfdetr_repro.spec.train_config import TRAIN_WHOLE

from .deployment_arguments import add_deployment, deployment_of
from .pick_command import add_budget, budget_of, tell_pick

if TYPE_CHECKING:
    from .request import Cluster, Front, SearchRequest

log = logging.getLogger(__name__)

SPLITS = ("val", "test", "train")  # that annotation files may be named for
TOLERANCE = 0.1  # relative distance from a target, unless --tolerance is given


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.search",
        description=(
            "Evaluates the accuracy and the latency of every architecture of a "
            "trained supernet, and measures the architectures of the frontier again from "
            "their exported files."
        ),
        examples=(
            "search --model runs/mine --data DIR",
            "search --model runs/mine --data DIR --budget-ms 8",
            "search --model runs/mine --data DIR --budget-ms 8 --finetune-front",
            "search --model runs/mine --data DIR --strategy race --confirm-on val,test",
            "search --model runs/mine --data DIR --targets-ms 2.3,4.4 --backend tensorrt "
            "--precision fp16",
            "search --model runs/mine --data DIR --backend torch-graph --precision bf16",
        ),
    )
    add = arguments.add_argument
    add_model(
        arguments, "--run", text="run folder with supernet.safetensors, to which the search writes"
    )
    add_data_arguments(arguments, "the val split is searched on", SPLITS)
    add = arguments.add_argument_group("what is searched").add_argument
    add(
        "--strategy",
        default="exhaustive",
        choices=("exhaustive", "race"),
        help="exhaustive: evaluate every configuration on all images; race: drop configurations "
        "that can no longer be on the frontier as images are added",
    )
    add("--metric", default="ap", choices=METRICS, help="metric that the search maximises")
    add(
        "--mode",
        default=DECISION.mode,
        choices=MODES,
        help="mode of the latencies that engines, candidates and targets are judged by (the "
        "paper's latencies are buffered)",
    )
    add(
        "--targets-ms",
        help="target latencies in ms, such as 2.3,3.5,4.4: find the best configuration whose "
        "latency differs from each target by at most --tolerance, above or below, instead of the "
        "frontier",
    )
    add(
        "--tolerance",
        type=number(0, 1, "()"),
        help="largest relative distance of a chosen configuration's latency from its target, with "
        f"--targets-ms (default: {TOLERANCE:g})",
    )
    add_budget(add)
    add = arguments.add_argument_group("how much is measured").add_argument
    add(
        "--engines",
        type=whole(*ENGINES),
        default=18,
        help="number of engines to measure for the latency model",
    )
    add(
        "--most-engines",
        type=whole(*ENGINES),
        help="largest number of engines to measure while the cross-validation error of the latency "
        "model is too large (default: twice --engines)",
    )
    add(
        "--candidates",
        type=whole(*CANDIDATES),
        default=10,
        help="number of configurations to measure by the full protocol",
    )
    add(
        "--confirm-on",
        default="val",
        type=folder_names,
        help="splits to evaluate these configurations on: val, or val,test",
    )
    add_front(add)
    add = arguments.add_argument_group("race (--strategy race)").add_argument
    add(
        "--confidence",
        type=number(0, 1, "()"),
        help="a configuration is dropped when its chance to be on the frontier falls to 1 minus "
        "this value (default: 0.95)",
    )
    add(
        "--margin",
        type=number(0, 1),
        help="AP, as a fraction, by which a configuration must be able to beat all faster "
        "configurations (default: 0.003)",
    )
    add(
        "--first",
        type=number(0, 1, "(]"),
        help="fraction of the images in the first stage, which has at least 30 images (default: "
        "0.05)",
    )
    add(
        "--loss",
        type=number(0, 1, "[)"),
        help="part of the frontier's hypervolume that all dropped backbones together may cost, by "
        "the sum of what each costs at most in 95 %% of the resamples; 0 drops no backbone "
        "(default: 0.01)",
    )
    deployment = arguments.add_argument_group("deployment")
    add = deployment.add_argument
    add_deployment(add)
    add("--force", action="store_true", help="measure even if other processes use the GPU")
    run = arguments.add_argument_group("where the search runs")
    add_device(run, "of the passes over the images")
    add = run.add_argument
    add_workers(run, "the work is divided over machines or cores")
    add(
        "--plan",
        action="store_true",
        help="do not search; time a few passes on this machine and print the estimated duration",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the search that ``argv`` describes and prints its result."""
    args = parser().parse_args(argv)
    args.data = source_of(args, SPLITS)
    words = command_line("python -m rfdetr_repro.search", argv)
    request = request_of(args, words)
    from .run import (  # torch loads slowly, so the request is checked first
        plan_front,
        plan_search,
        run_search,
    )

    if args.plan:
        print("\n".join([*plan_search(request).lines(), *plan_front(request)]))
        return
    print("\n".join(run_search(request, estimate=True).lines()))
    if request.budget is not None:
        tell_pick(request.run, request.budget, request.deployment.backend)


def request_of(args: argparse.Namespace, words: str) -> SearchRequest:
    """The request that the arguments describe; errors name the arguments."""
    from .race import Rules
    from .request import SearchRequest, check_confirmed, decided_by
    from .targets import Targets

    asked = args.targets_ms
    if asked is None:
        refuse({"--tolerance": args.tolerance}, "without --targets-ms")
    targets = None if asked is None else Targets.parse(asked, args.tolerance or TOLERANCE)
    of_race = {name: getattr(args, name) for name in ("first", "confidence", "margin", "loss")}
    if args.strategy != "race":
        refuse({f"--{name}": value for name, value in of_race.items()}, "without --strategy race")
    rules = Rules(**{name: value for name, value in of_race.items() if value is not None})
    if args.most_engines is not None and args.most_engines < args.engines:
        raise InputError(
            f"--most-engines {args.most_engines} is less than --engines {args.engines}",
            hint="raise --most-engines, or leave --most-engines out",
        )
    wanted = split_names(args.confirm_on)
    check_confirmed(wanted, f"--confirm-on {args.confirm_on}")
    return SearchRequest(
        args.model.run_folder(),
        args.data,
        strategy=args.strategy,
        rules=rules,
        metric=args.metric,
        targets=targets,
        budget=budget_of(args, args.mode, args.metric),
        engines=args.engines,
        most_engines=args.most_engines,
        candidates=args.candidates,
        deployment=deployment_of(args),
        protocols=decided_by(args.mode),
        confirm_on=tuple(wanted),
        device=args.device,
        workers=workers_of(args),
        front=front_of(args),
        force=args.force,
        command=words,
        tell=log.info,
        progress=lambda step: _bar,
    )


def add_workers(arguments: argparse._ActionsContainer, use: str) -> None:
    """Adds ``--workers``, ``--address`` and ``--worker-count``; ``use``: what the workers do."""
    add = arguments.add_argument
    add(
        "--workers",
        choices=("ray",),
        help=f"work on many machines with Ray, see docs/many_machines.md: {use} (default: work in "
        "this process)",
    )
    add(
        "--address",
        help="address of a running Ray cluster, HOST:PORT or auto (default: start a cluster on "
        "this machine)",
    )
    add(
        "--worker-count",
        type=whole(1, MOST_PROCESSES),
        help="largest number of workers (default: as many as fit)",
    )


def add_front(add: Callable[..., Any]) -> None:
    """Adds ``--finetune-front`` and ``--finetune-steps`` by an ``add_argument``."""
    add(
        "--finetune-front",
        action="store_true",
        help="train each of the measured configurations further, on the train split, and measure "
        "the files again by the full protocol; a budget then chooses among all files",
    )
    add(
        "--finetune-steps",
        type=whole(*TRAIN_WHOLE["steps"]),
        metavar="STEPS",
        help=f"number of optimizer steps of each of these trainings (default: {FINETUNE_STEPS})",
    )


def front_of(args: argparse.Namespace) -> Front | None:
    """What the arguments of :func:`add_front` ask for; None without ``--finetune-front``. Raises
    :class:`InputError` for ``--finetune-steps`` alone.
    """
    from .request import Front

    if not args.finetune_front:
        if args.finetune_steps is not None:
            raise InputError(
                "--finetune-steps without --finetune-front", hint="add --finetune-front"
            )
        return None
    return Front(args.finetune_steps or FINETUNE_STEPS)


def workers_of(args: argparse.Namespace) -> Cluster | None:
    """The workers that the arguments of :func:`add_workers` ask for; None for this process."""
    from .request import Cluster

    if args.workers is None:
        if args.address is not None or args.worker_count is not None:
            raise InputError("--address and --worker-count belong to --workers ray")
        return None
    return Cluster(args.address, args.worker_count)


def _bar(items: Iterable[Any]) -> Iterable[Any]:
    bar: Iterable[Any] = logs.progress_bar(items)
    return bar
