"""``python -m rfdetr_repro.export.half``: a float32 ONNX artifact as a float16 artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser, output_file
from rfdetr_repro.spec.shared_arguments import (
    add_float16_audit,
    add_positional_model,
    positional_model,
)
from rfdetr_repro.spec.unfinished import temporary_folder


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.export.half",
        description="Converts a float32 ONNX artifact to float16.",
        examples=("half MODEL.onnx --out MODEL-fp16.onnx --audit-images IMAGES",),
    )
    add_positional_model(
        arguments,
        "float32 ONNX file with a manifest; any other model is adopted or exported first",
    )
    arguments.add_argument("--out", required=True, type=output_file, help="file to write (.onnx)")
    add_float16_audit(arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Converts the artifact that ``argv`` names to float16."""
    args = parser().parse_args(argv)
    model = positional_model(args)
    # loads slowly, so the arguments are checked first
    from .deployed import deployed
    from .half import audited_half, summary

    with temporary_folder() as folder:
        made = audited_half(
            deployed(model, folder), args.out, pictures=args.audit_images, islands=args.islands
        )
    print(summary(made))
