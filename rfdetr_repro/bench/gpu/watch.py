"""Watches a GPU during a measurement: throttling and its causes, clocks, power, temperature, other
processes.

"Not throttled" must be proved by the driver's cumulative counters and the polled reasons; a state
that cannot be observed is "unknown", with the reason (benchmark protocol section 4). Boost clocks
reach the power limit for microseconds in normal work, so a window counts as throttled if a cause
held for more than SHARE of the window's time. A GPU at its highest voltage counts as limited by
"reliability" although its clock is the highest there is, so that cause counts only in a window in
which the clock fell. The source of readings is NVML or a recording.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from rfdetr_repro.spec.errors import InputError

from .own_process import own_pids

POLL_S = 0.02
# of a window's time, by the driver's counters, or of its readings, by the polled reasons
SHARE = 0.01
# drop of the clock under load within a window, as a fraction of its highest, that counts as a fall
FALL = 0.05
PROCESSES_S = 0.5  # least time between two questions for the processes on the GPU, which are slow
HUNG_S = 2.0  # after this time without an answer, the driver is no longer polled

# Reasons for a lower clock that invalidate a sample (NVML's clock event bits); an idle GPU or
# application clocks, for example, do not.
REASONS = {"power": 0x4 | 0x80, "thermal": 0x20 | 0x40, "hardware": 0x8}
IDLE = 0x1
POWER_CAP = 0x4  # the software's power limit, whose time the power counter adds up
# NVML's policies whose violation time the driver accumulates.
POLICIES = {"power": 0, "thermal": 1, "board limit": 3, "reliability": 5}


@dataclass(frozen=True)
class Reading:
    """One reading of the GPU's state.

    An item that could not be read is None and named in ``unsupported`` with the driver's reason.
    """

    time_s: float
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    energy_j: float | None = None  # since the driver was loaded
    reasons: int | None = None  # bits of NVML's clock event reasons
    # cause -> cumulative time; a cause that cannot be read is absent
    throttled_ns: dict[str, int] = field(default_factory=dict)
    processes: tuple[int, ...] | None = None  # process ids of other programs on this GPU
    unsupported: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """A source of readings."""

    def read(self) -> Reading:
        """The GPU's present state."""


class Window(NamedTuple):
    """Summary of the readings between two moments.

    ``throttled`` is "no", "yes: CAUSE, ..." or "unknown: REASON".
    """

    throttled: str
    readings: int
    sm_mhz: tuple[int, int] | None  # lowest and highest SM clock
    power_w: float | None  # mean power
    energy_j: float | None
    temperature_c: int | None  # highest temperature
    # share of the readings in which the GPU had lowered its clocks because it was idle
    idle_share: float | None
    processes: tuple[int, ...]  # foreign processes that were seen at any time
    seconds: float = 0.0  # from the first reading to the last
    clocks: dict[int, int] | None = None  # SM clock in MHz -> readings
    # cause -> time by the driver's counters; a cause without a counter is absent
    throttled_s: dict[str, float] | None = None
    unknown: str = ""  # items that could not be read, with the driver's reasons
    shares: dict[str, float] | None = None  # cause -> fraction of the window's time; None: unknown
    busy_mhz: float | None = None  # mean SM clock of the readings in which the GPU was not idle

    @property
    def mean_sm_mhz(self) -> float | None:
        """Mean SM clock of the readings in MHz, or None if no clock was read."""
        if not self.clocks:
            return None
        return sum(mhz * count for mhz, count in self.clocks.items()) / sum(self.clocks.values())

    @property
    def invalid(self) -> bool:
        """Whether the GPU is known to have throttled."""
        return self.throttled.startswith("yes")


