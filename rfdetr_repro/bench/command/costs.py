"""``python -m rfdetr_repro.bench.costs``: parameters and operations of the models of the paper's
tables, as Records.

:mod:`rfdetr_repro.bench.costs` does the counting.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rfdetr_repro.spec.arguments import ArgumentParser, output_file, output_folder
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.ranges import choose

EVERY = ("shapes", "onnx", "flopcountermode", "calflops")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.bench.costs",
        description="Counts parameters and operations of models, and stores the counts as Records.",
        examples=(
            "costs --models rfdetr-nano --counters shapes,flopcountermode",
            "costs --page docs/costs.md",
            "costs --stated --models rtdetrv2-r18,deimv2-n,yolo26-n",
        ),
    )
    add = arguments.add_argument
    add(
        "--models",
        default="paper",
        help="names of models, separated by commas; default: the models of the paper's tables",
    )
    add(
        "--counters",
        help=f"counters, separated by commas, from {','.join(EVERY)}; default: all but onnx, and "
        f"calflops only where the package is installed",
    )
    add(
        "--artifacts",
        default="results/artifacts",
        type=output_folder,
        help="folder for the ONNX files that the counter onnx exports",
    )
    add(
        "--out",
        default="results/costs.jsonl",
        type=output_file,
        help="store to append to; counts that the store already holds are not repeated",
    )
    add(
        "--page",
        type=output_file,
        help="Markdown file to write, with a row for every printed cell, e.g. docs/costs.md",
    )
    add(
        "--stated",
        action="store_true",
        help="compare other detectors (--models; default: all) with what their authors state, and "
        "print a table; nothing is stored",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Counts the models that ``argv`` names and writes Records, CSV and page."""
    args = parser().parse_args(argv)
    wanted = args.counters.split(",") if args.counters else None
    for counter in wanted or ():
        choose(counter, EVERY, "counter")
    if args.stated:
        _print_stated(args)
        return
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.bench.costs import check, jobs, line, paper_models
    from rfdetr_repro.bench.machine import environment
    from rfdetr_repro.bench.models import known_name, model_id
    from rfdetr_repro.paper.costs import STATES, cost_cells, to_csv, to_markdown
    from rfdetr_repro.records.store import Store

    counters = wanted or _default_counters()
    names = paper_models() if args.models == "paper" else args.models.split(",")
    for name in names:
        model_id(name)
    names = [known_name(name) for name in names]
    check(names, counters)
    store = Store(args.out)
    known = store.ids()
    command = command_line("python -m rfdetr_repro.bench.costs", argv)
    for request, count in jobs(names, counters, args.artifacts):
        if request.id not in known:
            now = utc_now()
            record = replace(
                request, cost=count(), started_at=now, command=command, env=environment()
            )
            print(line(store.append(record)), flush=True)
    cells = cost_cells(store.read())
    write_atomic(Path(args.out).with_suffix(".csv"), to_csv(cells))
    if args.page:
        write_atomic(Path(args.page), to_markdown(cells))
    counts = {state: sum(cell.state == state for cell in cells) for state in STATES}
    print(", ".join(f"{count} cells {state}" for state, count in counts.items()))


def _print_stated(args: argparse.Namespace) -> None:
    """The baselines beside what their authors state."""
    if args.counters or args.page:
        raise InputError(
            "--stated has counters of its own and writes no page",
            hint="leave --counters and --page out",
        )
    from rfdetr_repro.baselines.catalog import entries, entry
    from rfdetr_repro.bench.models import known_name
    from rfdetr_repro.bench.stated import stated, table

    every = [name for name, known in entries().items() if known.size.params_m or known.size.gflops]
    names = every if args.models == "paper" else list(map(known_name, args.models.split(",")))
    for name in names:
        entry(name)  # an unknown name is told before anything is counted
    print(table(list(stated(names))))


def _default_counters() -> list[str]:
    if importlib.util.find_spec("calflops"):
        return ["shapes", "flopcountermode", "calflops"]
    print(
        "calflops is not installed: D-FINE's and one of LW-DETR's cells are not counted (pip "
        "install calflops accelerate)"
    )
    return ["shapes", "flopcountermode"]
