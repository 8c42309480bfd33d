"""Watches a GPU while it is measured: did it throttle, why, at what clocks, power and temperature,
and was it alone?

"Not throttled" has to be proved by the driver's cumulative counters and the polled reasons; what
cannot be seen is "unknown" and says why (benchmark protocol section 4). Boost clocks touch the
power limit for microseconds in normal work, so a window throttled if a cause held for more than
SHARE of its time. The source of readings is NVML, or a recording.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from rfdetr_repro.spec.errors import InputError

POLL_S = 0.02
# of a window's time, by the driver's counters, or of its readings, by the polled reasons
SHARE = 0.01
HUNG_S = 2.0  # a driver that does not answer for so long is not watched any more

# Reasons for a lower clock that invalidate a sample (NVML's clock event bits); idle or application
# clocks, for one, do not.
REASONS = {"power": 0x4 | 0x80, "thermal": 0x20 | 0x40, "hardware": 0x8}
IDLE = 0x1
# NVML's policies whose violation time the driver accumulates.
POLICIES = {"power": 0, "thermal": 1, "board limit": 3, "reliability": 5}


@dataclass(frozen=True)
class Reading:
    """One look at the GPU.

    An item that could not be read is None and named in ``unsupported`` with the driver's reason.
    """

    time_s: float
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    energy_j: float | None = None  # since the driver was loaded
    reasons: int | None = None  # bits of NVML's clock event reasons
    # cause -> cumulative time; absent: cannot be read
    throttled_ns: dict[str, int] = field(default_factory=dict)
    processes: tuple[int, ...] | None = None  # of other programs on this GPU
    unsupported: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Where readings come from."""

    def read(self) -> Reading: ...


class Window(NamedTuple):
    """What happened between two moments.

    ``throttled`` is "no", "yes: CAUSE, ..." or "unknown: REASON".
    """

    throttled: str
    readings: int
    sm_mhz: tuple[int, int] | None  # lowest and highest
    power_w: float | None  # mean
    energy_j: float | None
    temperature_c: int | None  # highest
    # of the readings in which the GPU had dropped its clocks for want of work
    idle_share: float | None
    processes: tuple[int, ...]  # of others, seen at any time
    seconds: float = 0.0  # from the first reading to the last
    clocks: dict[int, int] | None = None  # SM clock in MHz -> readings
    # cause -> time by the driver's counters; a cause it does not count is absent
    throttled_s: dict[str, float] | None = None
    unknown: str = ""  # items that could not be read, with the driver's reasons
    shares: dict[str, float] | None = None  # cause -> part of the window's time; None: not known
    busy_mhz: float | None = None  # mean SM clock of the readings in which the GPU was not idle

    @property
    def mean_sm_mhz(self) -> float | None:
        if not self.clocks:
            return None
        return sum(mhz * count for mhz, count in self.clocks.items()) / sum(self.clocks.values())

    @property
    def invalid(self) -> bool:
        return self.throttled.startswith("yes")


