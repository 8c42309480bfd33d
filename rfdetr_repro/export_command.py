"""Exports one architecture of a trained supernet:

python -m rfdetr_repro.export --model runs/embedded --arch r128-p16-w1-d2-q25 --out model.onnx

The command stands above the benchmark, whose AP decides whether an INT8 file is written, and above
the runtimes, on which an engine is compared with its ONNX file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.export.artifact import MOST_IMAGES, OPEN_BATCH
from rfdetr_repro.export.int8.command import Calibrated, add_int8, given
from rfdetr_repro.export.plugin import ATTENTIONS, DECOMPOSED, PLUGIN, plugin_library
from rfdetr_repro.export.tensorrt import engine as tensorrt
from rfdetr_repro.export.tensorrt.command import add_batches
from rfdetr_repro.spec.arguments import ArgumentParser, label, output_file, whole
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import labels_given
from rfdetr_repro.spec.presets import parse_arch
from rfdetr_repro.spec.protocol import FILE_PRECISIONS
from rfdetr_repro.spec.resize_rules import describe
from rfdetr_repro.spec.shared_arguments import (
    add_antialias,
    add_architecture,
    add_file_facts,
    add_float16_audit,
    add_model,
)
from rfdetr_repro.spec.unfinished import temporary_folder

if TYPE_CHECKING:
    from rfdetr_repro.export.artifact import Artifact, ArtifactMeta
    from rfdetr_repro.model.detector import Detector

# suffix of --out -> the format that it means, unless --to names the format
FORMATS = {".onnx": "onnx", ".safetensors": "torch", ".engine": "tensorrt"}
# format -> the suffixes that --out may have
SUFFIXES = {
    "onnx": (".onnx",),
    "torch": (".safetensors",),
    "tensorrt": (".engine", ".onnx"),
    "tensorrt-rtx": (".engine", ".onnx"),
}
_OUT = (
    "file to write, whose suffix states the format: NAME.onnx, NAME.safetensors (for PyTorch) or "
    "NAME.engine (TensorRT; the ONNX file that the engine is built from is written next to it). "
    "The manifest is written to the same folder"
)
_BATCH = (
    "number of images of every run, or dynamic for a file that takes any number; preprocessing, "
    "evaluation and measurement read the number from the manifest"
)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.export",
        description="Exports a checkpoint as an artifact: a model file with a manifest.",
        examples=(
            "export --model runs/mine --arch r128-p16-w1-d2-q25 --out model.onnx",
            "export --model FILE.pth --size nano --out nano-fp16.onnx --precision fp16",
            "export --model FILE.pth --size nano --out nano.onnx --batch dynamic",
            "export --model runs/mine --out model-int8.onnx --precision int8 --data DIR",
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
        choices=FILE_PRECISIONS,
        help="number format of the weights and activations; int8 is calibrated on the train split "
        "of --data, and keeps the products in float32 that a measured audit names",
    )
    add(
        "--to",
        choices=tuple(SUFFIXES),
        help="format of the artifact (default: by the suffix of --out); tensorrt and tensorrt-rtx "
        "with --out NAME.onnx write the ONNX file and an engine named after its settings",
    )
    add("--batch", type=batch_of, default=1, metavar="NUMBER|dynamic", help=_BATCH)
    add_batches(arguments)
    add(
        "--attention",
        choices=ATTENTIONS,
        default=DECOMPOSED,
        help="deformable attention in the ONNX file: standard nodes around GridSample, or one node "
        "that only TensorRT runs, by this project's plugin; the plugin has not run on a GPU yet "
        "(default: %(default)s)",
    )
    add_float16_audit(arguments)
    add_antialias(arguments)
    add_int8(arguments)
    add("--name", type=label, help="name of the model in reports (default: rfdetr-ARCH)")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Exports the checkpoint that ``argv`` names; raises :class:`InputError` for bad arguments or a
    bad checkpoint.
    """
    args = parser().parse_args(argv)
    args.to = args.to or _format(args.out)
    _check(args)
    asked = None if args.arch is None else parse_arch(args.arch)
    data = Calibrated(args) if args.precision == "int8" else None
    from rfdetr_repro.export.deployed import FileFacts, loaded_weights

    facts = FileFacts(args.size, labels_given(args.labels), asked, args.shape, args.antialias)
    found = loaded_weights(args.model, facts)
    named = args.out.suffix.lower() == ".engine"
    out = args.out.with_suffix(".onnx") if named else args.out
    artifact = _written(found.detector, out, found.meta(args.name), args, data)
    made = artifact.manifest
    print(
        f"{artifact.path}  {made.size_bytes / 1e6:.1f} MB  {made.params / 1e6:.2f} M parameters  "
        f"{made.flops / 1e9:.2f} GFLOP{_images(made.batch)}"
    )
    print(f"sha256 {artifact.sha256}; {describe(made.resize)}")
    if args.to.startswith("tensorrt"):
        engine = tensorrt.build_engine(
            artifact,
            args.to,
            artifact.path.parent,
            tensorrt.BuildOptions(batches=args.batches),
            name=args.out.name if named else None,
        )
        from rfdetr_repro.runtime.engine_check import checked_when_built

        print(tensorrt.summary(engine, checked_when_built(engine, artifact, args.to)))


