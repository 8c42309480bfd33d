"""Choice of the CUDA device, and capture: errors are raised, the stream is left usable."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from samples_export import images, tiny_artifact
from samples_pycuda import FakeDriver
from samples_tensorrt import FakeCudaRuntime, FakeDevice, FakeTrt, failing_enqueue

from rfdetr_repro.export.tensorrt.cuda_device import (
    APIS,
    CapturedGraph,
    Chosen,
    Gpu,
    PycudaDevice,
    open_device,
)
from rfdetr_repro.runtime.session import OrtSession
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


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return driver


def test_pycuda_serves_where_torch_does_not(
    pycuda: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    device = open_device()
    assert (
        isinstance(device, PycudaDevice)
        and device.gpu == Gpu("NVIDIA L4", (8, 9))
        and device.stream == 5
        and (device.api, device.index) == ("pycuda", 0)
    )
    assert str(device.gpu) == "NVIDIA L4 sm_89"
    buffer = device.buffer(4)
    assert not pycuda.memory[buffer.address].any()
    buffer.host[:] = [1, 2, 3, 4]
    buffer.upload()
    buffer.host[:] = 0
    buffer.download()
    assert buffer.host.tolist() == [1, 2, 3, 4]
    pycuda.log.clear()
    device.run(lambda: pycuda.log.append("run"))
    assert device.elapsed_ms == 2.5
    assert pycuda.log == ["record", "run", "record", "synchronize"]


def test_a_device_is_chosen_by_library_and_number(
    pycuda: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # pycuda is asked all the same
    device = open_device(Chosen.parse("pycuda:1"))
    assert device.gpu == Gpu("Tesla T4", (7, 5)) and pycuda.stack == [1] and device.index == 1
    with pytest.raises(InputError, match="no CUDA device 2; devices are numbered from 0 to 1"):
        open_device(Chosen("pycuda", 2))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"no CUDA device \(PyTorch sees none\)"):
        open_device(Chosen("torch"))  # pycuda has two
    for text in ("cuda", "torch:", "pycuda:-1", "pycuda:x", ""):
        with pytest.raises(InputError, match="no interface to a CUDA device"):
            Chosen.parse(text)
    assert Chosen.parse("torch:3") == Chosen("torch", 3)


@pytest.mark.parametrize("how", ["closed", "forgotten", "device first"])
def test_buffers_go_before_the_context(pycuda: FakeDriver, how: str) -> None:
    device = open_device(Chosen("pycuda"))
    buffers = [device.buffer(4), device.buffer(8)]
    replaced = buffers.pop()
    del replaced
    gc.collect()
    assert len(pycuda.memory) == 1  # a buffer that nobody holds goes at once
    pycuda.log.clear()
    if how == "closed":
        device.close()
        device.close()
    elif how == "forgotten":
        del buffers, device
    else:
        del device
        gc.collect()
        assert pycuda.stack and pycuda.memory  # the buffer keeps its device
        buffers[0].upload()
        del buffers
    gc.collect()
    assert not pycuda.stack and not pycuda.memory
    assert pycuda.log.count("free") == 1 and pycuda.log.count("destroyed") == 3
    assert not [entry for entry in pycuda.log if "without" in entry]


def test_a_session_names_pycuda_and_frees_in_order(
    pycuda: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine at real addresses, on the doubled driver's second device."""
    from rfdetr_repro.export.tensorrt.engine import build_engine
    from rfdetr_repro.runtime.tensorrt import TrtSession

    class Memory:
        """Device memory at its real address."""

        def __init__(self, size: int) -> None:
            self.array = np.zeros(size, np.uint8)

        def __int__(self) -> int:
            return int(self.array.ctypes.data)

        def free(self) -> None:
            pycuda.needs_a_context("free")

    monkeypatch.setattr(pycuda, "mem_alloc", Memory)
    monkeypatch.setattr(pycuda, "memset_d8", lambda *_: None)
    monkeypatch.setattr(
        pycuda, "memcpy_htod_async", lambda memory, host, _: np.copyto(memory.array, host)
    )
    monkeypatch.setattr(
        pycuda, "memcpy_dtoh_async", lambda host, memory, _: np.copyto(host, memory.array)
    )
    onnx = tiny_artifact(tmp_path)
    trt = FakeTrt(device=SimpleNamespace(do=lambda work: work() or True))
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
    chosen = Chosen("pycuda", 1)
    engine = build_engine(onnx, "tensorrt", tmp_path, chosen=chosen)
    assert engine.manifest.build["gpu"] == "Tesla T4 sm_75"
    session = TrtSession(engine, "tensorrt", cuda_graph=False, chosen=chosen)
    assert session.artifact_id.options.split()[-1] == "device_api=pycuda"
    assert session.device_index == 1
    found = session.run(images(1)[:1])
    np.testing.assert_allclose(
        found.scores, OrtSession(onnx, 1).run(images(1)[:1]).scores, atol=1e-5
    )
    pycuda.log.clear()
    session.close()
    session.close()
    gc.collect()
    assert pycuda.log.count("free") == len(onnx.manifest.outputs) + 1
    assert not pycuda.stack and not [entry for entry in pycuda.log if "without" in entry]


@pytest.mark.gpu
@pytest.mark.parametrize("api", APIS)
def test_buffers_events_and_graphs(api: str) -> None:
    if api == "pycuda":
        pytest.importorskip("pycuda.driver", reason="pycuda is not installed")
    device = open_device(Chosen(api))
    assert device.api == api and device.stream and device.index == 0
    buffer = device.buffer(8)
    buffer.host[:] = 9
    buffer.upload()
    buffer.host[:] = 0
    buffer.download()
    device.synchronize()
    device.run(buffer.upload)
    assert (buffer.host == 9).all() and device.elapsed_ms > 0
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    graph = CapturedGraph(device.stream, buffer.download)
    buffer.host[:] = 0
    graph.launch()
    device.synchronize()
    assert (buffer.host == 9).all()
    graph.close()
    device.close()