class NvmlSource:
    """Readings of a GPU by the package nvidia-ml-py.

    ``device``: the GPU's UUID, or NVML's index, which differs from CUDA's index.
    """

    def __init__(
        self,
        device: int | str = 0,
        nvml: Any = None,
        own: Callable[[Callable[[], set[int]]], Collection[int] | None] = own_pids,
    ) -> None:
        """Connects to NVML; raises :class:`InputError` without the package, the driver or the
        GPU.

        ``own``: finds the ids of this process among those that a function lists; None: unknown.
        """
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
                "reading the GPU's state needs the package nvidia-ml-py",
                hint="pip install nvidia-ml-py",
            ) from error
        except self._error() as error:
            raise InputError(
                f"GPU {device} cannot be watched ({error})",
                hint="check nvidia-smi, or measure without a watch",
            ) from error
        self._asked_s: float | None = None  # when the processes were asked for
        self._processes: tuple[int, ...] | None = None
        self._unlisted = ""  # why the processes are not known
        try:
            self.own = own(self._pids)
        except self._error():
            self.own = None  # said by the readings

    def _error(self) -> type[Exception]:
        nvml = getattr(self, "nvml", None)
        return nvml.NVMLError if nvml is not None else OSError

    def _reasons(self, handle: Any) -> Any:
        """The clock event reasons, which older packages call throttle reasons."""
        nvml = self.nvml
        name = "nvmlDeviceGetCurrentClocksEventReasons"
        if not hasattr(nvml, name):
            name = "nvmlDeviceGetCurrentClocksThrottleReasons"
        return getattr(nvml, name)(handle)

    def _pids(self) -> set[int]:
        return {
            process.pid for process in self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)
        }

    def _others(self) -> tuple[int, ...] | None:
        """The processes of other programs, at most PROCESSES_S old."""
        now = time.monotonic()
        if self._asked_s is not None and now - self._asked_s < PROCESSES_S:
            return self._processes
        self._asked_s = now
        try:
            pids = self._pids()
        except self._error() as error:
            self._processes, self._unlisted = None, str(error)
            return None
        if pids and self.own is None:
            self._processes = None
            self._unlisted = "this process is not known among them, in a pid namespace of its own"
        else:
            self._processes, self._unlisted = tuple(sorted(pids - set(self.own or ()))), ""
        return self._processes

    def read(self) -> Reading:
        """Reads every item; an item that NVML denies is None and named in ``unsupported``. The
        processes are those of at most PROCESSES_S ago.
        """
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
        others = self._others()
        if others is None:
            unsupported["processes"] = self._unlisted
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
            reasons=item("clock reasons", lambda: self._reasons(handle)),
            throttled_ns={
                cause: found.violationTime
                for cause, found in violations.items()
                if found is not None
            },
            processes=others,
            unsupported=unsupported,
        )


class GpuWatch:
    """Polls a source in a thread between :meth:`start` and :meth:`stop`; :meth:`since` summarises
    the readings.
    """

    def __init__(self, source: Source, *, poll_s: float = POLL_S, hung_s: float = HUNG_S) -> None:
        """``poll_s``: seconds between readings; ``hung_s``: seconds after which a driver that does
        not answer counts as hung.
        """
        self.source = source
        self.poll_s = poll_s
        self.hung_s = hung_s
        self._readings: list[Reading] = []
        self._failure = ""
        self._stop = threading.Event()
        self._turn = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> GpuWatch:
        """Starts polling and waits for the first reading."""
        # a hung driver must not block the program
        self._thread = threading.Thread(target=self._poll, name="gpu-watch", daemon=True)
        self._thread.start()
        self._wait_for(1)
        return self

    def stop(self) -> None:
        """Stops polling; waits at most ``hung_s`` seconds for the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.hung_s)

    def mark(self) -> int:
        """A mark for :meth:`since`: the number of the latest reading."""
        return max(0, len(self._readings) - 1)

    def since(self, mark: int) -> Window:
        """Summary of the readings from ``mark`` to a reading that begins now."""
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
            # a failed driver may raise any error; the measurement goes on without a watch
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
    """Summary of ``readings``, which are in order of time; ``failure`` is the reason if the
    readings ended early.
    """

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
    """Cause -> fraction of the time, the larger of counters and polled reasons; causes that never
    held are left out. A single reading at the power limit is left to the counter of power, where
    there is one: boost clocks touch the limit for microseconds.

    None where neither can be read, so that whether a cause held is unknown.
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
        held = [reasons & bits for reasons in polled if reasons & bits]
        if held == [POWER_CAP] and cause in counted:
            continue
        seen = len(held) / len(polled) if polled else 0.0
        if seen > shares.get(cause, 0.0):
            shares[cause] = seen
    return shares


def _busy_clocks(readings: Sequence[Reading]) -> list[int]:
    """SM clocks in MHz of the readings in which the GPU was not idle."""
    return [
        reading.sm_mhz
        for reading in readings
        if reading.sm_mhz is not None and reading.reasons is not None and not reading.reasons & IDLE
    ]


def _busy_mhz(readings: Sequence[Reading]) -> float | None:
    """Mean SM clock in MHz of the readings in which the GPU was not idle; None without such a
    reading.
    """
    busy = _busy_clocks(readings)
    return statistics.fmean(busy) if busy else None


def _fell(readings: Sequence[Reading]) -> bool:
    """Whether the clock under load fell by more than FALL; also True where no clock is known."""
    busy = _busy_clocks(readings)
    return not busy or min(busy) < (1 - FALL) * max(busy)


def _verdict(readings: Sequence[Reading], failure: str) -> str:
    shares = _shares(readings) or {}
    causes = [
        cause
        for cause in dict.fromkeys([*REASONS, *POLICIES])
        if shares.get(cause, 0.0) > SHARE and (cause != "reliability" or _fell(readings))
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
        reason = (
            "; ".join(f"{item}: {why}" for item, why in sorted(blind.items()))
            or "counters of power or heat are not there"
        )
        return f"unknown: {reason}"
    return "no"
