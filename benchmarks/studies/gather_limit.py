"""The limit of multi-scale deformable attention on a CPU: how fast it reads random 64-byte lines,
weighted and summed.

A small C loop with nothing else to do (no locations, no softmax, offsets ready), ``gather.c``, is
compiled on the spot for this very processor.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

LINE_FLOATS = 16
FLAGS = ("-O3", "-shared", "-fPIC")
# the widest vectors of this processor; Arm's compilers take the processor in another option
X86 = platform.machine().lower() in ("x86_64", "amd64")
NATIVE = ("-march=native", "-mprefer-vector-width=512") if X86 else ("-mcpu=native",)
SOURCE = Path(__file__).with_name("gather.c")


def gather_ms(lines: int, table_lines: int, rounds: int = 200) -> float | None:
    """Best ms to sum ``lines`` random lines of a table of ``table_lines``, eight to a sum; one
    thread. None: no compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    lines -= lines % 8
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "gather.so")
        subprocess.run([compiler, *FLAGS, *NATIVE, str(SOURCE), "-o", str(library)], check=True)
        gather = ctypes.CDLL(str(library)).gather
    random = np.random.default_rng(0)
    table = _aligned(table_lines * LINE_FLOATS)
    offsets = random.integers(0, table_lines, lines, dtype=np.int32)
    weights = np.ones(lines, dtype=np.float32)
    out = _aligned(2 * lines)
    arguments = [ctypes.c_void_p(a.ctypes.data) for a in (table, offsets, weights)]
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        gather(*arguments, ctypes.c_long(lines), ctypes.c_void_p(out.ctypes.data))
        best = min(best, 1e3 * (time.perf_counter() - started))
    return best


def _aligned(floats: int) -> np.ndarray:
    raw = np.zeros(floats + LINE_FLOATS, dtype=np.float32)
    start = -(raw.ctypes.data // 4) % LINE_FLOATS
    return raw[start : start + floats]
