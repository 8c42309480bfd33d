"""Memory that a file needs to be run by ONNX Runtime on a CPU: the growth of a fresh process that
loads the file and runs it, which no other model and no PyTorch shares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from rfdetr_repro.export.artifact import Artifact

RUNS = 3  # the first run allocates; later runs show what is kept
LIMIT_S = 600.0
STATUS = Path("/proc/self/status")  # of Linux; its lines are in KiB


def peak_memory_bytes(artifact: Artifact, threads: int) -> int | None:
    """The largest resident memory of a process that loads and runs the file with ``threads``
    threads, less that of the same process before; None where the system does not tell it, or where
    the process fails.

    The file's weights, the runtime's own copies of them and all activations are included; Python
    and the libraries are not.
    """
    if artifact.manifest.format != "onnx" or not STATUS.is_file():
        return None
    path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
    command = "from rfdetr_repro.bench.memory import report; report()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", command, str(artifact.path.resolve()), str(threads)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
        grown = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return grown if isinstance(grown, int) and grown > 0 else None


# -- in the process of its own ---------------------------------------------------------------------


def report() -> None:
    """Writes by how many bytes this process grew, or null, on standard output; the command line has
    the file and the number of threads.
    """
    path, threads = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    before = _kibibytes("VmRSS")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {}
    for value in session.get_inputs():
        kind = np.float16 if value.type == "tensor(float16)" else np.float32
        shape = [side if isinstance(side, int) else 1 for side in value.shape]
        feed[value.name] = np.zeros(shape, kind)
    for _ in range(RUNS):
        session.run(None, feed)
    peak = _kibibytes("VmHWM")
    grown = None if before is None or peak is None else 1024 * (peak - before)
    sys.stdout.write(json.dumps(grown) + "\n")


def _kibibytes(name: str) -> int | None:
    """A line of the kernel's account of this process; None if there is no such line."""
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None
