"""Files in float32 that a runtime computes in another precision: ONNX files in bfloat16, where the
processor can, and files for PyTorch in bfloat16 or float16.

The file stays as it is; what changes is stated by the precision of the session and its Records. A
runtime or a processor without the precision refuses.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.spec.errors import InputError

BFLOAT16 = "bf16"
FLOAT16 = "fp16"
# ONNX Runtime's session option; its matrix library has such products for ARM processors alone
ORT_OPTION = "mlas.enable_gemm_fastmath_arm64_bfloat16"
RUNTIMES = ("onnxruntime", "openvino")
# format of a float32 file -> precisions that its runtimes can compute the file in
COMPUTED = {"onnx": (BFLOAT16,), "torch": (FLOAT16, BFLOAT16)}


def in_bfloat16(artifact: Artifact) -> Artifact:
    """``artifact``, to be run in bfloat16; raises :class:`InputError` as :func:`computed_in`."""
    return computed_in(artifact, BFLOAT16)


def computes(artifact: Artifact, precision: str) -> bool:
    """Whether a runtime computes the float32 file itself in ``precision``, so that no other file is
    made.
    """
    manifest = artifact.manifest
    return manifest.precision == "fp32" and precision in COMPUTED.get(manifest.format, ())


def computed_in(artifact: Artifact, precision: str) -> Artifact:
    """``artifact``, to be run in ``precision`` ("bf16", and "fp16" for PyTorch); raises
    :class:`InputError` for a file that is not float32, and for one of another format.
    """
    manifest = artifact.manifest
    if not computes(artifact, precision):
        raise InputError(
            f"only a float32 ONNX file (in bf16) or a float32 file for PyTorch (in bf16 or fp16) "
            f"can be computed in another precision, not {manifest.format} {manifest.precision} "
            f"in {precision}",
            artifact.path,
            "give the float32 file",
        )
    return replace(artifact, manifest=replace(manifest, precision=precision))


def check_onnxruntime(machine: str | None = None, cpuinfo: str | Path = "/proc/cpuinfo") -> None:
    """Raises :class:`InputError` unless ONNX Runtime computes products in bfloat16 on this
    processor.

    ``machine``: the processor's architecture (default: this one's); ``cpuinfo``: the file in which
    Linux lists its instructions.
    """
    machine = machine or platform.machine()
    hint = "choose --backend openvino on a processor with bfloat16, or --precision fp32"
    if machine.lower() not in ("aarch64", "arm64"):
        raise InputError(
            f"ONNX Runtime computes products in bfloat16 on ARM processors only, not on {machine}",
            hint=hint,
        )
    listed = Path(cpuinfo).read_text(errors="replace") if Path(cpuinfo).is_file() else ""
    features = {
        word
        for line in listed.splitlines()
        if line.lower().startswith("features")
        for word in line.partition(":")[2].split()
    }
    if "bf16" not in features:
        raise InputError("this ARM processor has no instructions for bfloat16", hint=hint)
