"""The share of a run that is spent in non-maximum suppression added to an adopted detector, from
ONNX Runtime's profile on the CPU.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.onnx.nms import SCOPE
from rfdetr_repro.export.onnx.surgery import PREFIX
from rfdetr_repro.spec.unfinished import temporary_folder

RUNS = 20
WARM_UP = 3


def suppression_ms(artifact: Artifact, images: np.ndarray[Any, Any], threads: int) -> float | None:
    """Median time in ms that the nodes of the added suppression take in one run; None where no
    suppression was added, or where the profile does not show the nodes.

    ``images``: float32 (1, 3, H, W) in 0..1, the model input. The sum of the kernel times leaves
    out the time between two nodes; a profiled run is slower as a whole, so its total is not the
    latency.
    """
    if "nms" not in artifact.manifest.packages or artifact.manifest.format != "onnx":
        return None
    spec = artifact.manifest.inputs[0]
    with temporary_folder() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(
            str(artifact.path), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(WARM_UP + RUNS):
            session.run(None, {spec.name: images.astype(spec.dtype)})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _per_run(events)


def _per_run(events: list[dict[str, Any]]) -> float | None:
    """The median over the profiled runs, without warm-up, of the time in the suppression's kernels,
    in ms.

    None where the profile shows no run or none of these kernels: the time is then unknown.
    """
    runs = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("name") == "model_run"
    )
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    ours = [
        (event["ts"], event["dur"]) for event in kernels if event["name"].startswith(PREFIX + SCOPE)
    ]
    if not ours or len(runs) <= WARM_UP:
        return None
    totals = [
        sum(duration for start, duration in ours if first <= start <= last)
        for first, last in runs[WARM_UP:]
    ]
    return statistics.median(totals) / 1e3
