"""Exports one architecture of a trained supernet:

python -m rfdetr_repro.export --checkpoint runs/embedded/supernet.safetensors \
    --arch r128-p16-w1-d2-q25 --out model.onnx
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.export.tensorrt import engine as tensorrt
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.arch import Arch, parse_shape
from rfdetr_repro.spec.arguments import ArgumentParser, any_path, input_folder, label, output_file
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import LABELS_HELP, labels_given
from rfdetr_repro.spec.presets import preset
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
    )
    add = arguments.add_argument
    add(
        "--checkpoint",
        required=True,
        type=any_path,
        help="checkpoint of this project, of the released RF-DETR, or of transformers",
    )
    add("--size", help="name of the model size, for a file that does not state the size")
    add("--labels", help=LABELS_HELP)
    add(
        "--arch",
        help="architecture, such as r384-p16-w2-d2-q300 (resolution, patch size, windows, decoder "
        "layers, queries), or the name of a size (default: the checkpoint's own)",
    )
    add(
        "--shape",
        type=parse_shape,
        help="height x width of the input in pixels, such as 384x640 (default: the architecture's)",
    )
    add("--out", required=True, type=output_file, help=_OUT)
    add("--precision", default="fp32", choices=("fp32", "fp16"))
    add("--to", default="onnx", choices=("onnx", "torch", "tensorrt", "tensorrt-rtx"))
    add(
        "--audit-images",
        type=input_folder,
        help="folder of images for the range audit of --precision fp16 (default: noise)",
    )
    add(
        "--islands",
        nargs="*",
        default=(),
        help="further nodes or operators to keep in float32 with --precision fp16",
    )
    add(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        help="how images are resized (default: the rule that the checkpoint states)",
    )
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

    supernet, card, digest = load_pretrained(args.checkpoint, args.size, labels_given(args.labels))
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


def parse_arch(name: str) -> Arch:
    """The architecture of a key, such as r384-p16-w2-d2-q300, or of a size's name."""
    return Arch.parse(name) if name.startswith("r") and "-" in name else preset(name).arch
