"""What is done to a GPU between samples, on a driver that only counts."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from samples_bench import VirtualClock

from rfdetr_repro.bench.gpu import load as module
from rfdetr_repro.bench.gpu.load import GpuLoad, work_before
from rfdetr_repro.bench.interleaved import Call, measure_interleaved
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol

L2_BYTES = 50 << 20
ADDRESS = 0x7F0000000000
CONTEXT = 0x5500000000
WRITE_US = 3.0


class FakeDriver:
    """libcuda with one device; ``log``: what it was asked, ``fails``: the call that returns an
    error.
    """

    def __init__(self, clock: VirtualClock, fails: str = "") -> None:
        # type: ignore[var-annotated]
        self.clock = clock
        self.fails = fails
        self.log = []
        self.current = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == self.fails:
                return 2
            if own := getattr(type(self), f"_{name}", None):
                own(self, *arguments)
            self.log.append(name)
            return 0

        return call

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:
        assert attribute == 38
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = L2_BYTES

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> None:
        ctypes.cast(context, ctypes.POINTER(ctypes.c_void_p))[0] = CONTEXT

    def _cuMemAlloc_v2(self, address: Any, size: ctypes.c_size_t) -> None:
        assert self.current == CONTEXT and size.value == 2 * L2_BYTES
        ctypes.cast(address, ctypes.POINTER(ctypes.c_uint64))[0] = ADDRESS

    def _cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> None:
        self.current = context.value or 0

    def _cuCtxPopCurrent_v2(self, context: Any) -> None:
        self.current = 0

    def _cuMemsetD8_v2(self, address: ctypes.c_uint64, value: Any, size: ctypes.c_size_t) -> None:
        assert self.current == CONTEXT and address.value == ADDRESS
        self.log.append(size.value)
        self.clock.ns += round(WRITE_US * 1e3)


def opened(fails: str = "") -> tuple[GpuLoad, FakeDriver, VirtualClock]:
    clock = VirtualClock()
    driver = FakeDriver(clock, fails)
    return GpuLoad(driver, clock), driver, clock


def test_a_flush_writes_twice_the_cache_and_waits() -> None:
    load, driver, _ = opened()
    driver.log.clear()
    load.flush_l2()
    assert driver.log == [
        "cuCtxPushCurrent_v2",
        2 * L2_BYTES,
        "cuMemsetD8_v2",
        "cuCtxSynchronize",
        "cuCtxPopCurrent_v2",
    ]


def test_spinning_lasts_as_long_as_it_should_and_leaves_the_cache() -> None:
    load, driver, clock = opened()
    driver.log.clear()
    start = clock.ns
    load.spin(0.02)
    assert 20e6 <= clock.ns - start <= 20e6 + module.SPIN_WRITES * WRITE_US * 1e3
    sizes = [entry for entry in driver.log if isinstance(entry, int)]
    assert set(sizes) == {module.SPIN_BYTES} and module.SPIN_BYTES < L2_BYTES / 100
    assert driver.log.count("cuCtxSynchronize") == len(sizes) / module.SPIN_WRITES
    assert driver.current == 0


@pytest.mark.parametrize(
    "fails", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuMemAlloc_v2"]
)
def test_a_gpu_that_cannot_be_worked_is_one_line(fails: str) -> None:
    with pytest.raises(InputError, match=f"{fails} returned the error 2") as refused:
        opened(fails)
    assert "\n" not in str(refused.value)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module,
        "ctypes",
        SimpleNamespace(CDLL=lambda _: (_ for _ in ()).throw(OSError("no such file"))),
    )
    with pytest.raises(InputError, match="no CUDA driver"):
        GpuLoad()


def test_a_protocol_that_asks_for_nothing_opens_nothing() -> None:
    def never() -> GpuLoad:
        raise AssertionError("opened")

    assert work_before(Protocol(), never) is None


def test_the_work_comes_after_the_wait_and_is_not_timed() -> None:
    load, driver, clock = opened()
    protocol = Protocol(
        buffer_ms=200,
        spin_ms=50,
        flush_l2=True,
        warmup=2,
        min_samples=4,
        max_samples=4,
        timeout_s=1e6,
    )
    assert protocol.rhythm == "buffered 200 ms, spin 50 ms, cold L2"
    seen: list[tuple[int, int]] = []
    run = clock.taking(5.0)

    def timed() -> None:
        seen.append((driver.log.count(2 * L2_BYTES), clock.ns))
        run()

    calls = {"m": [Call(timed, before=work_before(protocol, lambda: load))]}
    found = measure_interleaved(calls, protocol, clock=clock)["m"]
    assert [flushes for flushes, _ in seen] == [0, 0, 1, 2, 3, 4]  # not before the warm-up
    assert clock.slept == [0.15] * 4 and set(found.samples_ms) == {5.0}
    gaps_ms = np.diff([ns for _, ns in seen[2:]]) / 1e6
    # wait, spin and run: the spin is part of the wait
    assert np.all((gaps_ms >= 205) & (gaps_ms < 205.5))


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    import time

    import torch

    load = GpuLoad()
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    assert load.flushed_bytes >= 2 * l2_bytes > 0
    small = torch.zeros(1 << 20, device="cuda")
    load.flush_l2()
    start = time.perf_counter()
    load.spin(0.02)
    assert time.perf_counter() - start >= 0.02
    assert float(small.sum()) == 0.0  # PyTorch still works in the same context