class NvmlSource:
    """Readings of a GPU by nvidia-ml-py. ``device``: its UUID, or NVML's index, which is not
    CUDA's.

    Raises :class:`InputError` without the package, the driver or that GPU.
    """

    def __init__(self, device: int | str = 0, nvml: Any = None) -> None:
        try:
            self.nvml = nvml or import_module("pynvml")
            self.nvml.nvmlInit()
            by_uuid = isinstance(device, str)
            find = (
                self.nvml.nvmlDeviceGetHandleByUUID
                if by_uuid
                else self.nvml.nvmlDeviceGetHandleByIndex
            )
            self.handle = find(device)
        except ImportError as error:
            raise InputError(
                "GPU state needs nvidia-ml-py", hint="pip install nvidia-ml-py"
            ) from error
        except self._error() as error:
            raise InputError(
                f"GPU {device} cannot be watched ({error})",
                hint="check nvidia-smi, or measure without a watch",
            ) from error

    def _error(self) -> type[Exception]:
        nvml = getattr(self, "nvml", None)
        return nvml.NVMLError if nvml is not None else OSError

    def read(self) -> Reading:
        nvml = self.nvml
        handle = self.handle
        unsupported: dict[str, str] = {}

        def item(name: str, call: Callable[[], Any]) -> Any:
            try:
                return call()
            except self._error() as error:
                unsupported[name] = str(error)
                return None

        power_mw = item("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        energy_mj = item("energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        violations = {
            cause: item(
                f"{cause} counter", partial(nvml.nvmlDeviceGetViolationStatus, handle, policy)
            )
            for cause, policy in POLICIES.items()
        }
        running = item("processes", lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return Reading(
            time.monotonic(),
            sm_mhz=item(
                "SM clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
            ),
            memory_mhz=item(
                "memory clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)
            ),
            temperature_c=item(
                "temperature",
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            ),
            power_w=None if power_mw is None else power_mw / 1e3,
            energy_j=None if energy_mj is None else energy_mj / 1e3,
            reasons=item(
                "clock reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            ),
            throttled_ns={
                cause: found.violationTime
                for cause, found in violations.items()
                if found is not None
            },
            processes=None
            if running is None
            else tuple(sorted({p.pid for p in running} - {os.getpid()})),
            unsupported=unsupported,
        )


class GpuWatch:
    """Polls a source in a thread between :meth:`start` and :meth:`stop`; :meth:`since` sums up what
    it saw.
    """

    def __init__(self, source: Source, *, poll_s: float = POLL_S, hung_s: float = HUNG_S) -> None:
        self.source = source
        self.poll_s = poll_s
        self.hung_s = hung_s
        self._readings: list[Reading] = []
        self._failure = ""
        self._stop, self._turn = threading.Event(), threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> GpuWatch:
        # a hung driver must not keep us
        self._thread = threading.Thread(target=self._poll, name="gpu-watch", daemon=True)
        self._thread.start()
        self._wait_for(1)
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.hung_s)

    def mark(self) -> int:
        """A moment for :meth:`since`: that of the latest reading."""
        return max(0, len(self._readings) - 1)

    def since(self, mark: int) -> Window:
        """Everything from the reading of ``mark`` to one that begins now."""
        self._wait_for(len(self._readings) + 2)  # the next one may have begun before
        with self._turn:
            return summed_up(self._readings[mark:], self._failure)

    def _wait_for(self, count: int) -> None:
        with self._turn:
            if not self._turn.wait_for(
                lambda: len(self._readings) >= count or bool(self._failure), self.hung_s
            ):
                self._failure = f"the driver did not answer for {self.hung_s:g} s"

    def _poll(self) -> None:
        while not self._stop.is_set():
            try:
                reading = self.source.read()
            # a dead driver raises whatever it likes; the measurement goes on, unwatched
            except Exception as error:
                with self._turn:
                    self._failure = f"the driver failed ({error})"
                    self._turn.notify_all()
                return
            with self._turn:
                self._readings.append(reading)
                self._turn.notify_all()
            self._stop.wait(self.poll_s)


def summed_up(readings: Sequence[Reading], failure: str = "") -> Window:
    """A window of readings in order of time; ``failure`` says why there are no more of them."""

    def known(name: str) -> list[Any]:
        return [
            value for value in (getattr(reading, name) for reading in readings) if value is not None
        ]

    clocks = known("sm_mhz")
    powers = known("power_w")
    energies = known("energy_j")
    reasons = known("reasons")
    others = sorted({pid for pids in known("processes") for pid in pids})
    denied = {f"{item}: {why}" for reading in readings for item, why in reading.unsupported.items()}
    return Window(
        throttled=_verdict(readings, failure),
        readings=len(readings),
        sm_mhz=(min(clocks), max(clocks)) if clocks else None,
        power_w=statistics.fmean(powers) if powers else None,
        energy_j=energies[-1] - energies[0] if len(energies) > 1 else None,
        temperature_c=max(known("temperature_c"), default=None),
        idle_share=sum(bool(bits & IDLE) for bits in reasons) / len(reasons) if reasons else None,
        processes=tuple(others),
        seconds=readings[-1].time_s - readings[0].time_s if readings else 0.0,
        clocks=dict(Counter(clocks)) or None,
        throttled_s=_throttled_s(readings) or None,
        shares=_shares(readings),
        busy_mhz=_busy_mhz(readings),
        unknown="; ".join(sorted(denied) + [failure] * bool(failure)),
    )


def _throttled_s(readings: Sequence[Reading]) -> dict[str, float]:
    spent = {}
    for cause in POLICIES:
        counts = [
            reading.throttled_ns[cause] for reading in readings if cause in reading.throttled_ns
        ]
        if len(counts) > 1:
            spent[cause] = (counts[-1] - counts[0]) / 1e9
    return spent


def _shares(readings: Sequence[Reading]) -> dict[str, float] | None:
    """The larger of what the counters and the polled reasons say; causes that held at no time are
    left out.

    None where neither can be read: then whether a cause held is not known.
    """
    counted = _throttled_s(readings)
    polled = [reading.reasons for reading in readings if reading.reasons is not None]
    if not counted and not polled:
        return None
    shares: dict[str, float] = {}
    seconds = readings[-1].time_s - readings[0].time_s
    for cause, spent_s in counted.items():
        if spent_s > 0:
            shares[cause] = min(1.0, spent_s / seconds) if seconds > 0 else 1.0
    for cause, bits in REASONS.items():
        seen = sum(bool(reasons & bits) for reasons in polled) / len(polled) if polled else 0.0
        if seen > shares.get(cause, 0.0):
            shares[cause] = seen
    return shares


def _busy_mhz(readings: Sequence[Reading]) -> float | None:
    """None where no clock is known of a reading in which the GPU is known not to have been idle."""
    busy = [
        reading.sm_mhz
        for reading in readings
        if reading.sm_mhz is not None and reading.reasons is not None and not reading.reasons & IDLE
    ]
    return statistics.fmean(busy) if busy else None


def _verdict(readings: Sequence[Reading], failure: str) -> str:
    shares = _shares(readings) or {}
    causes = [
        cause for cause in dict.fromkeys([*REASONS, *POLICIES]) if shares.get(cause, 0.0) > SHARE
    ]
    if causes:
        return f"yes: {', '.join(causes)}"
    if failure:
        return f"unknown: {failure}"
    if len(readings) < 2:
        return "unknown: fewer than two readings"
    blind = {
        item: why
        for reading in readings
        for item, why in reading.unsupported.items()
        if "counter" in item or "reasons" in item
    }
    missing = [
        cause
        for cause in ("power", "thermal")
        if any(cause not in reading.throttled_ns for reading in readings)
    ]
    if missing or any(reading.reasons is None for reading in readings):
        told = (
            "; ".join(f"{item}: {why}" for item, why in sorted(blind.items()))
            or "counters of power or heat are not there"
        )
        return f"unknown: {told}"
    return "no"
