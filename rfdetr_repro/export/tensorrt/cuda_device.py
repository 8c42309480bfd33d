"""A CUDA device for an engine: buffers with addresses, one stream, events, graph capture.

PyTorch provides these where it sees a GPU, pycuda elsewhere, unless one is chosen. The two capture
the launches of a foreign library differently, so graphs are captured through cuda-bindings for both
(benchmark protocol section 5).
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from rfdetr_repro.spec.errors import InputError, StatedFailure

Array = np.ndarray[Any, Any]
APIS = ("torch", "pycuda")  # libraries that give a CUDA device


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

    @property
    def api(self) -> str:
        """The library that gives the device, one of APIS."""
        ...

    @property
    def index(self) -> int:
        """The number of the device among those that CUDA shows."""
        ...

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

    def close(self) -> None:
        """Frees the buffers and gives the device back; all else on it has to be gone before."""
        ...


@dataclass(frozen=True)
class Chosen:
    """The library that gives the device, one of APIS or None for PyTorch where it sees a GPU and
    pycuda elsewhere, and the number of the device among those that CUDA shows; None: PyTorch's
    current device, pycuda's first.
    """

    api: str | None = None
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> Chosen:
        """From "torch", "pycuda" or either with a number, such as "pycuda:1"; raises
        :class:`InputError` for other texts.
        """
        api, _, number = text.partition(":")
        if api not in APIS or (":" in text and not number.isdecimal()):
            raise InputError(
                f"{text!r} is no interface to a CUDA device",
                hint=f"choose {' or '.join(APIS)}, with a device number after a colon if needed",
            )
        return cls(api, int(number) if number else None)


ANY = Chosen()


def open_device(chosen: Chosen = ANY) -> Device:
    """The CUDA device that is ``chosen``; raises :class:`InputError` if there is none."""
    torch = _torch() if chosen.api != "pycuda" else None
    if torch is not None and torch.cuda.is_available():
        index = torch.cuda.current_device() if chosen.index is None else chosen.index
        _check_index(index, torch.cuda.device_count())
        return TorchDevice(torch, index)
    told = "PyTorch sees none" if torch is not None else "PyTorch is not installed"
    why = [told] if chosen.api != "pycuda" else []
    if chosen.api != "torch":
        try:
            driver = importlib.import_module("pycuda.driver")
            driver.init()
            count = driver.Device.count()
        # pycuda's own errors, an ImportError and a missing libcuda all mean that there is no device
        except Exception as error:
            why.append(f"pycuda: {type(error).__name__}: {error}")
        else:
            index = chosen.index or 0
            _check_index(index, count)
            return PycudaDevice(driver, index)
    raise InputError(
        f"there is no CUDA device ({'; '.join(why)})",
        hint="run on a machine with an NVIDIA GPU, or choose the backend onnxruntime",
    )


def _torch() -> Any:
    """PyTorch, or None where it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None


def _check_index(index: int, count: int) -> None:
    if index >= count:
        raise InputError(
            f"there is no CUDA device {index}",
            hint=f"devices are numbered from 0 to {count - 1}; check CUDA_VISIBLE_DEVICES",
        )


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


@dataclass
class _Timing:
    """A stream, and an event before and after the work on the stream."""

    stream: Any
    start: Any
    end: Any


class _Stream:
    """The part that PyTorch and pycuda have in common."""

    def __init__(self, timing: _Timing) -> None:
        self._timing = timing

    def synchronize(self) -> None:
        """Waits until all work on the stream is complete."""
        self._timing.stream.synchronize()

    def run(self, enqueue: Callable[[], object]) -> None:
        """Records events before and after the work that ``enqueue`` puts on the stream, and waits
        for the end.
        """
        timing = self._timing
        timing.start.record(timing.stream)
        enqueue()
        timing.end.record(timing.stream)
        timing.end.synchronize()


