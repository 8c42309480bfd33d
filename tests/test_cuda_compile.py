"""The CUDA kernels without a GPU: they compile for every architecture without register spills, and the same text, compiled for
the host under a small shim, gives the oracle's values and the CPU kernels' gradients."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from samples import LEVELS, flat, hat_oracle, sample_inputs

from rfdetr_repro import ops

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "csrc" / "cuda" / "ms_deform_attn.cu"
SHIM = ROOT / "tests" / "cuda_host_shim.h"
NVCC = shutil.which("nvcc") or next((str(p) for p in [Path("/usr/local/cuda/bin/nvcc")] if p.is_file()), None)
CXX = shutil.which("g++")
MAX_REGISTERS = 80  # three blocks of 256 threads per multiprocessor
STORAGE = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
MAX_LEVELS = 8


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("arch", ["75", "80", "86", "89", "90"])
def test_compiles_without_spills(arch: str, tmp_path: Path) -> None:
    out = str(tmp_path / "kernels.cubin")
    command = [NVCC, "-std=c++17", "-O3", "-cubin", f"-arch=sm_{arch}", "-Xptxas", "-v", str(KERNELS), "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spills = [int(number) for number in re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)]
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", done.stderr)]
    assert len(registers) == 16 and not any(spills)  # forward, backward x four types x packed, single channels
    assert max(registers) <= MAX_REGISTERS
    assert "warning" not in done.stderr.lower()


class Level(ctypes.Structure):
    _fields_ = [("height", ctypes.c_int), ("width", ctypes.c_int), ("start", ctypes.c_int64)]


class Problem(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "pixels", "heads", "channels", "queries")]
    _fields_ += [("num_levels", ctypes.c_int), ("points", ctypes.c_int), ("levels", Level * MAX_LEVELS)]


class Gradients(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("value", "locations", "weights")]


@pytest.fixture(scope="module")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The unmodified .cu compiled for the host with bounds and undefined-behaviour checks."""
    if CXX is None:
        pytest.skip("no g++")
    library = tmp_path_factory.mktemp("host") / "kernels.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-Werror"]
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-static-libubsan"]
    command = [CXX, *flags, *checks, "-x", "c++", "-include", str(SHIM), str(KERNELS), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def problem_of(value: torch.Tensor, levels: list, locations: torch.Tensor) -> Problem:
    rows, start = [], 0
    for height, width in levels:
        rows.append(Level(height, width, start))
        start += height * width
    queries, points = locations.shape[1], locations.shape[4]
    return Problem(*value.shape, queries, len(levels), points, (Level * MAX_LEVELS)(*rows))


def pointers(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def host_inputs(levels: list, channels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    value, locations, weights = sample_inputs(levels, channels=channels, dtype=dtype)
    locations[0, 0, 0, 0, 0] = float("nan")
    locations[0, 1, 0, 0, 0] = torch.finfo(dtype).max
    wide = ops.accumulate_dtype(dtype)
    return [value, locations.to(wide), weights.to(wide)]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [16, 5])  # packs of 16 bytes; single channels
def test_forward_kernel_on_the_host(host_kernels: ctypes.CDLL, dtype: torch.dtype, levels: list, channels: int) -> None:
    value, locations, weights = host_inputs(levels, channels, dtype)
    out = torch.full((*locations.shape[:2], value.shape[2] * channels), float("nan"), dtype=dtype)
    problem = problem_of(value, levels, locations)
    tensors = pointers(value, locations, weights, out)
    assert host_kernels.rfdetr_forward_launch(STORAGE[dtype], *tensors, ctypes.byref(problem), None) == 0
    outside = torch.where(locations.isfinite() & (locations.abs() < 1e3), locations, -9.0)  # the oracle knows no NaN
    expected = hat_oracle(value, levels, outside, weights)
    assert (out.double() - expected).abs().max().item() <= TOLERANCE[dtype] * (expected.abs().max().item() + 1)


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [16, 5])
def test_backward_kernel_on_the_host(host_kernels: ctypes.CDLL, dtype: torch.dtype, levels: list, channels: int) -> None:
    value, locations, weights = host_inputs(levels, channels, dtype)
    upstream = torch.randn(*locations.shape[:2], value.shape[2] * channels, dtype=torch.float64).to(dtype)
    wide = ops.accumulate_dtype(dtype)
    unset = [torch.full_like(tensor, float("nan")) for tensor in (locations, weights)]
    grads = [torch.zeros(value.shape, dtype=wide), *unset]
    problem = problem_of(value, levels, locations)
    tensors = pointers(upstream, value, locations, weights)
    to = Gradients(*pointers(*grads))
    assert host_kernels.rfdetr_backward_launch(STORAGE[dtype], *tensors, to, ctypes.byref(problem), None) == 0
    expected = torch.ops.rfdetr.ms_deform_attn_backward(upstream, value, flat(levels), locations, weights)
    for ours, theirs in zip(grads, expected, strict=True):
        assert (ours - theirs).abs().max().item() <= TOLERANCE[dtype] * (theirs.abs().max().item() + 1)


def test_unknown_storage_is_an_error(host_kernels: ctypes.CDLL) -> None:
    host_kernels.rfdetr_cuda_error.restype = ctypes.c_char_p
    code = host_kernels.rfdetr_forward_launch(9, None, None, None, None, ctypes.byref(Problem()), None)
    assert code != 0 and host_kernels.rfdetr_cuda_error(code) == b"invalid value"
