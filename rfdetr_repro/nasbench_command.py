"""``rfdetr-repro nasbench``: the benchmark of architecture search.

    rfdetr-repro nasbench [--arch KEY [--seed N] [--split NAME] [--first N]] [--folder DIR]
    rfdetr-repro nasbench --build WEIGHTS --data DIR --seed N --training TEXT --folder DIR
    rfdetr-repro nasbench --latencies RECORDS --folder DIR

Questions need no PyTorch; a build evaluates a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.data.source import DataSource, add_data_arguments, source_of
from rfdetr_repro.nasbench.bench import LATENCIES, Answer, NasBench
from rfdetr_repro.nasbench.latency import Latencies, Timing
from rfdetr_repro.nasbench.space import SPACE
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    any_path,
    input_file,
    refuse,
    whole,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO

SPLITS = ("val", "test")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.nasbench_command",
        description=(
            "Asks the benchmark of architecture search: AP of an architecture of the pico "
            "supernet on some images, and its latency. Without --arch it prints what the "
            "benchmark holds. The data are small and synthetic and say nothing about COCO."
        ),
        examples=(
            "nasbench",
            "nasbench --arch r128-p16-w1-d2-q25 --first 100",
            "nasbench --build runs/mine/supernet.safetensors --data data/embedded --seed 3 "
            '--training "4,000 steps from random weights" --folder runs/nasbench',
            "nasbench --latencies runs/mine/records.jsonl --folder runs/nasbench",
        ),
    )
    add = arguments.add_argument
    add(
        "--folder",
        type=any_path,
        metavar="DIR",
        help="folder of the benchmark's files (default: results/nasbench of the repository)",
    )
    add("--arch", metavar="KEY", help="architecture, such as r128-p16-w1-d2-q25")
    add(
        "--seed",
        type=whole(0, 10**6),
        metavar="N",
        help="training seed of the weights that are asked about or built (default: 0)",
    )
    add("--split", choices=SPLITS, help="split of the embedded data set (default: val)")
    add(
        "--first",
        type=whole(1, 10**6),
        metavar="N",
        help="AP on the first N images of the benchmark's order (default: all)",
    )
    build = arguments.add_argument_group(
        "build",
        "A build evaluates every architecture of the space with the weights of one training and "
        "writes one file. A build that was stopped goes on when the command is repeated.",
    )
    add = build.add_argument
    add(
        "--build",
        type=input_file,
        metavar="WEIGHTS",
        help="supernet.safetensors of a run, or other weights of this package",
    )
    add(
        "--training",
        metavar="TEXT",
        help="how the weights were trained, in words that the file will hold; needed by --build",
    )
    add(
        "--latencies",
        type=input_file,
        metavar="RECORDS",
        help="store with Records of measured engines of the pico supernet, such as records.jsonl "
        "of a search; writes the measured latencies, and modelled latencies of all other "
        "architectures, to latency.json of --folder",
    )
    add_data_arguments(arguments, "the data to evaluate on; only with --build", SPLITS)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Prints or builds what ``argv`` asks for; returns the exit code."""
    args = parser().parse_args(argv)
    data = source_of(args, SPLITS, needed=False)
    if args.build is not None:
        others = {"--arch": args.arch, "--first": args.first, "--latencies": args.latencies}
        refuse(others, "with --build")
        _build(args, data)
        return 0
    refuse({"--training": args.training, "--data": data}, "without --build")
    if args.latencies is not None:
        others = {name: getattr(args, name[2:]) for name in ("--arch", "--seed", "--split")}
        refuse({**others, "--first": args.first}, "with --latencies")
        _latencies(args)
        return 0
    if args.arch is None:
        asked = {"--seed": args.seed, "--split": args.split, "--first": args.first}
        refuse(asked, "without --arch")
    bench = NasBench.load(args.folder)
    lines = _held(bench) if args.arch is None else _answers(bench, args)
    print("\n".join(lines))
    return 0


def _held(bench: NasBench) -> list[str]:
    """What the benchmark holds, line by line."""
    lines = [f"{len(bench.archs)} architectures"]
    lines += [f"  {name}: {', '.join(map(str, axis))}" for name, axis in vars(bench.space).items()]
    for (seed, split), part in sorted(bench.parts.items()):
        best = 100 * part.ap.max(axis=0)
        lines.append(
            f"seed {seed} on {split}: {part.images} images, best AP {best[0]:.1f} (boxes) and "
            f"{best[1]:.1f} (masks); weights: {part.about['training']}"
        )
    if bench.latencies is None:
        return [*lines, "latencies: none"]
    for name, runtime in bench.latencies.runtimes.items():
        lines.append(
            f"latencies on {name}: {len(runtime.measured)} measured, the others modelled with a "
            f"median error of {runtime.error_median:.1%} (95 %: {runtime.error_p95:.1%})"
        )
    return lines


def _answers(bench: NasBench, args: argparse.Namespace) -> list[str]:
    """AP and latencies of one architecture, line by line."""
    split = args.split or "val"
    answer = bench.query(args.arch, args.seed or 0, args.first, split)
    lines = [f"{args.arch}, seed {args.seed or 0}, {split}: {_ap(answer)}"]
    if note := Arch.parse(args.arch).rounding:
        lines.append(f"  {note}")
    for name in bench.latencies.names if bench.latencies else ():
        lines.append(f"  {name}: {_ms(bench.latency(args.arch, name))}")
    return lines


def _ap(answer: Answer) -> str:
    shown = [
        "unknown" if value is None else f"{100 * value:.2f}"
        for value in (answer.ap, answer.mask_ap)
    ]
    return f"AP {shown[0]}, mask AP {shown[1]} on {answer.images} images"


def _ms(timing: Timing) -> str:
    if timing.measured:
        return f"{timing.ms:.2f} ms, measured (95 %: {timing.low:.2f} to {timing.high:.2f})"
    return f"{timing.ms:.2f} ms, modelled (median error {timing.error:.1%})"


def _latencies(args: argparse.Namespace) -> None:
    """Writes ``latency.json`` of ``--folder``."""
    if args.folder is None:
        raise InputError("the latencies need a folder", "--latencies", "add --folder DIR")
    from rfdetr_repro.search.nasbench_latency import runtimes_in

    archs = tuple(SPACE)
    runtimes = runtimes_in(read_stores([args.latencies]), archs, PICO.model)
    target = args.folder / LATENCIES
    Latencies(archs, runtimes).write(target)
    print(f"{target}: {', '.join(runtimes)}")


def _build(args: argparse.Namespace, data: DataSource | None) -> None:
    """Builds one file of the benchmark in ``--folder``."""
    missing = {"--data": data, "--folder": args.folder, "--training": args.training}
    for name, value in missing.items():
        if value is None:
            raise InputError("a build lacks an argument", name, f"add {name}")
    from rfdetr_repro.search.nasbench_build import BuildRequest
    from rfdetr_repro.spec.files import locked_folder, writable_folder
    from rfdetr_repro.spec.logs import progress_bar

    assert data is not None
    split, seed = args.split or "val", args.seed or 0
    folder: Path = writable_folder(args.folder)
    target = folder / f"seed{seed}-{split}.npz"
    if target.exists():
        raise InputError(
            "this file is built already", target, "choose another --seed, --split or --folder"
        )
    with locked_folder(folder, "builds this benchmark"):
        request = BuildRequest(
            args.build, data, split, SPACE, seed, args.training, folder / "backbones"
        )
        part = request(progress_bar)
        part.write(target)
    print(f"{target}: {len(part.archs)} architectures on {part.images} images")
