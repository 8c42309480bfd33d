"""``python -m rfdetr_repro.export.tensorrt``: an engine from an ONNX artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.export.artifact import MOST_IMAGES
from rfdetr_repro.spec.arguments import ArgumentParser, output_folder, whole
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_source import ModelSource
from rfdetr_repro.spec.shared_arguments import add_positional_model, positional_model

from .engine import BATCHES, MODULES


def add_batches(arguments: argparse.ArgumentParser) -> None:
    """Adds ``--batches``, the profile of an engine for any number of images."""
    arguments.add_argument(
        "--batches",
        type=_batches,
        metavar="LEAST,USUAL,LARGEST",
        help="numbers of images that an engine of a file with --batch dynamic takes; it is fastest "
        f"at the middle one (default: {','.join(map(str, BATCHES))})",
    )


def _batches(text: str) -> tuple[int, int, int]:
    parts = [whole(1, MOST_IMAGES)(part) for part in text.split(",")]
    if len(parts) != 3 or parts != sorted(parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three rising numbers of images, such as 1,8,32"
        )
    least, usual, most = parts
    return least, usual, most


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.export.tensorrt",
        description="Builds TensorRT engines from an ONNX artifact.",
        examples=("tensorrt MODEL.onnx --backend tensorrt-rtx --builds 3",),
    )
    add_positional_model(
        arguments, "ONNX file with a manifest; any other model is adopted or exported first"
    )
    arguments.add_argument(
        "--backend",
        default="tensorrt",
        choices=tuple(MODULES),
        help="runtime that the engine is built for (default: tensorrt)",
    )
    arguments.add_argument(
        "--out",
        type=output_folder,
        help="folder for the engines (default: the folder of the model's file)",
    )
    arguments.add_argument(
        "--level", type=whole(0, 5), default=3, help="builder optimization level, 0 to 5"
    )
    arguments.add_argument(
        "--builds",
        type=whole(1, 1000),
        default=1,
        help="number of engines to build from the file; a measurement should use at least 3",
    )
    add_batches(arguments)
    arguments.add_argument(
        "--capability",
        metavar="MAJOR.MINOR",
        help="build for this compute capability alone, such as 7.5 for a T4; for tensorrt-rtx "
        "(default: 8.0 and later, or 7.5 on a machine whose GPU has that)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Builds the engines that ``argv`` requests."""
    args = parser().parse_args(argv)
    model = positional_model(args)
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.export.deployed import deployed

    from .engine import BuildOptions, build_engine, summary, target

    target(args.backend, capability=args.capability)  # fails before an export rather than after it
    artifact = deployed(model, args.out or _folder_of(model))
    folder = args.out or artifact.path.parent
    for build in range(args.builds):
        options = BuildOptions(
            args.level, build=build, batches=args.batches, capability=args.capability
        )
        print(summary(build_engine(artifact, args.backend, folder, options)))


def _folder_of(model: ModelSource) -> Path:
    """The folder of the model's file, for files that are made of it."""
    if model.path is None:
        raise InputError("a size has no folder for its engine", hint="give --out FOLDER")
    return model.path if model.path.is_dir() else model.path.parent
