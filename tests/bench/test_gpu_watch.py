"""The GPU watch on recordings: what it calls throttled, what it cannot know, and what the protocol
does about it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from samples_bench import VirtualClock
from samples_nvml import in_first_namespace
from samples_watch import QUIET, Playing, recording

from rfdetr_repro.bench.gpu.state import gpu_state
from rfdetr_repro.bench.gpu.watch import GpuWatch, NvmlSource, Reading, Window, summed_up
from rfdetr_repro.bench.interleaved import BLOCK, RESTS_S, measure_interleaved
from rfdetr_repro.bench.loop import REST_BUDGET_S
from rfdetr_repro.records.samples import SET_ASIDE
from rfdetr_repro.records.samples import THROTTLED as MARKED
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol


def counters(power: list[int], thermal: list[int]) -> list[dict[str, int]]:
    return [
        {**QUIET.throttled_ns, "power": p, "thermal": t}
        for p, t in zip(power, thermal, strict=True)
    ]


def test_a_quiet_recording_is_proved_quiet() -> None:
    window = summed_up(recording())
    assert window.throttled == "no" and not window.invalid and window.sm_mhz == (1980, 1980)
    assert (
        window.energy_j == pytest.approx(24.8)
        and window.power_w == 310.0
        and window.idle_share == 0
    )


THROTTLED = {
    "power cap, seen in the reasons": (recording(reasons=[0, 4, 4, 0, 0]), "yes: power"),
    "power cap, between two polls": (
        recording(throttled_ns=counters([5, 5, 900_005, 900_005, 900_005], [7] * 5)),
        "yes: power",
    ),
    "heat": (
        recording(reasons=[0, 0, 0x20, 0, 0], temperature_c=[60, 70, 91, 90, 88]),
        "yes: thermal",
    ),
    "heat and power": (recording(reasons=[0, 0x40, 0, 0x80, 0]), "yes: power, thermal"),
    "hardware": (recording(reasons=[0, 0, 8, 0, 0]), "yes: hardware"),
}


@pytest.mark.parametrize("case", THROTTLED)
def test_throttling_is_named_by_its_cause(case: str) -> None:
    readings, verdict = THROTTLED[case]
    assert summed_up(readings).throttled == verdict and summed_up(readings).invalid


@pytest.mark.parametrize("spent_ns", [1, 900, 700_000])
def test_microseconds_at_the_power_limit_are_boost_at_work(spent_ns: int) -> None:
    """Up to a hundredth of the window (80 ms here); how long it was stays in the window."""
    window = summed_up(
        recording(throttled_ns=counters([5, 5, 5 + spent_ns, 5 + spent_ns, 5 + spent_ns], [7] * 5))
    )
    assert window.throttled == "no" and not window.invalid
    assert window.throttled_s["power"] == pytest.approx(spent_ns / 1e9)
    assert window.shares == {"power": pytest.approx(spent_ns / 80e6)}


def test_the_share_is_what_the_counters_or_the_polled_reasons_say() -> None:
    both = summed_up(
        recording(
            reasons=[0, 4, 0, 0, 0],
            throttled_ns=counters([5, 5, 40_000_005] + [40_000_005] * 2, [7] * 5),
        )
    )
    assert both.shares == {"power": pytest.approx(0.5)}
    assert summed_up(recording(reasons=[0, 4, 0, 0x20, 4])).shares == {
        "power": pytest.approx(0.4),
        "thermal": pytest.approx(0.2),
    }
    assert summed_up(recording()).shares == {} and summed_up([]).shares is None


def test_the_clock_under_load_leaves_idle_readings_out() -> None:
    window = summed_up(recording(reasons=[1, 1, 0, 0, 1], sm_mhz=[345, 345, 1980, 1970, 345]))
    assert window.busy_mhz == 1975 and summed_up(recording(sm_mhz=[None] * 5)).busy_mhz is None


def test_reasons_that_cannot_be_read_are_neither_throttling_nor_none() -> None:
    blind = [replace(row, throttled_ns={}) for row in recording(reasons=[None] * 5)]
    assert summed_up(blind).shares is None and summed_up(blind).busy_mhz is None
    some = [replace(row, throttled_ns={}) for row in recording(reasons=[None, 4, None, 0, None])]
    assert summed_up(some).shares == {"power": pytest.approx(0.5)}
    state = gpu_state(
        [(summed_up(recording()), True, 0.1), (summed_up(blind), True, 0.1)], None, True, 2
    )
    assert state is not None and state.throttled_s is None


def test_idle_clocks_are_told_and_do_not_invalidate() -> None:
    window = summed_up(recording(reasons=[1, 1, 0, 1, 1], sm_mhz=[345, 345, 1980, 345, 345]))
    assert window.throttled == "no" and window.idle_share == 0.8 and window.sm_mhz == (345, 1980)


UNKNOWN = {
    "counters denied": (
        [
            replace(r, throttled_ns={}, unsupported={"power counter": "Not Supported"})
            for r in recording()
        ],
        "",
        "power counter: Not Supported",
    ),
    "reasons denied": (recording(reasons=[None] * 5), "", "counters of power or heat"),
    "one reading": (recording(1), "", "fewer than two"),
    "dead driver": (recording(), "the driver failed (GPU is lost)", "GPU is lost"),
    "nothing": ([], "", "fewer than two"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_cannot_be_seen_is_unknown(case: str) -> None:
    readings, failure, told = UNKNOWN[case]
    window = summed_up(readings, failure)
    assert (
        window.throttled.startswith("unknown: ") and told in window.throttled and not window.invalid
    )


def test_throttling_before_the_driver_died_still_counts() -> None:
    assert (
        summed_up(recording(reasons=[0, 4, 4, 0, 0]), "the driver failed").throttled == "yes: power"
    )


def test_other_programs_are_named() -> None:
    assert summed_up(recording(processes=[(), (77,), (77, 12), (), None])).processes == (12, 77)


def test_the_thread_sees_what_happens_between_mark_and_since() -> None:
    source = Playing([QUIET])
    watch = GpuWatch(source, poll_s=0.001, hung_s=600).start()
    mark = watch.mark()
    assert watch.since(mark).throttled == "no"
    mark = watch.mark()
    source.steps = [replace(QUIET, reasons=4)]
    assert watch.since(mark).throttled == "yes: power"
    source.steps = [QUIET]
    watch.since(watch.mark())  # the last throttled reading leaves the window
    assert watch.since(watch.mark()).throttled == "no"
    watch.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "gpu-watch"]


def test_a_dead_driver_is_unknown_from_then_on() -> None:
    def dies() -> Reading:
        raise OSError("GPU is lost")

    watch = GpuWatch(Playing([QUIET, QUIET, QUIET, dies]), poll_s=0.001, hung_s=600).start()
    # each waits for two more readings, or for the failure
    seen = [watch.since(0).throttled for _ in range(3)]
    assert "GPU is lost" in seen[-1]


def test_a_hung_call_does_not_hang_the_measurement() -> None:
    released = threading.Event()

    def hangs() -> Reading:
        released.wait()
        return QUIET

    watch = GpuWatch(Playing([QUIET, hangs]), poll_s=0.001, hung_s=0.1).start()
    assert "did not answer for 0.1 s" in watch.since(watch.mark()).throttled
    watch.stop()
    # it hangs still
    assert [thread for thread in threading.enumerate() if thread.name == "gpu-watch"]
    released.set()


class Clock:
    def __init__(self) -> None:
        # type: ignore[var-annotated]
        self.ns = 0
        self.slept = []

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)
        self.slept.append(seconds)


class Verdicts:
    """A watch that says one verdict after the other, the last for ever: "no", or with a clock in
    MHz "yes: power @ 1500".
    """

    def __init__(self, *verdicts: str) -> None:
        self.verdicts = list(verdicts)

    def mark(self) -> int:
        return 0

    def since(self, mark: int) -> Window:
        verdict = self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]
        verdict, _, mhz = verdict.partition(" @ ")
        shares = {"power": 0.4} if verdict.startswith("yes") else {}
        return Window(
            verdict,
            9,
            None,
            None,
            None,
            None,
            None,
            (),
            1.0,
            shares=shares,
            busy_mhz=float(mhz) if mhz else None,
        )


PROTOCOL = Protocol("sustained", warmup=0, min_samples=32, max_samples=32)


FULL = "no @ 1980"
LOW = "yes: power @ 1500"
LITTLE = "yes: power @ 1950"
BLOCKS = PROTOCOL.max_samples // BLOCK


def measured(*verdicts: str, models: int = 1) -> tuple[Any, Clock, list[int]]:
    clock = Clock()
    calls = []

    def run() -> None:
        calls.append(len(calls))
        # later blocks are slower: which count can be told
        clock.ns += 1_000_000 * (1 + len(calls) // (BLOCK + 1))

    runs = {f"{index}": run for index in range(models)}
    found = measure_interleaved(runs, PROTOCOL, clock=clock, watch=Verdicts(*verdicts))
    return found["0"], clock, calls


def test_a_block_with_a_lower_clock_is_set_aside_and_taken_again() -> None:
    found, clock, calls = measured(FULL, LOW, FULL, "yes: thermal @ 1500", FULL)
    latency = found.latency
    assert latency.throttled == "no" and latency.num_dropped == latency.num_marked == 2 * BLOCK
    assert clock.slept == [RESTS_S[0], RESTS_S[1]] and latency.num_samples == PROTOCOL.max_samples
    assert len(calls) == PROTOCOL.max_samples + 2 * BLOCK == len(found.series.ms)  # all are kept
    marks = [
        SET_ASIDE if block in (1, 3) else 0 for block in range(BLOCKS + 2) for _ in range(BLOCK)
    ]
    assert found.series.mark.tolist() == marks
    assert latency.median_ms == np.median(found.series.ms[found.series.mark == 0])
    assert (
        latency.gpu.rested_s == RESTS_S[0] + RESTS_S[1] and latency.gpu.throttled_share["power"] > 0
    )


@pytest.mark.parametrize(
    "verdicts",
    [
        ("yes: power",),
        (LITTLE,),
        (LOW,),
        (FULL, LITTLE),
        ("no", "yes: power @ 1500"),
        (LOW, FULL, LITTLE),
    ],
)
def test_without_a_real_drop_of_the_clock_a_throttled_block_is_kept_and_marked(
    verdicts: tuple[str, ...],
) -> None:
    """A card at its power limit in normal work: nothing to rest for.

    Nor where the clock, or what it should be, is not known.
    """
    found, clock, calls = measured(*verdicts)
    latency = found.latency
    assert latency.throttled == "yes: power" and clock.slept == [] and latency.num_dropped == 0
    assert (
        latency.num_samples == len(calls) == PROTOCOL.max_samples
        and "maximum" in latency.stop_reason
    )
    throttled = found.series.mark == MARKED
    assert throttled.sum() == latency.num_marked > 0 and latency.gpu.rested_s == 0


def test_a_gpu_that_stays_slow_is_rested_within_the_budget_then_measured_as_it_is() -> None:
    found, clock, calls = measured(FULL, LOW)
    latency = found.latency
    assert (
        latency.throttled == "yes: power"
        and sum(clock.slept) <= REST_BUDGET_S
        and clock.slept == list(RESTS_S)
    )
    assert latency.num_samples == PROTOCOL.max_samples and latency.num_dropped == BLOCK * len(
        RESTS_S
    )
    assert latency.num_marked == latency.num_dropped + PROTOCOL.max_samples - BLOCK
    assert (
        "maximum of" in latency.stop_reason
        and len(calls) == PROTOCOL.max_samples + latency.num_dropped
    )


def test_models_that_are_measured_together_share_the_budget() -> None:
    *_, clock, _ = measured(FULL, FULL, FULL, LOW, models=3)
    assert 0 < sum(clock.slept) <= REST_BUDGET_S


def test_one_unknown_block_makes_the_series_unknown() -> None:
    found, _, _ = measured("no", "unknown: the driver failed")
    assert found.latency.throttled == "unknown: the driver failed"
    assert measured("no")[0].latency.throttled == "no"


class FakeNvml:
    """NVML with some items denied."""

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, denied: tuple[str, ...] = ()) -> None:
        self.denied = denied

    def __getattr__(self, name: str) -> Any:
        values = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetPowerUsage": 310500,
            "nvmlDeviceGetTotalEnergyConsumption": 5000,
            "nvmlDeviceGetViolationStatus": SimpleNamespace(violationTime=0),
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=4)],
            "nvmlDeviceGetClockInfo": 1980,
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
        }

        def call(*_: Any) -> Any:
            if name in self.denied:
                raise self.NVMLError("Not Supported")
            return values[name]

        return call


def test_nvml_readings_and_what_it_denies() -> None:
    reading = NvmlSource(nvml=FakeNvml(), own=in_first_namespace).read()
    assert (reading.sm_mhz, reading.power_w, reading.energy_j, reading.processes) == (
        1980,
        310.5,
        5.0,
        (4,),
    )
    assert not reading.unsupported and summed_up([reading, reading]).throttled == "no"
    denied = NvmlSource(
        nvml=FakeNvml(("nvmlDeviceGetViolationStatus", "nvmlDeviceGetPowerUsage")),
        own=in_first_namespace,
    ).read()
    assert denied.power_w is None and denied.unsupported["power"] == "Not Supported"
    assert "power counter: Not Supported" in summed_up([denied, denied]).throttled


def test_no_such_gpu_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"GPU 3 cannot be watched \(Not Supported\)"):
        NvmlSource(3, nvml=FakeNvml(("nvmlDeviceGetHandleByIndex",)))


def test_reliability_counts_only_where_the_clock_fell() -> None:
    """At its highest voltage a GPU runs as fast as it can."""
    counts = [{**QUIET.throttled_ns, "reliability": 20_000_000 * i} for i in range(5)]
    window = summed_up(recording(throttled_ns=counts))
    assert window.throttled == "no" and window.shares == {"reliability": 1.0}
    fallen = recording(throttled_ns=counts, sm_mhz=[1980, 1980, 1700, 1700, 1980])
    assert summed_up(fallen).throttled == "yes: reliability"


def test_one_reading_at_the_power_limit_is_left_to_the_counter() -> None:
    window = summed_up(recording(reasons=[0, 0, 4, 0, 0]))
    assert window.throttled == "no" and window.shares == {}
    counted = counters([5, 5, 5, 5, 8_000_005], [7] * 5)
    window = summed_up(recording(reasons=[0, 0, 4, 0, 0], throttled_ns=counted))
    assert window.shares == {"power": pytest.approx(0.1)} and window.invalid
    for bits in (0x80, 0x84):  # the hardware's brake
        assert summed_up(recording(reasons=[0, 0, bits, 0, 0])).throttled == "yes: power"


def test_processes_are_asked_for_at_most_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from rfdetr_repro.bench.gpu import watch as module

    class Counting(FakeNvml):
        def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
            asked.append(handle)
            return [SimpleNamespace(pid=4)]

    asked: list[Any] = []
    source = NvmlSource(nvml=Counting(), own=lambda _: {9})
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for _ in range(100):
        assert source.read().processes == (4,)
        now[0] += 0.02
    assert len(asked) == 4


def test_names_of_older_packages() -> None:
    class Older(FakeNvml):
        def __getattr__(self, name: str) -> Any:
            if name == "nvmlDeviceGetCurrentClocksEventReasons":
                raise AttributeError(name)
            if name == "nvmlDeviceGetCurrentClocksThrottleReasons":
                return lambda _: 0x20
            return super().__getattr__(name)

    assert NvmlSource(nvml=Older(), own=in_first_namespace).read().reasons == 0x20


def test_idle_power_is_observed_once_for_all_models() -> None:
    clock = VirtualClock()
    watch = GpuWatch(Playing([QUIET, replace(QUIET, time_s=1.0)]), poll_s=0.0005)
    protocol = Protocol("sustained", warmup=1, min_time_s=0.1, timeout_s=10.0, builds=1)
    watch.start()
    try:
        runs = {name: clock.taking(10.0) for name in "abc"}
        found = measure_interleaved(runs, protocol, clock=clock, watch=watch)
    finally:
        watch.stop()
    assert {one.latency.gpu.idle_power_w for one in found.values()} == {310.0}
    assert clock.slept == [1.0]


@pytest.mark.gpu
def test_the_real_watch(record_property: Callable[[str, object], None]) -> None:
    """A GPU that multiplies matrices for a second: readings, counters in nanoseconds, and this
    process is nobody else.
    """
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    import time

    import torch

    from rfdetr_repro.bench.gpu.device import watching

    told: list[str] = []
    with watching(force=True, say=told.append) as watched:
        assert isinstance(watched.watch.source, NvmlSource)
        left = torch.randn(2048, 2048, device="cuda")
        torch.cuda.synchronize()
        mark = watched.watch.mark()
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for _ in range(20):
                left @ left
            torch.cuda.synchronize()
        window = watched.watch.since(mark)
        own = watched.watch.source.own
    record_property("window", str(window))
    record_property("told", str(told))
    record_property("own", str(own))
    print(window, told, own)
    assert 0.9 < window.seconds < 10 and window.readings >= 3
    assert "the driver failed" not in window.unknown and window.clocks, window.unknown
    assert window.throttled.split(":")[0] in ("no", "yes", "unknown")
    assert window.busy_mhz is None or window.busy_mhz > 200
    for spent_s in (window.throttled_s or {}).values():
        assert 0 <= spent_s <= 1.2 * window.seconds + 0.1
    assert window.energy_j is None or 1 < window.energy_j / window.seconds < 2000
    if own is None:
        assert window.processes == ()
    else:
        assert len(own) == 1 and not set(own) & set(window.processes)
