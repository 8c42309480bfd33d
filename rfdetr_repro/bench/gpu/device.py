"""The GPU that is about to be measured: which one it is, who else uses it, its clocks, and the
watch on it.

CUDA and NVML number devices differently, so the device is named by the UUID that CUDA gives for its
first visible one.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rfdetr_repro.bench.machine import machine_with_gpu
from rfdetr_repro.records.record import Machine
from rfdetr_repro.spec.errors import InputError

from .watch import GpuWatch, NvmlSource, Reading, Source

GPU_WORDS = ("cuda", "tensorrt", "torch-graph")


class Watched(NamedTuple):
    watch: GpuWatch
    machine: Machine
    clock_policy: str  # as in Protocol


class Denied:
    """A source that cannot be read; a watch on it says "unknown" and why."""

    def __init__(self, error: InputError) -> None:
        self.error = error

    def read(self) -> Reading:
        raise self.error


def uses_gpu(backend: str) -> bool:
    """Whether a backend of this name works on an NVIDIA GPU; eager "torch" does where PyTorch takes
    one here.
    """
    return any(word in backend for word in GPU_WORDS) or (
        backend == "torch" and _torch_takes_a_gpu()
    )


def _torch_takes_a_gpu() -> bool:
    """Asked of what the session itself asks: the driver's files may be absent where there is a GPU,
    and there without one.
    """
    from rfdetr_repro.ops.device import choose_device  # PyTorch loads slowly

    return choose_device().type == "cuda"


def cuda_uuid(library: Any = None) -> str:
    """``GPU-...`` of CUDA's first visible device, as NVML writes it; no driver or no device:
    :class:`InputError`.
    """
    try:
        cuda = library or ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise InputError(
            "no CUDA driver on this machine", hint="choose a backend of the CPU"
        ) from error
    device = ctypes.c_int()
    raw = (ctypes.c_ubyte * 16)()
    calls: tuple[Callable[[], int], ...] = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
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
    nvml: Any = None,
    say: Callable[[str], None] = print,
) -> Iterator[Watched]:
    """A watch on the GPU from before any session is opened: whoever is on it now is somebody else.

    Other processes: :class:`InputError` unless ``force``. ``lock``: to the base clock while it
    lasts, if the driver lets us. What NVML denies is said once and stays "unknown".
    """
    device = device or cuda_uuid()
    source: Source
    try:
        source = NvmlSource(device, nvml)
    except InputError as error:
        say(f"the GPU is not watched, its throttling stays unknown: {error}")
        source = Denied(error)
    watch = GpuWatch(source).start()
    try:
        window = watch.since(watch.mark())
        if window.processes and not force:
            pids = ", ".join(map(str, window.processes))
            raise InputError(
                f"the GPU is in use by process {pids}",
                device,
                "wait for it, or measure anyway with --force",
            )
        if window.processes:
            say(
                f"measured beside other processes on the GPU: "
                f"{', '.join(map(str, window.processes))}"
            )
        if window.unknown and isinstance(source, NvmlSource):
            say(f"the driver does not tell: {window.unknown}")
        with locked(source, lock) as policy:
            if policy == "denied":
                say("the clocks cannot be locked without more rights; they are left free")
            yield Watched(watch, machine_with_gpu(device), policy)
    finally:
        watch.stop()


@contextmanager
def locked(source: Source, wanted: bool) -> Iterator[str]:
    """Yields "locked": to the default application clock, as a power cap cuts the highest one;
    "denied", or "free".

    The lock is taken back at the end. NVML cannot tell of a lock that was there before, so none is
    taken unless it is asked for.
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
