"""Files in float32 whose products a runtime computes in bfloat16, where the processor can.

The file stays as it is; what changes is stated by the precision "bf16" of the session and its
Records. A runtime or a processor without bfloat16 refuses.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.spec.errors import InputError

BFLOAT16 = "bf16"
# ONNX Runtime's session option; its matrix library has such products for ARM processors alone
ORT_OPTION = "mlas.enable_gemm_fastmath_arm64_bfloat16"
RUNTIMES = ("onnxruntime", "openvino")


def in_bfloat16(artifact: Artifact) -> Artifact:
    """``artifact``, to be run in bfloat16; raises :class:`InputError` for a file that is not
    float32 ONNX.
    """
    manifest = artifact.manifest
    if manifest.format != "onnx" or manifest.precision != "fp32":
        raise InputError(
            f"only a float32 ONNX file can be computed in bfloat16, not {manifest.format} "
            f"{manifest.precision}",
            artifact.path,
            "give the float32 file",
        )
    return replace(artifact, manifest=replace(manifest, precision=BFLOAT16))


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
