"""Exports one architecture of a trained supernet:

python -m rfdetr_repro.export --model runs/embedded --arch r128-p16-w1-d2-q25 --out model.onnx
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.export.tensorrt import engine as tensorrt
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    add_antialias,
    add_architecture,
    add_file_facts,
    add_float16_audit,
    add_model,
    label,
    output_file,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import labels_given
from rfdetr_repro.spec.presets import parse_arch
from rfdetr_repro.spec.protocol import PRECISIONS
from rfdetr_repro.spec.resize_rules import describe, with_antialias
from rfdetr_repro.spec.unfinished import temporary_folder

log = logging.getLogger(__name__)

SUFFIXES = {"onnx": ".onnx", "torch": ".safetensors", "tensorrt": ".onnx", "tensorrt-rtx": ".onnx"}
_OUT = (
    "file to write, NAME.onnx, or NAME.safetensors with --to torch; the manifest, and the engine "
    "of --to tensorrt, are written to the same folder"
)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.export",
        description="Exports a checkpoint as an artifact: a model file with a manifest.",
        examples=(
            "export --model runs/mine --arch r128-p16-w1-d2-q25 --out model.onnx",
            "export --model FILE.pth --size nano --out nano-fp16.onnx --precision fp16",
        ),
    )
    add = arguments.add_argument
    add_model(arguments, "--checkpoint")
    add_file_facts(arguments)
    add_architecture(arguments)
    add("--out", required=True, type=output_file, help=_OUT)
    add(
        "--precision",
        default="fp32",
        choices=PRECISIONS,
        help="number format of the weights and activations",
    )
    add(
        "--to",
        default="onnx",
        choices=("onnx", "torch", "tensorrt", "tensorrt-rtx"),
        help="format of the artifact; TensorRT also builds an engine from the ONNX file",
    )
    add_float16_audit(arguments)
    add_antialias(arguments)
    add("--name", type=label, help="name of the model in reports (default: rfdetr-ARCH)")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Exports the checkpoint that ``argv`` names; raises :class:`InputError` for bad arguments or a
    bad checkpoint.
    """
    args = parser().parse_args(argv)
    if args.precision == "fp32" and (args.audit_images or args.islands):
        raise InputError("--audit-images and --islands belong to --precision fp16")
    if args.to == "torch" and args.precision == "fp16":
        raise InputError(
            "an artifact for PyTorch is always in float32", hint="use --to onnx for fp16"
        )
    _check_suffix(args.out, args.to)
    asked = None if args.arch is None else parse_arch(args.arch)
    if args.to.startswith("tensorrt"):
        tensorrt.target(args.to)  # fails before the work rather than after it
    from rfdetr_repro.export.onnx.exporter import export_onnx

    # torch loads slowly, so the arguments are checked first
    from rfdetr_repro.model.checkpoints.pretrained import load_pretrained

    from .artifact import ArtifactMeta
    from .half import audited_half, summary
    from .torch import export_torch

    path, note = args.model.weights()
    if note:
        log.info(note)
    supernet, card, digest = load_pretrained(path, args.size, labels_given(args.labels))
    arch = asked or card.arch
    arch = arch.with_input(*args.shape) if args.shape else arch
    if arch.rounding:
        log.info(arch.rounding)
    model = ModelId("rfdetr", args.name or f"rfdetr-{arch.key}", checkpoint_sha256=digest)
    resize = with_antialias(card.resize_rule, args.antialias)
    meta = ArtifactMeta(model, card.class_names, card.category_ids, resize)
    if args.precision == "fp32":
        export = export_torch if args.to == "torch" else export_onnx
        artifact = export(supernet.slice(arch), args.out, meta=meta)
    else:
        with temporary_folder() as folder:  # the audit runs the float32 graph
            wide = export_onnx(supernet.slice(arch), Path(folder, "fp32.onnx"), meta=meta)
            artifact = audited_half(
                wide, args.out, pictures=args.audit_images, islands=args.islands
            )
        print(summary(artifact))
    made = artifact.manifest
    print(
        f"{artifact.path}  {made.size_bytes / 1e6:.1f} MB  {made.params / 1e6:.2f} M parameters  "
        f"{made.flops / 1e9:.2f} GFLOP"
    )
    print(f"sha256 {artifact.sha256}; {describe(made.resize)}")
    if args.to.startswith("tensorrt"):
        print(tensorrt.summary(tensorrt.build_engine(artifact, args.to, artifact.path.parent)))


def _check_suffix(out: Path, to: str) -> None:
    """Raises :class:`InputError` unless the file's suffix matches its content: ONNX bytes in a file
    .engine would be given to TensorRT.
    """
    wanted = SUFFIXES[to]
    if out.suffix.lower() == wanted:
        return
    what = (
        f"--to {to} writes a {wanted} file, and the file name in --out has "
        f"{out.suffix or 'no ending'}"
    )
    hint = f"name the file {out.with_suffix(wanted).name}"
    if out.suffix.lower() in (".engine", ".plan", ".trt") and not to.startswith("tensorrt"):
        hint += "; for an engine add --to tensorrt, which builds the engine next to the ONNX file"
    if out.suffix.lower() == ".safetensors" and to == "onnx":
        hint += ", or add --to torch"
    raise InputError(what, out, hint)
