"""Frontier of the search space of a trained run:

python -m rfdetr_repro.search --run runs/embedded --data runs/embedded/data \
    [--strategy exhaustive|race] [--metric ap|mask_ap|...] [--mode buffered|sustained] \
    [--targets-ms 2.3,3.5,4.4 [--tolerance 0.1]] [--engines 18] [--candidates 10] [--plan] \
    [--workers ray] [--backend tensorrt --precision fp16 --cuda-graph] [--device cuda]

Writes Records to RUN/records.jsonl and artifacts to RUN/artifacts; run it again to resume.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rfdetr_repro.bench.command.arguments import split_names
from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arguments import (
    MOST_PROCESSES,
    ArgumentParser,
    folder_names,
    input_folder,
    number,
    whole,
)
from rfdetr_repro.spec.campaign import CANDIDATES, ENGINES, METRICS
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import DECISION, MODES, OF_ONNX

if TYPE_CHECKING:
    from .request import Cluster, SearchRequest


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        "rfdetr_repro.search", description="Every configuration -> AP and latency -> frontier."
    )
    add = arguments.add_argument
    add("--run", required=True, type=input_folder, help="run folder with supernet.safetensors")
    add_data_arguments(arguments, "the val split is searched on", ("val", "test"))
    add(
        "--strategy",
        default="exhaustive",
        choices=("exhaustive", "race"),
        help="race: configurations leave as images are added",
    )
    add("--metric", default="ap", choices=METRICS, help="what the search maximises")
    add(
        "--mode",
        default=DECISION.mode,
        choices=MODES,
        help="latencies that everything is decided by; the paper's are buffered",
    )
    add(
        "--targets-ms",
        help="latencies of --mode like 2.3,3.5,4.4: the best configuration near each, not the "
        "frontier",
    )
    add(
        "--tolerance",
        type=number(0, 1, "()"),
        default=0.1,
        help="part of a target by which a pick may miss it",
    )
    add(
        "--engines", type=whole(*ENGINES), default=18, help="engines measured for the latency model"
    )
    add(
        "--most-engines",
        type=whole(*ENGINES),
        help="while the model's error in a cross-validation is too large (default: twice "
        "--engines)",
    )
    add(
        "--candidates",
        type=whole(*CANDIDATES),
        default=10,
        help="configurations that get the full protocol",
    )
    add(
        "--confirm-on",
        default="val",
        type=folder_names,
        help="splits on which they are evaluated; with test too, like val,test",
    )
    add(
        "--confidence",
        type=number(0, 1, "()"),
        default=0.95,
        help="race: one leaves when its chance to be on the frontier is 1 - this",
    )
    add(
        "--margin",
        type=number(0, 1),
        default=0.003,
        help="race: AP (a fraction) by which it must be able to beat the faster ones",
    )
    add(
        "--first",
        type=number(0, 1, "(]"),
        default=0.05,
        help="race: part of the images in the first stage, at least 30 images",
    )
    add(
        "--backend",
        default="onnxruntime",
        choices=OF_ONNX,
        help="what the found models will run on: latencies are taken there",
    )
    add("--precision", default="fp32", choices=("fp32", "fp16"), help="of the found models' files")
    add("--cuda-graph", action="store_true", help="replay a captured CUDA graph")
    add("--force", action="store_true", help="measure even while other programs use the GPU")
    add(
        "--device",
        choices=("cpu", "cuda"),
        help="of the passes over the images (default: a GPU if there is one)",
    )
    add(
        "--workers",
        choices=("ray",),
        help="many machines, or cores, through Ray (docs/many_machines.md); default: this process",
    )
    add(
        "--address",
        help="of a running Ray cluster, HOST:PORT or auto; default: one of this machine alone",
    )
    add("--worker-count", type=whole(1, MOST_PROCESSES), help="at most so many workers")
    add(
        "--plan",
        action="store_true",
        help="search nothing: time a few passes here and say what it would take",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.data = source_of(args, ("val", "test"))
    words = "python -m rfdetr_repro.search " + " ".join(sys.argv[1:] if argv is None else argv)
    request = request_of(args, words)
    from .run import plan_search, run_search  # torch loads slowly; the request is checked first

    if args.plan:
        print("\n".join(plan_search(request).lines()))
        return
    print("\n".join(run_search(request).lines()))


def request_of(args: argparse.Namespace, words: str) -> SearchRequest:
    """The request that the arguments make; what is wrong is said in the arguments' names."""
    from .deployment import Deployment
    from .race import Rules
    from .request import SearchRequest, check_confirmed, decided_by
    from .targets import Targets

    asked = args.targets_ms
    targets = None if asked is None else Targets.parse(asked, args.tolerance)
    rules = Rules(first=args.first, confidence=args.confidence, margin=args.margin)
    if args.most_engines is not None and args.most_engines < args.engines:
        raise InputError(
            f"--most-engines {args.most_engines} is less than --engines {args.engines}",
            hint="raise it, or leave it out",
        )
    wanted = split_names(args.confirm_on)
    check_confirmed(wanted, f"--confirm-on {args.confirm_on}")
    return SearchRequest(
        args.run,
        args.data,
        strategy=args.strategy,
        rules=rules,
        metric=args.metric,
        targets=targets,
        engines=args.engines,
        most_engines=args.most_engines,
        candidates=args.candidates,
        deployment=Deployment(args.backend, args.precision, args.cuda_graph),
        protocols=decided_by(args.mode),
        confirm_on=tuple(wanted),
        device=args.device,
        workers=_workers(args),
        force=args.force,
        command=words,
        tell=partial(print, flush=True),
        progress=lambda step: _bar,
    )


def _workers(args: argparse.Namespace) -> Cluster | None:
    from .request import Cluster

    if args.workers is None:
        if args.address is not None or args.worker_count is not None:
            raise InputError("--address and --worker-count belong to --workers ray")
        return None
    return Cluster(args.address, args.worker_count)


def _bar(items: Iterable[Any]) -> Iterable[Any]:
    bar: Iterable[Any] = logs.progress_bar(items)
    return bar
