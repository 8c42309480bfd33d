"""Shared by ``test_gpu_device.py`` and others: FakeNvml, opened."""

from __future__ import annotations

import os
import uuid
from types import SimpleNamespace
from typing import Any

from rfdetr_repro.bench.gpu.device import watching

ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class FakeNvml:
    """NVML that answers ``values`` and refuses ``denied``; ``calls`` holds the names of what was
    called, with arguments.
    """

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, denied: tuple[str, ...] = (), pids: tuple[int, ...] = ()) -> None:
        # type: ignore[var-annotated]
        self.denied = denied
        self.calls = []
        self.values = {
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlDeviceGetPowerUsage": 100_000,
            "nvmlDeviceGetClockInfo": 1500,
            "nvmlDeviceGetTotalEnergyConsumption": 5000,
            "nvmlDeviceGetViolationStatus": SimpleNamespace(violationTime=0),
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=pid) for pid in pids],
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetDefaultApplicationsClock": 1110,
        }

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if name in self.denied:
                raise self.NVMLError("Insufficient Permissions")
            return self.values.get(name)

        return call


def in_first_namespace(listed: Any) -> set[int]:
    """What this process is for NVML where it shares NVML's pid namespace."""
    return {os.getpid()}


def opened(nvml: FakeNvml, **options: Any) -> tuple[Any, list[str]]:
    messages: list[str] = []
    options = {"own": in_first_namespace, **options}
    with watching(device=f"GPU-{ID}", nvml=nvml, say=messages.append, **options) as watched:
        window = watched.watch.since(watched.watch.mark())
    return (watched, window), messages
