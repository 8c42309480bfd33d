"""Frontier of the search space of a trained run:

python -m rfdetr_repro.search --run runs/embedded --data runs/embedded/data \
    [--strategy exhaustive|race] [--metric ap|mask_ap|...] [--mode buffered|sustained] \
    [--targets-ms 2.3,3.5,4.4 [--tolerance 0.1]] [--engines 18] [--candidates 10] [--plan] \
    [--workers ray] [--backend tensorrt --precision fp16 --cuda-graph] [--device cuda]

Writes Records to RUN/records.jsonl and artifacts to RUN/artifacts; run it again to resume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.records.model_check import model_checks
from rfdetr_repro.spec.arguments import MOST_PROCESSES, folder_names, input_folder, number, whole
from rfdetr_repro.spec.campaign import CANDIDATES, EMBEDDED, ENGINES, METRICS
from rfdetr_repro.spec.errors import ArgumentParser, InputError
from rfdetr_repro.spec.files import remove_unfinished, write_atomic
from rfdetr_repro.spec.protocol import DECISION, MODES, OF_ONNX


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
    from rfdetr_repro.evaluation.predict_split import device_of

    from .evaluation import goal  # torch loads slowly; the cheap checks of the arguments come first

    chosen = goal(args.metric)
    targets = _targets(args)
    rules = _rules(args)
    if args.most_engines is not None and args.most_engines < args.engines:
        raise InputError(
            f"--most-engines {args.most_engines} is less than --engines {args.engines}",
            mend="raise it, or leave it out",
        )
    from rfdetr_repro.bench.command.arguments import split_names
    from rfdetr_repro.data.census import print_census
    from rfdetr_repro.runtime.backends import check_backend

    from .deployment import Deployment
    from .engines import Fit

    words = "python -m rfdetr_repro.search " + " ".join(sys.argv[1:] if argv is None else argv)
    deployment = Deployment(args.backend, args.precision, args.cuda_graph)
    wanted = split_names(args.confirm_on)
    if "val" not in wanted or set(wanted) - {"val", "test"}:
        raise InputError(f"--confirm-on {args.confirm_on}", mend="write val, or val,test")
    check_backend(args.backend)
    search = open_search(
        args.run, args.data, masks=chosen.kind == "segm", command=words, device=args.device
    )
    search.deployment = deployment
    settings = replace(EMBEDDED, latency_mode=args.mode)
    search.decision, protocols = settings.decision, settings.protocols
    splits = [read_searched(search, args.data, name) for name in wanted]
    print_census(splits)
    fit = Fit(args.engines, args.most_engines)
    if args.plan:
        from .plan import Job, plan

        job = Job(search.space, len(search.split), fit, args.candidates, protocols, rules)
        print("\n".join(plan(search.detector, job).lines()))
        return
    print(f"passes on {device_of(search.detector)}, latencies on {search.deployment_text}")
    workers = _workers(args)
    try:
        with search.store.exclusive(), deployment.watched(force=args.force) as search.watched:
            remove_unfinished(args.run)
            if workers is not None:
                workers.join(search)
            _run(args, search, splits, fit, protocols, targets, rules)
    finally:
        if workers is not None:
            workers.close()


def _workers(args: argparse.Namespace) -> Any:
    if args.workers is None:
        if args.address is not None or args.worker_count is not None:
            raise InputError("--address and --worker-count belong to --workers ray")
        return None
    from .distributed import Workers

    return Workers(args.run, args.data, args.worker_count, args.address)


def _run(
    args: argparse.Namespace,
    search: Any,
    splits: list[Any],
    fit: Any,
    protocols: Sequence[Any],
    targets: Any,
    rules: Any,
) -> None:
    from rfdetr_repro.records.ap_gaps import ap_gaps, describe_gaps

    from .engines import fit_latency, forecasts
    from .evaluation import goal
    from .search import missing_classes
    from .targets import candidates

    if absent := missing_classes(search.split):
        print(
            f"no object of {', '.join(absent)} in {search.split.split}: AP says nothing about that"
        )
    if targets is not None:
        fit = fit.within(targets.tolerance)
    model, heldout, _ = fit_latency(search, fit, _bar, print)
    if targets is not None:
        fit.check(heldout)
        targets.check({arch: model.predict(arch) for arch in search.space})
    if rules is None:
        records = search.evaluate_all(model, heldout, _bar)
    else:
        records, outcome = search.race(
            model, heldout, goal=goal(args.metric), rules=rules, progress=print_stage
        )
        whole = len(search.space) * len(search.split)
        told = (
            f"{outcome.evaluations() / whole:.1%} of the image evaluations, {len(records)} "
            f"configurations left"
        )
        print(f"race: {told}; {outcome.took()}")
        write_atomic(
            args.run / "race.json",
            json.dumps([stage._asdict() for stage in outcome.stages], indent=1),
        )
    confirmed = []
    chosen = candidates(records, args.candidates, args.metric, targets)
    said = forecasts(search, model, heldout, chosen)
    for arch in _bar(chosen):
        confirmed += search.confirm(arch, splits, protocols, said[arch])
    records, error, seen = refitted(search, fit, confirmed, records, (model, heldout))
    print(seen.describe("latency model on the confirmed files:"))
    print(f"fitted to them too: {error.describe()}")
    for check in model_checks(confirmed):
        print(check.describe())
    print(f"{len(records)} configurations; Records in {search.store.path}")
    if gaps := describe_gaps(ap_gaps([*records, *confirmed])):
        print(gaps)
    if counted := search.space.counted():
        print(counted)
    if targets is not None:
        on_val = [
            record
            for record in confirmed
            if record.data and record.data.split == search.split.split
        ]
        print("\n".join(_picked(targets, on_val, args.metric, args.mode)))


def refitted(
    search: Any, fit: Any, confirmed: Sequence[Any], records: Sequence[Any], before: tuple[Any, Any]
) -> tuple[list[Any], Any, Any]:
    """(Records with latencies of the model fitted to the confirmed files too, its error, the former
    model's on these files).
    """
    from .engines import refit_latency

    model, error, seen = refit_latency(search, fit, confirmed, *before)
    return search.refit(records, model, error, seen), error, seen


def print_stage(stage: Any) -> None:
    kept = stage.entered - len(stage.left)
    print(
        f"race: after {stage.images} images {kept} of {stage.entered} configurations may be on "
        f"the frontier",
        flush=True,
    )


def _picked(targets: Any, confirmed: Sequence[Any], metric: str, mode: str) -> list[str]:
    """One line per target, by the latency of the confirmed file in the mode that was decided by."""
    from rfdetr_repro.records.pareto import metric as metric_of

    lines = []
    decided = [
        one for one in confirmed if one.protocol and one.protocol.mode == mode and one.latency
    ]
    for target, picks in targets.picks(decided, 1, metric).items():
        if picks:
            value = metric_of(metric).value(picks[0])
            score = "unknown" if value is None else f"{100 * value:.1f}"
            told = f"{metric_of(metric).name} {score}, {picks[0].latency.median_ms:.3g} ms {mode}"
            found = f"{picks[0].model.arch.key}, {told}"
        else:
            found = (
                f"no confirmed configuration lies within {targets.tolerance:.0%}, by its measured "
                f"{mode} latency"
            )
        lines.append(f"target {target:g} ms: {found}")
    return lines


def _targets(args: argparse.Namespace) -> Any:
    from .targets import Targets

    return None if args.targets_ms is None else Targets.parse(args.targets_ms, args.tolerance)


def _rules(args: argparse.Namespace) -> Any:
    from .race import Rules

    return (
        Rules(first=args.first, confidence=args.confidence, margin=args.margin)
        if args.strategy == "race"
        else None
    )


def open_search(
    run: Path, data: Path, *, masks: bool, command: str, device: str | None = None
) -> Any:
    """The search of the supernet in ``run`` on the val split of ``data``, with passes on
    ``device``.
    """
    from rfdetr_repro.bench.confirm import Context
    from rfdetr_repro.data.annotations import ClassMap
    from rfdetr_repro.data.coco import read_split
    from rfdetr_repro.model.checkpoints.native import load_supernet
    from rfdetr_repro.ops.device import to_device
    from rfdetr_repro.records.store import Store

    from .search import Search

    detector, card, digest = load_supernet(run / "supernet.safetensors")
    if card.space is None:
        raise InputError(
            "this model was trained for one architecture only",
            run,
            "train a supernet (without --fixed)",
        )
    if masks and not card.config.masks:
        raise InputError("this model has no masks to search by", run, "choose ap or ap50")
    split = read_split(data, "val", ClassMap(card.category_ids, card.class_names))
    if masks and (why := split.why_no_mask_ap()):
        raise InputError(
            f"mask AP on val cannot be measured: {why}",
            data,
            "mend the masks, or choose ap or ap50",
        )
    split.cache_images()
    detector = to_device(detector, device)
    store = Store(run / "records.jsonl")
    context = Context("search", command)
    return Search(
        detector, card, digest, card.space, split, store, run / "artifacts", context, masks=masks
    )


def read_searched(search: Any, data: Path, name: str) -> Any:
    """Split ``name`` of the searched data, in the supernet's classes; the one that is searched on
    is not read twice.
    """
    from rfdetr_repro.data.annotations import ClassMap
    from rfdetr_repro.data.coco import read_split

    if name == search.split.split:
        return search.split
    split = read_split(data, name, ClassMap(search.card.category_ids, search.card.class_names))
    if not len(split.table.ids):
        raise InputError(f"split {name!r} has no annotations", data, "leave it out of --confirm-on")
    return split


def _bar(items: Iterable[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, dynamic_ncols=True, disable=None)
