"""What INT8 gains on this processor: the CPU time of a float32 file over that of its INT8 forms.

    python -m benchmarks.studies.int8_speed                        RF-DETR Nano with random weights
    python -m benchmarks.studies.int8_speed --model FP32 INT8      two artifacts, as exported

The files take turns on ONNX Runtime, and on OpenVINO where it is installed, there in bfloat16 too
where the processor can. Nano also has an INT8 form with attention in float32. CPU time of the
process is counted, not the time on the wall, so that other programs disturb little. Random weights
are calibrated on noise: the time of a run does not depend on the values. Printed are the
instructions of the processor that matter (without VNNI, an INT8 product costs about as many
instructions as half a float32 product), and for each file and runtime the median and the ratio of
float32 on ONNX Runtime to it, with its 95 % interval over the rounds.
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
from rfdetr_repro.export.int8.attention import attention_products
from rfdetr_repro.export.int8.calibration import Noise
from rfdetr_repro.export.int8.conversion import Wishes, int8_artifact
from rfdetr_repro.export.int8.products import prepared
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.bfloat16 import in_bfloat16
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.arguments import MOST_THREADS, whole
from rfdetr_repro.spec.errors import InputError, run_main

INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
FLOAT = "onnxruntime fp32"  # what every ratio is taken to


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of INSTRUCTIONS that the processor has."""
    words = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    return [name for name in INSTRUCTIONS if name in words]


def files_of(given: Sequence[Path] | None, folder: Path) -> dict[str, Artifact]:
    """The float32 artifact and its INT8 forms by name; those of Nano with random weights unless
    ``given``.
    """
    if given:
        return dict(zip(("fp32", "int8"), map(load_artifact, given), strict=True))
    wide = model_artifact("rfdetr-nano", folder)
    attention = Wishes(keep=tuple(attention_products(prepared(wide.path).graph)))
    return {
        "fp32": wide,
        "int8, attention in fp32": int8_artifact(
            wide, folder / "products.onnx", Noise(), wishes=attention
        ),
        "int8": int8_artifact(wide, folder / "int8.onnx", Noise()),
    }


def sessions_of(files: dict[str, Artifact], threads: int) -> dict[str, Session]:
    """Every file on every runtime, by their names; says why bfloat16 is missing."""
    found = {
        f"{backend} {name}": open_session(file, backend, threads=threads)
        for backend in ("onnxruntime", "openvino")
        if importlib.util.find_spec(backend) is not None
        for name, file in files.items()
    }
    if "openvino fp32" not in found:
        return found
    from rfdetr_repro.runtime.openvino import OpenVinoSession

    half = in_bfloat16(files["fp32"])
    try:
        found["openvino fp32 in bf16"] = open_session(half, "openvino", threads=threads)
    except InputError as error:
        print(error)
        return found
    rest = OpenVinoSession(files["int8"], threads, precision="bf16")
    return {**found, "openvino int8, the rest in bf16": rest}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for every file and runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, nargs=2, metavar=("FP32", "INT8"))
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1)
    parser.add_argument("--rounds", type=whole(1, 10**6), default=30)
    args = parser.parse_args(argv)
    print(f"{cpu_model()}: {' '.join(instructions()) or 'none of the known instructions'}")
    with tempfile.TemporaryDirectory() as folder:
        files = files_of(args.model, Path(folder))
        for name, file in files.items():
            if name != "fp32":
                census = file.manifest.quantised
                print(f"{name}: {'unknown' if census is None else census.told}")
        calls: dict[str, Any] = {}
        for name, session in sessions_of(files, args.threads).items():
            shape = session.manifest.inputs[0].shape
            session.bind(np.random.default_rng(0).random(shape, dtype=np.float32))
            calls[name] = session.launch
        times = turns_ms(calls, args.rounds, clock=time.process_time)
    print(f"medians in ms of CPU time, {args.threads} threads; {FLOAT} over each")
    for name, samples in times.items():
        print(f"{name:32} {np.median(samples):8.2f}   {ratio(times[FLOAT], samples)}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