def _check(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` for arguments that contradict each other, and for an engine that
    cannot be built here, before anything is loaded.
    """
    _check_suffix(args.out, args.to)
    if args.batches and (args.batch != OPEN_BATCH or not args.to.startswith("tensorrt")):
        raise InputError("--batches belongs to an engine of --batch dynamic")
    if args.precision == "fp32" and args.islands:
        raise InputError("--islands belongs to --precision fp16 and int8")
    if args.precision != "fp16" and args.audit_images:
        raise InputError("--audit-images belongs to --precision fp16")
    if args.precision != "int8" and (stray := given(args)):
        raise InputError(f"only an export with --precision int8 takes {' and '.join(stray)}")
    if args.to == "torch" and args.precision != "fp32":
        raise InputError(
            "an artifact for PyTorch is always in float32",
            hint=f"use --to onnx for {args.precision}",
        )
    if args.to.startswith("tensorrt") and args.precision == "int8":
        raise InputError(
            "engines are not built from INT8 files, whose activations have a zero point that "
            "TensorRT does not take",
            args.out,
            "use --precision fp16, or --to onnx",
        )
    _check_plugin(args)
    if args.to.startswith("tensorrt"):
        tensorrt.target(args.to)
        if args.attention == PLUGIN:
            plugin_library()


def _check_plugin(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` for what a file with the plugin's node cannot be."""
    if args.attention != PLUGIN:
        return
    if args.to not in ("onnx", "tensorrt"):
        raise InputError(
            f"--to {args.to} has no plugin for the attention", hint="use --to tensorrt or onnx"
        )
    if args.batch == OPEN_BATCH:
        raise InputError(
            "--attention plugin takes a fixed number of images", hint="give --batch a number"
        )
    if args.precision == "int8" or args.audit_images:
        what = "--precision int8" if args.precision == "int8" else "--audit-images"
        raise InputError(
            f"{what} runs the file in ONNX Runtime, which does not know the plugin's node",
            hint="leave --attention plugin out",
        )


def _written(
    subnet: Detector,
    out: Path,
    meta: ArtifactMeta,
    args: argparse.Namespace,
    data: Calibrated | None,
) -> Artifact:
    """The ONNX file, or the file for PyTorch, in the precision and for the batch of ``args``."""
    from rfdetr_repro.export.half import audited_half, summary
    from rfdetr_repro.export.onnx.exporter import export_onnx
    from rfdetr_repro.export.torch import export_torch

    if args.attention == PLUGIN:  # without an audit: ONNX Runtime cannot run the file
        return export_onnx(
            subnet,
            out,
            meta=meta,
            precision=args.precision,
            islands=args.islands,
            batch=args.batch,
            attention=PLUGIN,
        )
    if args.precision == "fp32":
        export = export_torch if args.to == "torch" else export_onnx
        return export(subnet, out, meta=meta, batch=args.batch)
    with temporary_folder() as folder:  # the audit runs the float32 graph
        wide = export_onnx(subnet, Path(folder, "fp32.onnx"), meta=meta, batch=args.batch)
        if data is not None:
            from rfdetr_repro.bench.accuracy import ap_by_kind

            return data.convert(wide, out, args.islands, ap_by_kind(wide, data.scored))
        artifact = audited_half(wide, out, pictures=args.audit_images, islands=args.islands)
    print(summary(artifact))
    return artifact


def _images(batch: int | str) -> str:
    """The batch in words; empty for one image."""
    if batch == 1:
        return ""
    return "; any number of images at once" if batch == OPEN_BATCH else f"; {batch} images at once"


def batch_of(text: str) -> int | str:
    """The type of --batch: a number of images, or "dynamic"."""
    return OPEN_BATCH if text.strip().lower() == OPEN_BATCH else whole(1, MOST_IMAGES)(text)


def _format(out: Path) -> str:
    """The format that the file name means; raises :class:`InputError`, with the list, for another
    suffix.
    """
    if found := FORMATS.get(out.suffix.lower()):
        return found
    hint = ""
    if out.suffix.lower() in (".plan", ".trt"):
        hint = f"name the engine {out.with_suffix('.engine').name}; "
    raise InputError(
        f"--out has {f'the suffix {out.suffix}' if out.suffix else 'no suffix'}, which names no "
        f"format",
        out,
        hint + "choose .onnx, .safetensors (for PyTorch) or .engine (TensorRT)",
    )


def _check_suffix(out: Path, to: str) -> None:
    """Raises :class:`InputError` unless the file's suffix matches its content: ONNX bytes in a file
    .engine would be given to TensorRT.
    """
    if out.suffix.lower() in SUFFIXES[to]:
        return
    wanted = SUFFIXES[to][0]
    what = (
        f"--to {to} writes a {wanted} file, and the file name in --out has "
        f"{out.suffix or 'no ending'}"
    )
    hint = f"name the file {out.with_suffix(wanted).name}"
    if out.suffix.lower() in (".engine", ".plan", ".trt") and not to.startswith("tensorrt"):
        hint += "; for an engine leave --to out, or give --to tensorrt"
    if out.suffix.lower() == ".safetensors" and to == "onnx":
        hint += ", or add --to torch"
    raise InputError(what, out, hint)
