"""What INT8 gains on this processor: the CPU time of a float32 file over that of its INT8 form.

    python -m benchmarks.studies.int8_speed                        RF-DETR Nano with random weights
    python -m benchmarks.studies.int8_speed --model FP32 INT8      two artifacts, as exported

The files take turns on ONNX Runtime, and on OpenVINO where it is installed. CPU time of the process
is counted, not the time on the wall, so that other programs disturb little. Random weights are
calibrated on noise: the time of a run does not depend on the values. Printed are the instructions
of the processor that matter (without VNNI, an INT8 product costs about as many instructions as half
a float32 product), medians, and the ratio with its 95 % interval over the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratios import ratio, turns_ms
from rfdetr_repro.bench.machine import cpu_model
from rfdetr_repro.bench.models import model_artifact
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.export.int8.calibration import Noise
from rfdetr_repro.export.int8.conversion import int8_artifact
from rfdetr_repro.runtime.backends import open_session

INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of INSTRUCTIONS that the processor has."""
    words = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    return [name for name in INSTRUCTIONS if name in words]


def pair(given: Sequence[Path] | None, folder: Path) -> dict[str, Artifact]:
    """The float32 and the INT8 artifact; those of Nano with random weights unless ``given``."""
    if given:
        return dict(zip(("fp32", "int8"), map(load_artifact, given), strict=True))
    wide = model_artifact("rfdetr-nano", folder)
    return {"fp32": wide, "int8": int8_artifact(wide, folder / "int8.onnx", Noise())}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the ratio on every runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, nargs=2, metavar=("FP32", "INT8"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args(argv)
    print(f"{cpu_model()}: {' '.join(instructions()) or 'none of the known instructions'}")
    backends = [
        name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name) is not None
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = pair(args.model, Path(folder))
        census = files["int8"].manifest.quantised
        print(f"int8: {'unknown' if census is None else census.told}")
        calls: dict[str, Any] = {}
        for backend in backends:
            for name, file in files.items():
                session = open_session(file, backend, threads=args.threads)
                shape = file.manifest.inputs[0].shape
                session.bind(np.random.default_rng(0).random(shape, dtype=np.float32))
                calls[f"{backend} {name}"] = session.launch
        times = turns_ms(calls, args.rounds, clock=time.process_time)
    for name, samples in times.items():
        print(f"{name}: median {np.median(samples):.2f} ms of CPU time, {args.threads} threads")
    for backend in backends:
        found = ratio(times[f"{backend} fp32"], times[f"{backend} int8"])
        print(f"{backend}: float32 over INT8 {found}")


if __name__ == "__main__":
    main()