class TorchDevice(_Stream):
    """A CUDA device, by PyTorch, with a stream of its own."""

    api = "torch"

    def __init__(self, torch: Any, index: int = 0) -> None:
        """``torch``: the module, whose import is slow. Device ``index`` becomes the current one of
        this thread, because engines run on the current device.
        """
        torch.cuda.set_device(index)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        super().__init__(_Timing(torch.cuda.Stream(index), start, end))
        self._torch = torch
        self.index = index
        self.gpu = Gpu(
            torch.cuda.get_device_name(index), tuple(torch.cuda.get_device_capability(index))
        )
        self.stream: int = self._timing.stream.cuda_stream

    def buffer(self, size_bytes: int) -> Buffer:
        """A buffer of ``size_bytes`` zeros."""
        torch = self._torch
        device = torch.zeros(size_bytes, dtype=torch.uint8, device=f"cuda:{self.index}")
        host = torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=True)
        torch.cuda.synchronize(self.index)  # the zeros are written on another stream

        def copy(target: Any, source: Any) -> None:
            with torch.cuda.stream(self._timing.stream):
                target.copy_(source, non_blocking=True)

        return _Memory(
            host.numpy(), device.data_ptr(), lambda: copy(device, host), lambda: copy(host, device)
        )

    @property
    def elapsed_ms(self) -> float:
        """Time in ms between the two events of the last ``run``."""
        return float(self._timing.start.elapsed_time(self._timing.end))

    def close(self) -> None:
        """Nothing: PyTorch frees what is no longer used."""


class _PycudaBuffer:
    """A :class:`Buffer`, which keeps its device open."""

    def __init__(self, device: PycudaDevice, size_bytes: int) -> None:
        driver = device.driver
        self._device = device
        self.host: Array = driver.pagelocked_zeros(size_bytes, np.uint8)
        self._memory = driver.mem_alloc(size_bytes)
        driver.memset_d8(int(self._memory), 0, size_bytes)

    @property
    def address(self) -> int:
        """Address of the device's copy."""
        return int(self._memory)

    def upload(self) -> None:
        """Copies from host to device on the device's stream."""
        self._device.driver.memcpy_htod_async(self._memory, self.host, self._device.queue)

    def download(self) -> None:
        """Copies from device to host on the device's stream."""
        self._device.driver.memcpy_dtoh_async(self.host, self._memory, self._device.queue)

    def free(self) -> None:
        """Gives the device's memory back; the host's copy goes with its last array."""
        if (memory := self.__dict__.pop("_memory", None)) is not None:
            memory.free()

    def __del__(self) -> None:
        self.free()


class PycudaDevice(_Stream):
    """The primary context of a CUDA device, by pycuda, made current for this thread until
    :meth:`close`.
    """

    api = "pycuda"

    def __init__(self, driver: Any, index: int = 0) -> None:
        """``driver``: the module ``pycuda.driver``, initialised."""
        device = driver.Device(index)
        context = device.retain_primary_context()
        context.push()
        timing = _Timing(driver.Stream(), driver.Event(), driver.Event())
        super().__init__(timing)
        self.driver = driver
        self.index = index
        self.gpu = Gpu(device.name(), tuple(device.compute_capability()))
        self.stream: int = timing.stream.handle
        self._buffers: weakref.WeakSet[_PycudaBuffer] = weakref.WeakSet()
        # also at the end of the program, where pycuda aborts with a context on its stack
        self._closing = weakref.finalize(self, _closed, context, timing, self._buffers)

    @property
    def queue(self) -> Any:
        """pycuda's stream."""
        return self._timing.stream

    def buffer(self, size_bytes: int) -> Buffer:
        """A buffer of ``size_bytes`` zeros."""
        buffer = _PycudaBuffer(self, size_bytes)
        self._buffers.add(buffer)
        return buffer

    @property
    def elapsed_ms(self) -> float:
        """Time in ms between the two events of the last ``run``."""
        return float(self._timing.start.time_till(self._timing.end))

    def close(self) -> None:
        """Waits for the stream, frees the buffers, then events and stream, and takes the context
        off this thread's stack; the device cannot be used after that.
        """
        self._closing()


def _closed(context: Any, timing: _Timing, buffers: weakref.WeakSet[_PycudaBuffer]) -> None:
    """What :meth:`PycudaDevice.close` does, in an order in which nothing outlives its context."""
    timing.stream.synchronize()
    for buffer in list(buffers):
        buffer.free()
    timing.start = timing.end = timing.stream = None
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

    def close(self) -> None:
        """Destroys the graph, which cannot be replayed after that."""
        if (graph := self.__dict__.pop("_graph", None)) is not None:
            self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        code, *results = getattr(self._runtime, name)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise StatedFailure(
                f"the CUDA graph cannot be used: {name} returned {getattr(code, 'name', code)}; "
                f"measure without a CUDA graph"
            )
        return tuple(results)
