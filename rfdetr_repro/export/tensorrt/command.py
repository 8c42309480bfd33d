"""``python -m rfdetr_repro.export.tensorrt``: an engine from an ONNX artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser, input_path, output_folder, whole

from .engine import MODULES


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.export.tensorrt",
        description="Builds TensorRT engines from an ONNX artifact.",
        examples=("tensorrt MODEL.onnx --backend tensorrt-rtx --builds 3",),
    )
    arguments.add_argument("model", type=input_path, help="ONNX file, which has a manifest")
    arguments.add_argument(
        "--backend",
        default="tensorrt",
        choices=tuple(MODULES),
        help="runtime that the engine is built for (default: tensorrt)",
    )
    arguments.add_argument(
        "--out", type=output_folder, help="folder for the engines (default: the model's folder)"
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
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Builds the engines that ``argv`` requests."""
    args = parser().parse_args(argv)
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.export.artifact import load_artifact

    from .engine import BuildOptions, build_engine, summary

    artifact = load_artifact(args.model)
    for build in range(args.builds):
        print(
            summary(
                build_engine(
                    artifact,
                    args.backend,
                    args.out or args.model.parent,
                    BuildOptions(args.level, build=build),
                )
            )
        )
