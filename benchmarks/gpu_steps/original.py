"""The operator of Deformable DETR (2020, Apache-2.0) as a peer on a GPU, without PyTorch's headers.

Its text is not part of this project. ``RFDETR_ORIGINAL`` names the file
``models/ops/src/cuda/ms_deform_im2col_cuda.cuh`` of a copy of its repository; without the variable
the peer is left out, and the step says so. The file is compiled as it is: the three PyTorch headers
that it includes and does not need are replaced by empty files.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import tool

VARIABLE = "RFDETR_ORIGINAL"
UNNEEDED = ("ATen/ATen.h", "ATen/cuda/CUDAContext.h", "THC/THCAtomics.cuh")
WRAPPER = """
#include <cuda_runtime.h>
#include "{text}"

extern "C" int original_forward(void* stream, const float* value, const int64_t* sizes,
                                const int64_t* starts, const float* locations, const float* weights,
                                const int* shape, float* out) {{
  ms_deformable_im2col_cuda<float>(static_cast<cudaStream_t>(stream), value, sizes, starts,
                                   locations, weights, shape[0], shape[1], shape[2], shape[3],
                                   shape[4], shape[5], shape[6], out);
  return int(cudaGetLastError());
}}

extern "C" int original_backward(void* stream, const float* upstream, const float* value,
                                 const int64_t* sizes, const int64_t* starts,
                                 const float* locations, const float* weights, const int* shape,
                                 float* d_value, float* d_locations, float* d_weights) {{
  ms_deformable_col2im_cuda<float>(static_cast<cudaStream_t>(stream), upstream, value, sizes,
                                   starts, locations, weights, shape[0], shape[1], shape[2],
                                   shape[3], shape[4], shape[5], shape[6], d_value, d_locations,
                                   d_weights);
  return int(cudaGetLastError());
}}
"""


def absent() -> str | None:
    """Why the peer cannot be built here; None where it can."""
    path = os.environ.get(VARIABLE)
    if not path:
        return f"{VARIABLE} names no copy of its text"
    if not Path(path).is_file():
        return f"{path} does not exist"
    return None if tool("nvcc") else "nvcc is not installed"


def build(folder: Path, arch: str) -> Path:
    """Compiles the peer for compute capability ``arch``, like "90", and returns the library's
    path. Raises :class:`RuntimeError` with the compiler's message.
    """
    text = Path(os.environ[VARIABLE]).resolve()
    for name in UNNEEDED:
        empty = folder / "include" / name
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.write_text("")
    source = folder / "original.cu"
    source.write_text(WRAPPER.format(text=text))
    library = folder / "liboriginal.so"
    command = [str(tool("nvcc")), "-O3", "-std=c++17"]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    command += ["-I", str(folder / "include"), "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC"]
    command += ["-shared", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvcc: {done.stderr.strip()[-400:]}")
    return library


class Original:
    """The compiled peer: float32, forward and backward on the current stream.

    As its own Python wrapper does, the gradients are zeroed before the kernel adds to them.
    """

    def __init__(self, library: Path) -> None:
        """Loads the library that :func:`build` made."""
        self._library = ctypes.CDLL(str(library))

    def forward(
        self, levels: list[tuple[int, int]], value: Tensor, locations: Tensor, weights: Tensor
    ) -> Callable[[], Tensor]:
        """A call of the forward pass into a buffer of its own; arguments as in Deformable DETR."""
        sizes, starts, shape = self._layout(levels, value, locations)
        batch, _, heads, channels = value.shape
        out = value.new_empty(batch, locations.shape[1], heads * channels)
        function = self._library.original_forward

        def call() -> Tensor:
            self._check(
                function(
                    _stream(),
                    *_pointers(value, sizes, starts, locations, weights),
                    shape,
                    *_pointers(out),
                )
            )
            return out

        return call

    def backward(
        self,
        levels: list[tuple[int, int]],
        upstream: Tensor,
        value: Tensor,
        locations: Tensor,
        weights: Tensor,
    ) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """A call of the backward pass."""
        sizes, starts, shape = self._layout(levels, value, locations)
        function = self._library.original_backward

        def call() -> tuple[Tensor, Tensor, Tensor]:
            gradients = (
                torch.zeros_like(value),
                torch.zeros_like(locations),
                torch.zeros_like(weights),
            )
            self._check(
                function(
                    _stream(),
                    *_pointers(upstream, value, sizes, starts, locations, weights),
                    shape,
                    *_pointers(*gradients),
                )
            )
            return gradients

        return call

    @staticmethod
    def _layout(
        levels: list[tuple[int, int]], value: Tensor, locations: Tensor
    ) -> tuple[Tensor, Tensor, Any]:
        sizes = torch.tensor(levels, dtype=torch.int64, device=value.device)
        starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
        batch, pixels, heads, channels = value.shape
        numbers = (batch, pixels, heads, channels, len(levels), locations.shape[1])
        return sizes, starts, (ctypes.c_int * 7)(*numbers, locations.shape[4])

    @staticmethod
    def _check(error: int) -> None:
        if error:
            raise RuntimeError(f"the original operator failed with CUDA error {error}")


def _stream() -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
