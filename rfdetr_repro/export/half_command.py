"""``python -m rfdetr_repro.export.half``: a float32 ONNX artifact as a float16 artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    add_float16_audit,
    input_path,
    output_file,
)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.export.half",
        description="Converts a float32 ONNX artifact to float16.",
        examples=("half MODEL.onnx --out MODEL-fp16.onnx --audit-images IMAGES",),
    )
    arguments.add_argument("model", type=input_path, help="float32 ONNX file, which has a manifest")
    arguments.add_argument("--out", required=True, type=output_file, help="file to write (.onnx)")
    add_float16_audit(arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Converts the artifact that ``argv`` names to float16."""
    args = parser().parse_args(argv)
    # loads slowly, so the arguments are checked first
    from .artifact import load_artifact
    from .half import audited_half, summary

    made = audited_half(
        load_artifact(args.model), args.out, pictures=args.audit_images, islands=args.islands
    )
    print(summary(made))
