"""A double of pycuda's driver for two devices. What needs a context fails without one."""

from __future__ import annotations

from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

NAMES = ("NVIDIA L4", "Tesla T4")
CAPABILITIES = ((8, 9), (7, 5))


class FakeDriver(ModuleType):
    """pycuda.driver as its documentation describes it; the devices' memory is a dictionary.

    ``log``: what was done, with "without a context" where no context was current.
    """

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.log: list[Any] = []
        self.memory: dict[int, np.ndarray] = {}
        self.stack: list[int] = []
        self.Device = partial(Device, self)
        self.Device.count = lambda: len(NAMES)  # type: ignore[attr-defined]
        self.Stream = self.Event = partial(Timed, self)

    def needs_a_context(self, what: str) -> None:
        self.log.append(what if self.stack else f"{what} without a context")

    def init(self) -> None:
        self.log.append("init")

    def pagelocked_zeros(self, shape: int, dtype: Any) -> np.ndarray:
        return np.zeros(shape, dtype)

    def mem_alloc(self, size: int) -> Any:
        self.needs_a_context("allocated")
        address = 4096 * (1 + len(self.memory))
        self.memory[address] = np.full(size, 7, np.uint8)
        return Allocation(self, address)

    def memset_d8(self, address: int, value: int, count: int) -> None:
        self.memory[address][:count] = value

    def memcpy_htod_async(self, memory: Any, host: np.ndarray, stream: Any) -> None:
        self.memory[int(memory)][:] = host

    def memcpy_dtoh_async(self, host: np.ndarray, memory: Any, stream: Any) -> None:
        host[:] = self.memory[int(memory)]


class Device:
    def __init__(self, driver: FakeDriver, index: int) -> None:
        self.driver, self.index = driver, index

    def name(self) -> str:
        return NAMES[self.index]

    def compute_capability(self) -> tuple[int, int]:
        return CAPABILITIES[self.index]

    def retain_primary_context(self) -> Any:
        stack = self.driver.stack
        return SimpleNamespace(push=lambda: stack.append(self.index), pop=stack.pop)


class Allocation:
    def __init__(self, driver: FakeDriver, address: int) -> None:
        self.driver, self.address = driver, address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.driver.needs_a_context("free")
        del self.driver.memory[self.address]


class Timed:
    """A stream or an event."""

    handle = 5

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        driver.needs_a_context("created")

    def record(self, stream: Any) -> None:
        self.driver.log.append("record")

    def synchronize(self) -> None:
        self.driver.needs_a_context("synchronize")

    def time_till(self, end: Any) -> float:
        return 2.5

    def __del__(self) -> None:
        self.driver.needs_a_context("destroyed")
