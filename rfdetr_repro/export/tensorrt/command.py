"""``python -m rfdetr_repro.export.tensorrt``: an engine from an ONNX artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import input_path, output_folder, whole
from rfdetr_repro.spec.errors import ArgumentParser

from .engine import MODULES


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        "rfdetr_repro.export.tensorrt", description="ONNX artifact -> engine with its manifest."
    )
    arguments.add_argument("model", type=input_path, help="ONNX file with its manifest")
    arguments.add_argument(
        "--backend",
        default="tensorrt",
        choices=tuple(MODULES),
        help="what the engine is for (default: tensorrt)",
    )
    arguments.add_argument(
        "--out", type=output_folder, help="folder for engines (default: beside the model)"
    )
    arguments.add_argument(
        "--level", type=whole(0, 5), default=3, help="builder optimization level, 0 to 5"
    )
    arguments.add_argument(
        "--builds",
        type=whole(1, 1000),
        default=1,
        help="how many engines of the same file (a measurement wants 3)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    # loads slowly; the arguments are checked first
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
