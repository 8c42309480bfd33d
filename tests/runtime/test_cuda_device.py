"""Choice of the CUDA device, and capture: errors are raised, the stream is left usable."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from samples_tensorrt import FakeCudaRuntime, FakeDevice, failing_enqueue

from rfdetr_repro.export.tensorrt.cuda_device import (
    CapturedGraph,
    Gpu,
    PycudaDevice,
    TorchDevice,
    open_device,
)
from rfdetr_repro.spec.errors import InputError, StatedFailure


def installed(monkeypatch: pytest.MonkeyPatch, runtime: FakeCudaRuntime) -> FakeCudaRuntime:
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)  # type: ignore[arg-type]
    return runtime


def test_a_graph_replays_what_was_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    ran = list[int]()
    runtime = installed(monkeypatch, FakeCudaRuntime(device))
    graph = CapturedGraph(device.stream, lambda: device.do(lambda: ran.append(1)) and None)
    device.synchronize()
    assert not ran, "capturing runs nothing"
    graph.launch()
    device.synchronize()
    graph.launch()
    device.synchronize()
    assert len(ran) == 2 and runtime.calls.count("cudaGraphLaunch") == 2


@pytest.mark.parametrize(
    "call",
    ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch"],
)
def test_a_failed_capture_raises(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    installed(monkeypatch, FakeCudaRuntime(device, call))
    with pytest.raises(StatedFailure, match=f"{call} returned cudaErrorStreamCaptureUnsupported"):
        CapturedGraph(device.stream, lambda: None).launch()


def test_a_failed_launch_inside_a_capture_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    runtime = installed(monkeypatch, FakeCudaRuntime(device))
    with pytest.raises(StatedFailure, match="does not run"):
        CapturedGraph(device.stream, failing_enqueue)
    assert (
        runtime.calls == ["cudaStreamBeginCapture", "cudaStreamEndCapture"]
        and device.captured is None
    )


def test_graphs_need_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(InputError, match="need cuda-bindings"):
        CapturedGraph(1, lambda: None)


def test_without_a_gpu_one_line_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(
        InputError, match="no CUDA device .PyTorch sees none; pycuda: ModuleNotFoundError"
    ) as caught:
        open_device()
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="PyTorch is not installed"):
        open_device()


class FakeDriver(ModuleType):
    """pycuda.driver as its documentation describes it, for one device whose memory is a
    dictionary.
    """

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.log: list[Any] = []
        self.memory: dict[int, np.ndarray] = {}

    def init(self) -> None:
        self.log.append("init")

    def Device(self, index: int) -> Any:
        context = SimpleNamespace(
            push=lambda: self.log.append("push"), pop=lambda: self.log.append("pop")
        )
        return SimpleNamespace(
            name=lambda: "NVIDIA L4",
            compute_capability=lambda: (8, 9),
            retain_primary_context=lambda: context,
        )

    def Stream(self) -> Any:
        return SimpleNamespace(handle=5, synchronize=lambda: self.log.append("synchronize"))

    def Event(self) -> Any:
        def record(stream: Any) -> None:
            self.log.append("record")

        return SimpleNamespace(
            record=record, synchronize=lambda: self.log.append("event"), time_till=lambda end: 2.5
        )

    def pagelocked_zeros(self, shape: int, dtype: Any) -> np.ndarray:
        return np.zeros(shape, dtype)

    def mem_alloc(self, size: int) -> int:
        self.memory[4096] = np.full(size, 7, np.uint8)
        return 4096

    def memset_d8(self, address: int, value: int, count: int) -> None:
        self.memory[address][:count] = value

    def memcpy_htod_async(self, address: int, host: np.ndarray, stream: Any) -> None:
        self.memory[address][:] = host

    def memcpy_dtoh_async(self, host: np.ndarray, address: int, stream: Any) -> None:
        host[:] = self.memory[address]


def test_pycuda_serves_where_torch_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    device = open_device()
    assert (
        isinstance(device, PycudaDevice)
        and device.gpu == Gpu("NVIDIA L4", (8, 9))
        and device.stream == 5
    )
    assert str(device.gpu) == "NVIDIA L4 sm_89"
    buffer = device.buffer(4)
    assert not driver.memory[buffer.address].any()
    buffer.host[:] = [1, 2, 3, 4]
    buffer.upload()
    buffer.host[:] = 0
    buffer.download()
    assert buffer.host.tolist() == [1, 2, 3, 4]
    driver.log.clear()
    device.run(lambda: driver.log.append("run"))
    assert device.elapsed_ms == 2.5
    assert driver.log == ["record", "run", "record", "event"]


@pytest.mark.gpu
def test_torch_buffers_events_and_graphs() -> None:
    device = open_device()
    assert isinstance(device, TorchDevice) and device.stream
    buffer = device.buffer(8)
    buffer.host[:] = 9
    buffer.upload()
    buffer.host[:] = 0
    buffer.download()
    device.synchronize()
    device.run(buffer.upload)
    assert (buffer.host == 9).all() and device.elapsed_ms > 0
    pytest.importorskip("cuda.bindings.runtime")
    graph = CapturedGraph(device.stream, buffer.download)
    buffer.host[:] = 0
    graph.launch()
    device.synchronize()
    assert (buffer.host == 9).all()
