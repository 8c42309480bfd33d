"""A CUDA device for an engine: buffers with addresses, one stream, events, graph capture.

PyTorch provides these where it sees a GPU, pycuda elsewhere. The two capture the launches of a
foreign library differently, so graphs are captured through cuda-bindings for both (benchmark
protocol section 5).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from rfdetr_repro.spec.errors import InputError, StatedFailure

Array = np.ndarray[Any, Any]


class Gpu(NamedTuple):
    """Name and compute capability, such as (9, 0), of a GPU."""

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} sm_{self.capability[0]}{self.capability[1]}"


class Buffer(Protocol):
    """A buffer in two places: ``host`` (uint8, page-locked), and at ``address`` on the device."""

    @property
    def host(self) -> Array:
        """The host's copy, uint8 (size_bytes,)."""
        ...

    @property
    def address(self) -> int:
        """Address of the device's copy."""
        ...

    def upload(self) -> None:
        """Copies from host to device, in order on the device's stream, without waiting."""
        ...

    def download(self) -> None:
        """Copies from device to host, in order on the device's stream, without waiting."""


class Device(Protocol):
    """A GPU with one stream.

    ``stream``: handle of the stream on which all work is ordered; never the default stream, which
    cannot be captured.
    """

    gpu: Gpu
    stream: int

    def buffer(self, size_bytes: int) -> Buffer:
        """A buffer of ``size_bytes`` zeros."""

    def synchronize(self) -> None:
        """Waits until all work on the stream is complete."""
        ...

    def run(self, enqueue: Callable[[], object]) -> None:
        """Records events before and after the work that ``enqueue`` puts on the stream, and waits
        for the end.
        """
        ...

    @property
    def elapsed_ms(self) -> float:
        """Time in ms between the two events of the last ``run``, by the GPU's clock."""
        ...


def open_device() -> Device:
    """The current CUDA device; raises :class:`InputError` if there is none."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        return TorchDevice(torch)
    try:
        driver = importlib.import_module("pycuda.driver")
        driver.init()
    # pycuda's own errors, an ImportError and a missing libcuda all mean that there is no device
    except Exception as error:
        why = "PyTorch sees none" if torch is not None else "PyTorch is not installed"
        what = f"there is no CUDA device ({why}; pycuda: {type(error).__name__}: {error})"
        raise InputError(
            what, hint="run on a machine with an NVIDIA GPU, or choose the backend onnxruntime"
        ) from error
    return PycudaDevice(driver)


@dataclass(frozen=True)
class _Memory:
    """A :class:`Buffer`. ``copy_up`` and ``copy_down`` start a copy on the device's stream; they
    keep the memory behind ``address`` alive.
    """

    host: Array
    address: int
    copy_up: Callable[[], object]
    copy_down: Callable[[], object]

    def upload(self) -> None:
        self.copy_up()

    def download(self) -> None:
        self.copy_down()


class _Stream:
    """The part that PyTorch and pycuda have in common: a stream, and an event before and after the
    work.
    """

    def __init__(self, stream: Any, start: Any, end: Any) -> None:
        self._stream = stream
        self._start = start
        self._end = end

    def synchronize(self) -> None:
        """Waits until all work on the stream is complete."""
        self._stream.synchronize()

    def run(self, enqueue: Callable[[], object]) -> None:
        """Records events before and after the work that ``enqueue`` puts on the stream, and waits
        for the end.
        """
        self._start.record(self._stream)
        enqueue()
        self._end.record(self._stream)
        self._end.synchronize()


class TorchDevice(_Stream):
    """The current CUDA device, by PyTorch, with a stream of its own."""

    def __init__(self, torch: Any) -> None:
        """``torch``: the module, whose import is slow."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        super().__init__(torch.cuda.Stream(), start, end)
        self._torch = torch
        self.gpu = Gpu(torch.cuda.get_device_name(), tuple(torch.cuda.get_device_capability()))
        self.stream: int = self._stream.cuda_stream

    def buffer(self, size_bytes: int) -> Buffer:
        """A buffer of ``size_bytes`` zeros."""
        torch = self._torch
        device = torch.zeros(size_bytes, dtype=torch.uint8, device="cuda")
        host = torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=True)
        torch.cuda.synchronize()  # the zeros are written on another stream

        def copy(target: Any, source: Any) -> None:
            with torch.cuda.stream(self._stream):
                target.copy_(source, non_blocking=True)

        return _Memory(
            host.numpy(), device.data_ptr(), lambda: copy(device, host), lambda: copy(host, device)
        )

    @property
    def elapsed_ms(self) -> float:
        """Time in ms between the two events of the last ``run``."""
        return float(self._start.elapsed_time(self._end))


class PycudaDevice(_Stream):
    """The primary context of device 0, made current for this thread."""

    def __init__(self, driver: Any) -> None:
        """``driver``: the module ``pycuda.driver``, initialised."""
        device = driver.Device(0)
        self._context = device.retain_primary_context()
        self._context.push()
        super().__init__(driver.Stream(), driver.Event(), driver.Event())
        self._driver = driver
        self.gpu = Gpu(device.name(), tuple(device.compute_capability()))
        self.stream: int = self._stream.handle

    def buffer(self, size_bytes: int) -> Buffer:
        """A buffer of ``size_bytes`` zeros."""
        driver = self._driver
        host: Array = driver.pagelocked_zeros(size_bytes, np.uint8)
        device = driver.mem_alloc(size_bytes)
        driver.memset_d8(int(device), 0, size_bytes)
        return _Memory(
            host,
            int(device),
            lambda: driver.memcpy_htod_async(device, host, self._stream),
            lambda: driver.memcpy_dtoh_async(host, device, self._stream),
        )

    @property
    def elapsed_ms(self) -> float:
        """Time in ms between the two events of the last ``run``."""
        return float(self._start.time_till(self._end))

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            context.pop()


class CapturedGraph:
    """The work that ``enqueue`` puts on ``stream``, captured once; :meth:`launch` replays the work.

    Raises :class:`StatedFailure` if the capture fails.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        """Captures; raises :class:`InputError` without the package cuda-bindings."""
        try:
            self._runtime = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise InputError(
                f"CUDA graphs need cuda-bindings ({error})", hint="pip install cuda-bindings"
            ) from error
        self._stream = stream
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            # otherwise the stream could not be used any more
            self._runtime.cudaStreamEndCapture(stream)
            raise
        (graph,) = self._call("cudaStreamEndCapture", stream)
        (self._graph,) = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)  # the executable graph keeps its own copies

    def launch(self) -> None:
        """Replays the captured work on the stream, without waiting."""
        self._call("cudaGraphLaunch", self._graph, self._stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        code, *results = getattr(self._runtime, name)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise StatedFailure(
                f"the CUDA graph cannot be used: {name} returned {getattr(code, 'name', code)}; "
                f"measure without a CUDA graph"
            )
        return tuple(results)
