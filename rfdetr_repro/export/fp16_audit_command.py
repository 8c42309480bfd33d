"""``python -m rfdetr_repro.export.fp16_audit``: which parts of an ONNX model leave the range of
float16.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.spec.arguments import ArgumentParser, input_folder, whole
from rfdetr_repro.spec.errors import EXIT_FAILED, EXIT_OK
from rfdetr_repro.spec.model_source import ModelSource
from rfdetr_repro.spec.shared_arguments import add_positional_model, positional_model
from rfdetr_repro.spec.unfinished import temporary_folder

MOST_INPUTS = 100_000


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.export.fp16_audit",
        description="Finds the parts of an ONNX model that leave the range of float16, on a CPU by "
        "running the float32 model. Exit code 0 if everything fits float16, 1 if some nodes "
        "must stay in float32.",
        examples=("fp16-audit MODEL.onnx --images IMAGES",),
    )
    add_positional_model(arguments, "float32 ONNX file to audit; any other model is exported first")
    arguments.add_argument(
        "--images",
        type=input_folder,
        help="folder of images to run the model on (default: noise, which proves less)",
    )
    arguments.add_argument(
        "--count",
        type=whole(1, MOST_INPUTS),
        default=8,
        help=f"number of images or noise inputs, 1 to {MOST_INPUTS}",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the audit of the model that ``argv`` names; the exit code is 0 if everything fits
    float16, 1 if islands are needed.
    """
    args = parser().parse_args(argv)
    model = positional_model(args)
    # loads slowly, so the arguments are checked first
    from .fp16_audit import audit, feeds_of

    with temporary_folder() as folder:
        path = _file(model, folder)
        found = audit(path, feeds_of(path, args.images, args.count))
    for risk in found.risks:
        print(f"{risk.kind:<16} {risk.op:<20} {risk.node}: {risk.value} up to {risk.largest:.4g}")
    source = f"{found.runs} pictures" if args.images else f"{found.runs} inputs of noise"
    islands = found.islands
    verdict = f"{len(islands)} nodes to keep in float32" if islands else "all values fit float16"
    print(f"{len(found.ranges)} values on {source}: {verdict}")
    return EXIT_FAILED if islands else EXIT_OK


def _file(model: ModelSource, folder: Path) -> Path:
    """The ONNX file to audit: any ONNX file as it is, everything else as an artifact."""
    from .deployed import deployed

    if model.kind == "onnx":
        return model.place
    return deployed(model, folder).path
