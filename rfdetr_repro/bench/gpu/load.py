"""Work on a GPU between samples: the L2 cache is overwritten, or the clock is kept up (benchmark
protocol section 3).

Both are plain writes to a device buffer by the CUDA driver, in the primary context that PyTorch,
ONNX Runtime and TensorRT share, so every backend can use them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from rfdetr_repro.bench.timers import Clock, WallClock
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol

L2_CACHE_SIZE = 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
# cache sizes per flush, because the cache's replacement is not strictly least-recently-used
FLUSHED_SIZES = 2
# small enough to leave the cache alone; SPIN_WRITES writes before each wait of the host
SPIN_BYTES = 1 << 16
SPIN_WRITES = 64


class GpuLoad:
    """Writes on one device of those that CUDA shows."""

    def __init__(self, library: Any = None, clock: Clock | None = None, index: int = 0) -> None:
        """Allocates the buffer on device ``index``; raises :class:`InputError` without a driver, a
        device or enough memory.
        """
        try:
            self._cuda = library or ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise InputError(
                "this machine has no CUDA driver", hint="choose a backend that runs on the CPU"
            ) from error
        self._clock = clock or WallClock()
        self._context = ctypes.c_void_p()
        self._address = ctypes.c_uint64()
        device = ctypes.c_int()
        l2_bytes = ctypes.c_int()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", ctypes.byref(device), index)
            self._call("cuDeviceGetAttribute", ctypes.byref(l2_bytes), L2_CACHE_SIZE, device)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
            self.flushed_bytes = max(FLUSHED_SIZES * l2_bytes.value, SPIN_BYTES)
            self._inside(
                lambda: self._call(
                    "cuMemAlloc_v2",
                    ctypes.byref(self._address),
                    ctypes.c_size_t(self.flushed_bytes),
                )
            )
        except StatedFailure as error:
            raise InputError(
                f"the GPU cannot be kept busy between samples: {error}", hint="check nvidia-smi"
            ) from error

    def flush_l2(self) -> None:
        """Overwrites twice the size of the L2 cache and waits for the end."""
        self._inside(lambda: self._write(self.flushed_bytes))

    def spin(self, seconds: float) -> None:
        """Keeps the GPU busy for ``seconds`` with writes that fit into a corner of the cache."""
        until = self._clock.now_ns() + seconds * 1e9

        def write() -> None:
            while self._clock.now_ns() < until:
                for _ in range(SPIN_WRITES - 1):
                    self._call(
                        "cuMemsetD8_v2",
                        self._address,
                        ctypes.c_ubyte(0),
                        ctypes.c_size_t(SPIN_BYTES),
                    )
                self._write(SPIN_BYTES)

        self._inside(write)

    def _write(self, size_bytes: int) -> None:
        self._call("cuMemsetD8_v2", self._address, ctypes.c_ubyte(0), ctypes.c_size_t(size_bytes))
        self._call("cuCtxSynchronize")

    def _inside(self, work: Callable[[], None]) -> None:
        """Runs ``work`` in the primary context and restores the caller's context."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            work()
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _call(self, name: str, *arguments: Any) -> None:
        if (code := getattr(self._cuda, name)(*arguments)) != 0:
            raise StatedFailure(f"{name} returned the error {code}")


@cache
def this_gpu(index: int = 0) -> GpuLoad:
    """The :class:`GpuLoad` of a device that all rows of a process share."""
    return GpuLoad(index=index)


def work_before(
    protocol: Protocol, open_load: Callable[[], GpuLoad] = this_gpu
) -> Callable[[], None] | None:
    """The untimed work that ``protocol`` requests before each sample (first spinning, then the
    flush), or None.
    """
    if not protocol.spin_ms and not protocol.flush_l2:
        return None
    load = open_load()

    def work() -> None:
        if protocol.spin_ms:
            load.spin(protocol.spin_ms / 1e3)
        if protocol.flush_l2:
            load.flush_l2()

    return work
