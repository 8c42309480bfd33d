"""A CUDA device for an engine: buffers with addresses, one stream, events, graph capture.

PyTorch provides them where it can see a GPU, pycuda elsewhere; neither captures a foreign library's
launches on a plain stream handle alike, so capture goes through cuda-bindings for both (benchmark
protocol section 5).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from rfdetr_repro.spec.errors import InputError, StatedFailure

Array = np.ndarray[Any, Any]


class Gpu(NamedTuple):
    """``capability``: compute capability, like (9, 0)."""

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} sm_{self.capability[0]}{self.capability[1]}"


class Buffer(Protocol):
    """The same bytes twice: ``host`` (uint8, page-locked) and at ``address`` on the device."""

    host: Array
    address: int

    def upload(self) -> None:
        """Host to device, ordered on the device's stream; does not wait."""
        ...

    def download(self) -> None: ...


class Device(Protocol):
    """``stream``: handle of the one stream everything is ordered on, never the default stream
    (which cannot be captured).
    """

    gpu: Gpu
    stream: int

    def buffer(self, size_bytes: int) -> Buffer: ...

    def synchronize(self) -> None:
        """Waits until the stream has done everything."""
        ...

    def run(self, enqueue: Callable[[], object]) -> None:
        """Records an event before and one after what ``enqueue`` puts on the stream, and waits for
        the latter.
        """
        ...

    @property
    def elapsed_ms(self) -> float:
        """Time between the two events of the last ``run``, by the GPU's clock."""
        ...


def open_device() -> Device:
    """The current CUDA device; :class:`InputError` where there is none."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        return TorchDevice(torch)
    try:
        driver = importlib.import_module("pycuda.driver")
        driver.init()
    except (
        Exception
    ) as error:  # pycuda's own errors, or ImportError, or a missing libcuda: all mean no device
        why = "PyTorch sees none" if torch is not None else "PyTorch is not installed"
        what = f"no CUDA device ({why}; pycuda: {type(error).__name__}: {error})"
        raise InputError(
            what, hint="run where there is an NVIDIA GPU, or choose the backend onnxruntime"
        ) from error
    return PycudaDevice(driver)


class TorchDevice:
    def __init__(self, torch: Any) -> None:
        self._torch, self._stream = torch, torch.cuda.Stream()
        self.gpu = Gpu(torch.cuda.get_device_name(), tuple(torch.cuda.get_device_capability()))
        self.stream: int = self._stream.cuda_stream
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def buffer(self, size_bytes: int) -> Buffer:
        return _TorchBuffer(self._torch, self._stream, size_bytes)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def run(self, enqueue: Callable[[], object]) -> None:
        self._start.record(self._stream)
        enqueue()
        self._end.record(self._stream)
        self._end.synchronize()

    @property
    def elapsed_ms(self) -> float:
        return float(self._start.elapsed_time(self._end))


class _TorchBuffer:
    def __init__(self, torch: Any, stream: Any, size_bytes: int) -> None:
        self._torch = torch
        self._stream = stream
        self._device = torch.zeros(size_bytes, dtype=torch.uint8, device="cuda")
        self._host = torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=True)
        torch.cuda.synchronize()  # the zeros were written on another stream
        self.host: Array = self._host.numpy()
        self.address: int = self._device.data_ptr()

    def upload(self) -> None:
        with self._torch.cuda.stream(self._stream):
            self._device.copy_(self._host, non_blocking=True)

    def download(self) -> None:
        with self._torch.cuda.stream(self._stream):
            self._host.copy_(self._device, non_blocking=True)


class PycudaDevice:
    """The primary context of device 0, made current for this thread."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        device = driver.Device(0)
        self._context = device.retain_primary_context()
        self._context.push()
        self._stream = driver.Stream()
        self.gpu = Gpu(device.name(), tuple(device.compute_capability()))
        self.stream: int = self._stream.handle
        self._start, self._end = driver.Event(), driver.Event()

    def buffer(self, size_bytes: int) -> Buffer:
        return _PycudaBuffer(self._driver, self._stream, size_bytes)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def run(self, enqueue: Callable[[], object]) -> None:
        self._start.record(self._stream)
        enqueue()
        self._end.record(self._stream)
        self._end.synchronize()

    @property
    def elapsed_ms(self) -> float:
        return float(self._start.time_till(self._end))

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            context.pop()


class _PycudaBuffer:
    def __init__(self, driver: Any, stream: Any, size_bytes: int) -> None:
        self._driver = driver
        self._stream = stream
        self.host: Array = driver.pagelocked_zeros(size_bytes, np.uint8)
        self._device = driver.mem_alloc(size_bytes)
        self.address = int(self._device)
        driver.memset_d8(self.address, 0, size_bytes)

    def upload(self) -> None:
        self._driver.memcpy_htod_async(self._device, self.host, self._stream)

    def download(self) -> None:
        self._driver.memcpy_dtoh_async(self.host, self._device, self._stream)


class CapturedGraph:
    """What ``enqueue`` puts on ``stream``, recorded once; :meth:`launch` replays it.

    A failed capture is a StatedFailure.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
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
            self._runtime.cudaStreamEndCapture(stream)  # else the stream could not be used any more
            raise
        (graph,) = self._call("cudaStreamEndCapture", stream)
        (self._graph,) = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)  # the executable keeps what it needs

    def launch(self) -> None:
        self._call("cudaGraphLaunch", self._graph, self._stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        code, *results = getattr(self._runtime, name)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise StatedFailure(
                f"CUDA graph: {name} says {getattr(code, 'name', code)}; measure without a graph "
                f"and say so"
            )
        return tuple(results)
