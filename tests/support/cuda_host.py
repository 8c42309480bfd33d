"""The CUDA sources compiled for the host under a small shim."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    name: ROOT / "csrc" / "cuda" / f"{name}.cu"
    for name in ("ms_deform_attn", "ms_deform_attn_backward", "masks")
}
SHIM = ROOT / "tests" / "ops" / "cuda_host_shim.h"
CXX = shutil.which("g++")


def compiled_for_the_host(name: str, folder: Path, more: list[str] | None = None) -> ctypes.CDLL:
    """The unmodified .cu compiled for the host with bounds and undefined-behaviour checks."""
    if CXX is None:
        pytest.skip("no g++")
    library = folder / f"{name}.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-Werror"]
    checks = [
        "-fsanitize=undefined",
        "-fno-sanitize-recover=undefined",
        "-static-libubsan",
        "-D_GLIBCXX_ASSERTIONS",
    ]
    command = [
        CXX,
        *flags,
        *checks,
        *(more or []),
        "-x",
        "c++",
        "-include",
        str(SHIM),
        str(KERNELS[name]),
        "-o",
        str(library),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def pointer(tensor: torch.Tensor | None) -> int | None:
    """The address of a contiguous tensor's memory."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
