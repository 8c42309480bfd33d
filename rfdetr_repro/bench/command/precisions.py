"""The precisions that a benchmark measures, and the files in them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.export.artifact import has_manifest
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import AP_GATES, MEASURED_PRECISIONS, PRECISIONS
from rfdetr_repro.spec.ranges import choose

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.export.artifact import Artifact

log = logging.getLogger(__name__)


def precisions(args: argparse.Namespace) -> list[str]:
    """The requested precisions, each once; an empty list stands for each file's own precision.

    Raises :class:`InputError` for an unknown precision.
    """
    if not args.precision:
        return list(PRECISIONS) if args.campaign == "table1" else []
    given = dict.fromkeys(part.strip() for part in args.precision.split(","))
    return [choose(name, MEASURED_PRECISIONS, "precision", "--precision") for name in given]


def in_precision(
    artifact: Artifact, precision: str, args: argparse.Namespace, splits: Sequence[CocoSplit]
) -> Artifact:
    """The artifact in ``precision``: itself, where its runtime computes it in this precision, or
    converted once into a folder next to the store that is named after the precision.

    Raises :class:`InputError` for a file that is not float32, and as the conversions do.
    """
    if artifact.manifest.precision == precision:
        return artifact
    if artifact.manifest.precision != "fp32":
        raise InputError(
            f"a file in {artifact.manifest.precision} cannot be converted to {precision}",
            artifact.path,
            "give the FP32 file",
        )
    from rfdetr_repro.runtime.bfloat16 import computed_in, computes

    if precision == "bf16" or computes(artifact, precision):
        return computed_in(artifact, precision)
    if artifact.manifest.format != "onnx":
        raise InputError(
            f"a file of the format {artifact.manifest.format} cannot be converted to {precision}",
            artifact.path,
            "give the ONNX file, with a backend that runs ONNX files",
        )
    names = [artifact.path.stem, artifact.sha256[:12], *(split.sha256[:6] for split in splits)]
    stem = Path(args.out).parent / precision / "-".join(names)
    convert = {"fp16": _in_float16, "int8": _in_int8}[precision]
    return convert(artifact, stem, args, splits)


def _once(path: Path, make: Callable[[Path], Artifact]) -> Artifact:
    """The artifact at ``path``; made by ``make`` unless the file is there."""
    from rfdetr_repro.export.artifact import load_artifact

    return load_artifact(path) if path.is_file() and has_manifest(path) else make(path)


def _in_float16(
    artifact: Artifact, stem: Path, args: argparse.Namespace, splits: Sequence[CocoSplit]
) -> Artifact:
    """The float16 form, with float32 islands from a range audit on the data or on noise."""
    from rfdetr_repro.bench.accuracy import audit_feeds
    from rfdetr_repro.export.half import audited_half

    def make(path: Path) -> Artifact:
        feeds = [feed for split in splits for feed in audit_feeds(artifact, split)]
        return audited_half(artifact, path, feeds=feeds)

    return _once(Path(f"{stem}.onnx"), make)


def _in_int8(
    artifact: Artifact, stem: Path, args: argparse.Namespace, splits: Sequence[CocoSplit]
) -> Artifact:
    """The INT8 form, calibrated on the train split of the data and gated on the first split that is
    measured; random weights are calibrated on noise and not gated. Its name states the calibration
    images and the gate: other images or another limit give another file.
    """
    from rfdetr_repro.bench.accuracy import ap_by_kind
    from rfdetr_repro.data.coco import read_split
    from rfdetr_repro.export.int8.calibration import Calibration, Noise, calibration_set
    from rfdetr_repro.export.int8.conversion import Gate, int8_artifact, summary

    calibration: Calibration = Noise()
    gate = None
    if artifact.manifest.model.weights != "random":
        if not splits:
            raise InputError(
                "INT8 needs training images to calibrate on, and a split to measure the loss of AP "
                "on",
                artifact.path,
                "give --data, or a file that was exported with --precision int8",
            )
        points = AP_GATES["int8"] if args.ap_gate is None else args.ap_gate
        split = splits[0]
        gate = Gate(ap_by_kind(artifact, split), f"{split.name}/{split.split}", points)
        calibration = calibration_set(read_split(args.data, "train"))

    def make(path: Path) -> Artifact:
        made = int8_artifact(artifact, path, calibration, gate)
        for line in summary(made).splitlines():
            log.info(line)
        return made

    limit = "none" if gate is None else f"{gate.points:g}"
    return _once(Path(f"{stem}-{calibration.sha256[:6]}-gate-{limit}.onnx"), make)
