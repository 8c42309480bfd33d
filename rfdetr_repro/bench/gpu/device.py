"""The GPU that is about to be measured: its identity, other processes that use it, its clocks, and
a watch on it.

CUDA and NVML number devices differently, so the device is named by its UUID, by default that of
CUDA's first visible device.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from rfdetr_repro.bench.machine import machine_with_gpu
from rfdetr_repro.records.record import Machine
from rfdetr_repro.spec.errors import InputError

from .own_process import own_pids
from .watch import GpuWatch, NvmlSource, Reading, Source

GPU_WORDS = ("cuda", "tensorrt", "torch-graph")


class Watched(NamedTuple):
    """A watch on the GPU, the machine with that GPU, and the clock policy in force."""

    watch: GpuWatch
    machine: Machine
    clock_policy: str  # as in Protocol


class Denied:
    """A source that cannot be read; a watch on this source answers "unknown" with the reason."""

    def __init__(self, error: InputError) -> None:
        """``error``: the reason, which :meth:`read` raises."""
        self.error = error

    def read(self) -> Reading:
        """Raises the error."""
        raise self.error


def uses_gpu(backend: str) -> bool:
    """Whether the backend runs on an NVIDIA GPU; "torch" does where PyTorch selects a GPU."""
    return any(word in backend for word in GPU_WORDS) or (
        backend == "torch" and _torch_takes_a_gpu()
    )


def _torch_takes_a_gpu() -> bool:
    """Whether the torch session would select a GPU.

    The answer comes from the same function that the session uses, because the driver's files may be
    absent where there is a GPU, and present without a GPU.
    """
    from rfdetr_repro.ops.device import choose_device  # PyTorch loads slowly

    return choose_device().type == "cuda"


def cuda_uuid(library: Any = None, index: int = 0) -> str:
    """The UUID of device ``index`` of those that CUDA shows, ``GPU-...``, as NVML writes it; raises
    :class:`InputError` without a driver or a device.
    """
    try:
        cuda = library or ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise InputError(
            "this machine has no CUDA driver", hint="choose a backend that runs on the CPU"
        ) from error
    device = ctypes.c_int()
    raw = (ctypes.c_ubyte * 16)()
    calls: tuple[Callable[[], int], ...] = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), index),
        lambda: cuda.cuDeviceGetUuid(raw, device),
    )
    for call in calls:
        if (code := call()) != 0:
            raise InputError(
                f"CUDA sees no device (error {code})",
                hint="check nvidia-smi and CUDA_VISIBLE_DEVICES",
            )
    return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


@contextmanager
def watching(
    *,
    force: bool = False,
    lock: bool = False,
    device: str | None = None,
    index: int = 0,
    nvml: Any = None,
    own: Callable[[Callable[[], set[int]]], Collection[int] | None] | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Watched]:
    """A watch on the GPU that starts before any session is opened, so that every process on the GPU
    at that time is a foreign process.

    Raises :class:`InputError` for foreign processes unless ``force`` is set. ``lock``: lock the GPU
    to its base clock for the duration of the watch, if the driver permits. A value that NVML denies
    is reported once and stays "unknown". ``device``: its UUID,
    by default that of device ``index`` of those that CUDA shows. ``own``: as in
    :class:`NvmlSource`.
    """
    device = device or cuda_uuid(index=index)
    source: Source
    try:
        source = NvmlSource(device, nvml, own or partial(own_pids, index=index))
    except InputError as error:
        say(f"the GPU is not watched, so whether it throttles stays unknown: {error}")
        source = Denied(error)
    watch = GpuWatch(source).start()
    try:
        window = watch.since(watch.mark())
        if window.processes and not force:
            pids = ", ".join(map(str, window.processes))
            raise InputError(
                f"the GPU is in use by process {pids}",
                device,
                "wait until the process ends, or measure anyway with --force",
            )
        if window.processes:
            say(
                f"other processes use the GPU during the measurement: "
                f"{', '.join(map(str, window.processes))}"
            )
        if window.unknown and isinstance(source, NvmlSource):
            say(f"the driver does not report {window.unknown}")
        with locked(source, lock) as policy:
            if policy == "denied":
                say("the clocks cannot be locked without more privileges and are left free")
            yield Watched(watch, machine_with_gpu(device), policy)
    finally:
        watch.stop()


@contextmanager
def locked(source: Source, wanted: bool) -> Iterator[str]:
    """Locks the clocks to the default application clock (a power cap lowers the highest clock);
    yields "locked", "denied" or "free".

    The lock is released at the end. NVML does not report an earlier lock, so the clocks are locked
    only on request.
    """
    if not wanted:
        yield "free"
        return
    if not isinstance(source, NvmlSource):
        yield "denied"
        return
    nvml = source.nvml
    handle = source.handle
    try:
        base_mhz = nvml.nvmlDeviceGetDefaultApplicationsClock(handle, nvml.NVML_CLOCK_SM)
        nvml.nvmlDeviceSetGpuLockedClocks(handle, base_mhz, base_mhz)
    except nvml.NVMLError:
        yield "denied"
        return
    try:
        yield "locked"
    finally:
        nvml.nvmlDeviceResetGpuLockedClocks(handle)
