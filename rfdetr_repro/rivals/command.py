"""Trains RF-DETR and rivals on the same data by the same budget and answers which is more accurate
at equal latency:

rfdetr-repro train-rival --model rfdetr-pico,dfine-pico --data DIR --out runs/rivals \
    [--seeds 0,1,2] [--steps N] [--protocol both] [--quick]

Run the command again to resume; more seeds and models can be added to the folder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.spec.arch import parse_shape
from rfdetr_repro.spec.arguments import LARGEST_SEED, ArgumentParser, output_folder, whole, wholes
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.protocol import WHOLE, Protocol
from rfdetr_repro.spec.shared_arguments import add_device
from rfdetr_repro.spec.train_config import TRAIN_WHOLE

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

    from .names import Entrant

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
PROTOCOLS = ("buffered", "sustained", "both")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.rivals",
        description=(
            "Trains RF-DETR and other detectors (D-FINE, LW-DETR, RT-DETR, RT-DETRv2, DEIMv2, by "
            "transformers' own models and losses) on the same images in the same order by the same "
            "number of steps, with several seeds; exports every model, measures accuracy and "
            "latency of the files, and prints whether RF-DETR or the rival is more accurate at "
            "equal latency, with 95 % intervals over the seeds."
        ),
        examples=(
            "train-rival --model rfdetr-pico,dfine-pico --data DIR --out runs/rivals",
            "train-rival --model rfdetr-pico,lwdetr-pico,rtdetr-pico --data DIR --out runs/rivals "
            "--steps 2000 --seeds 0,1,2 --protocol both",
            "train-rival --model rfdetr-nano=nano.pth,dfine-n=dfine.safetensors --data DIR "
            "--out runs/full",
        ),
    )
    add_data_arguments(arguments, "with a train and a val split, and for the answer a test split")
    add = arguments.add_argument_group("models").add_argument
    add(
        "--model",
        required=True,
        action="append",
        metavar="NAME[=WEIGHTS],...",
        help="models to train, separated by commas: rfdetr-SIZE, or a rival such as dfine-n, "
        "lwdetr-t, rtdetr-r18 or deimv2; FAMILY-pico is of pico width, for CPUs. A file of weights "
        "after = is what the training starts from (default: random weights)",
    )
    add(
        "--queries",
        type=whole(1, 1000),
        help="object queries of every model (default: those of its size)",
    )
    add(
        "--shape",
        type=parse_shape,
        metavar="HxW",
        help="height x width of the input in px of every model without a search space, like "
        "128x128 (default: that of its size)",
    )
    add(
        "--archs",
        type=whole(1, 100),
        default=5,
        metavar="N",
        help="number of architectures of an RF-DETR supernet that are measured, spread evenly over "
        "their operations, beside that of its size",
    )
    add = arguments.add_argument_group("budget").add_argument
    add(
        "--seeds",
        type=wholes(0, LARGEST_SEED),
        default=[0, 1, 2],
        metavar="N,...",
        help="seeds of the trainings: of initial weights, order of images and augmentation "
        "(default: 0,1,2)",
    )
    for name, text in (
        ("steps", "optimizer steps of every training"),
        ("batch_size", "images per micro-batch"),
        ("accumulate", "micro-batches per optimizer step"),
        ("evaluate_every", "steps between evaluations on val during a training; 0: none at all"),
    ):
        add(
            f"--{name.replace('_', '-')}",
            type=whole(*TRAIN_WHOLE[name]),
            metavar="N",
            help=f"{text} (default: that of RF-DETR's recipe)",
        )
    add(
        "--set",
        action="append",
        default=[],
        metavar="[MODEL:]NAME=VALUE",
        help="set another field of the recipe for all models, such as lr=2e-4, or for one model, "
        "such as dfine-pico:lr=2e-4; may be repeated",
    )
    add = arguments.add_argument_group("measurement").add_argument
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="buffered",
        help="buffered: wait before each sample; sustained: closed loop without waits; both",
    )
    add(
        "--threads",
        type=whole(*WHOLE["threads"]),
        default=Protocol.threads,
        help="number of threads of ONNX Runtime, which runs the files on the CPU",
    )
    add("--quick", action="store_true", help="take few samples of each latency, for a first look")
    run = arguments.add_argument_group("run")
    add_device(run, "of the trainings")
    run.add_argument(
        "--out",
        required=True,
        type=output_folder,
        help="folder of the comparison; an existing one is continued",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command and prints the tables."""
    args = parser().parse_args(argv)
    entrants = _entrants(args.model)
    budget, own = _settings(args, [one.id for one in entrants])
    source = source_of(args, SPLITS)
    if source is None:
        raise ValueError("source_of refuses missing data")
    # slow to load; arguments are checked first
    from rfdetr_repro.data.census import print_census
    from rfdetr_repro.data.coco import read_splits
    from rfdetr_repro.ops.device import choose_device
    from rfdetr_repro.tables.format import render
    from rfdetr_repro.tables.rivals import rivals_tables
    from rfdetr_repro.tables.screen import width

    from .comparison import RECORDS, Comparison, run

    splits = read_splits(source, SPLITS[1:], needed=("val",))
    print_census(splits.values())
    _warn(splits)
    asked = Comparison(
        entrants=entrants,
        seeds=args.seeds,
        splits=splits,
        folder=args.out,
        protocols=_protocols(args),
        device=choose_device(args.device),
        budget=budget,
        own=own,
        queries=args.queries,
        shape=args.shape,
        archs=args.archs,
        command=command_line("rfdetr-repro train-rival", argv),
    )
    records = run(asked)
    print(render(rivals_tables(records), "text", width()))
    print(f"records in {Path(args.out, RECORDS)}")


