"""Export one architecture of a trained supernet:

python -m rfdetr_repro.export --checkpoint runs/embedded/supernet.safetensors \
    --arch r128-p16-w1-d2-q25 --out model.onnx
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.export.tensorrt import engine as tensorrt
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.arch import Arch, parse_shape
from rfdetr_repro.spec.arguments import any_path, input_folder, label, output_file
from rfdetr_repro.spec.errors import ArgumentParser, InputError
from rfdetr_repro.spec.labels import LABELS_HELP, labels_given
from rfdetr_repro.spec.presets import preset
from rfdetr_repro.spec.resize_rules import describe, with_antialias
from rfdetr_repro.spec.unfinished import temporary_folder

SUFFIXES = {"onnx": ".onnx", "torch": ".safetensors", "tensorrt": ".onnx", "tensorrt-rtx": ".onnx"}
_OUT = (
    "file to write: .onnx, or .safetensors with --to torch; its manifest, and an engine of --to "
    "tensorrt, go beside the file"
)


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        "rfdetr_repro.export", description="Checkpoint -> artifact with its manifest."
    )
    add = arguments.add_argument
    add(
        "--checkpoint",
        required=True,
        type=any_path,
        help="model file: ours, released, transformers",
    )
    add("--size", help="name of the size, where the file does not tell it")
    add("--labels", help=LABELS_HELP)
    add(
        "--arch",
        help="like r384-p16-w2-d2-q300, or the name of a size (default: the checkpoint's own)",
    )
    add(
        "--shape",
        type=parse_shape,
        help="input height x width in px, like 384x640 (default: the architecture's)",
    )
    add("--out", required=True, type=output_file, help=_OUT)
    add("--precision", default="fp32", choices=("fp32", "fp16"))
    add("--to", default="onnx", choices=("onnx", "torch", "tensorrt", "tensorrt-rtx"))
    add(
        "--audit-images",
        type=input_folder,
        help="fp16: folder of pictures for the range audit (default: noise)",
    )
    add(
        "--islands",
        nargs="*",
        default=(),
        help="fp16: further nodes or operators to keep in float32",
    )
    add(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        help="resize of pictures (default: what the checkpoint states)",
    )
    add("--name", type=label, help="printed name (default: rfdetr-ARCH)")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.precision == "fp32" and (args.audit_images or args.islands):
        raise InputError("--audit-images and --islands belong to --precision fp16")
    if args.to == "torch" and args.precision == "fp16":
        raise InputError("a PyTorch artifact is float32", hint="use --to onnx for fp16")
    _check_suffix(args.out, args.to)
    asked = None if args.arch is None else parse_arch(args.arch)
    if args.to.startswith("tensorrt"):
        tensorrt.target(args.to)  # fails before the work, not after it
    from rfdetr_repro.export.onnx.exporter import export_onnx

    # torch loads slowly; arguments are checked first
    from rfdetr_repro.model.checkpoints.pretrained import load_pretrained

    from .artifact import ArtifactMeta
    from .half import audited_half, summary
    from .torch import export_torch

    supernet, card, digest = load_pretrained(args.checkpoint, args.size, labels_given(args.labels))
    arch = asked or card.arch
    arch = arch.with_input(*args.shape) if args.shape else arch
    if arch.rounding:
        print(arch.rounding)
    model = ModelId("rfdetr", args.name or f"rfdetr-{arch.key}", checkpoint_sha256=digest)
    resize = with_antialias(card.resize_rule, args.antialias)
    meta = ArtifactMeta(model, card.class_names, card.category_ids, resize)
    if args.precision == "fp32":
        export = export_torch if args.to == "torch" else export_onnx
        artifact = export(supernet.slice(arch), args.out, meta=meta)
    else:
        with temporary_folder() as folder:  # the audit looks at the float32 graph
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
    """A file's name must say what is in it: ONNX bytes called .engine would be handed to
    TensorRT.
    """
    wanted = SUFFIXES[to]
    if out.suffix.lower() == wanted:
        return
    what = f"--to {to} writes a {wanted} file, and --out says {out.suffix or 'no ending'}"
    hint = f"name the file {out.with_suffix(wanted).name}"
    if out.suffix.lower() in (".engine", ".plan", ".trt") and not to.startswith("tensorrt"):
        hint += "; for an engine add --to tensorrt, which builds the engine beside the ONNX file"
    if out.suffix.lower() == ".safetensors" and to == "onnx":
        hint += ", or add --to torch"
    raise InputError(what, out, hint)


def parse_arch(name: str) -> Arch:
    """An architecture key, or the name of a size."""
    return Arch.parse(name) if name.startswith("r") and "-" in name else preset(name).arch