def _entrants(given: Sequence[str]) -> list[Entrant]:
    """The models that ``--model`` names. Raises :class:`InputError` for a model named twice, a file
    that does not exist, and an unknown name.
    """
    from .names import entrant

    found: dict[str, Entrant] = {}
    for text in (part.strip() for value in given for part in value.split(",")):
        name, equals, weights = text.partition("=")
        path = Path(weights) if equals else None
        one = entrant(name, path)
        if path is not None and not path.is_file():
            raise InputError("the file of weights does not exist", path, f"of {name}")
        if one.id in found:
            raise InputError(f"the model {one.id} is named twice", "--model")
        found[one.id] = one
    return list(found.values())


def _settings(
    args: argparse.Namespace, names: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Settings for all models, and those for one model by its name."""
    budget = [
        f"{name}={value}"
        for name in ("steps", "batch_size", "accumulate", "evaluate_every")
        if (value := getattr(args, name)) is not None
    ]
    own: dict[str, list[str]] = {}
    for text in args.set:
        head, colon, setting = text.partition(":")
        if not colon or "=" in head:
            budget.append(text)
        elif head in names:
            own.setdefault(head, []).append(setting)
        else:
            raise InputError(
                f"--set names {head!r}, which is not trained",
                text,
                f"the models are {', '.join(names)}",
            )
    return budget, own


def _protocols(args: argparse.Namespace) -> list[Protocol]:
    """The protocols of the benchmark command with these arguments."""
    from rfdetr_repro.bench.command.arguments import parser as of_bench
    from rfdetr_repro.bench.command.protocols import protocols_of

    words = ["--model", "file", "--protocol", args.protocol, "--threads", str(args.threads)]
    return protocols_of(of_bench().parse_args([*words, *["--quick"] * args.quick]))


def _warn(splits: dict[str, CocoSplit]) -> None:
    for name in ("val", "test"):
        if name in splits and not len(splits[name].table.ids):
            raise InputError(f"split {name!r} has no annotations", splits[name].name)
    if "test" not in splits:
        log.warning(
            "the data have no test split: RF-DETR's architectures are chosen and compared on val, "
            "which favours RF-DETR"
        )
