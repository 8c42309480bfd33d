"""Which GPU is measured, who else is on it, what may be locked, and what a Record keeps of the
watch.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from samples_nvml import ID, FakeNvml, opened

from rfdetr_repro.bench.gpu import device as module
from rfdetr_repro.bench.gpu.device import cuda_uuid, locked, uses_gpu
from rfdetr_repro.bench.gpu.state import gpu_state
from rfdetr_repro.bench.gpu.watch import NvmlSource, Window
from rfdetr_repro.records.statistics import verdict_of
from rfdetr_repro.spec.errors import InputError


def test_the_device_is_named_by_its_uuid() -> None:
    nvml = FakeNvml()
    (watched, window), told = opened(nvml)
    assert ("nvmlDeviceGetHandleByUUID", f"GPU-{ID}") in nvml.calls
    assert not any(name == "nvmlDeviceGetHandleByIndex" for name, *_ in nvml.calls)
    assert (
        watched.machine.gpu_uuid == f"GPU-{ID}"
        and watched.machine.gpu
        and watched.clock_policy == "free"
    )
    assert window.throttled == "no" and told == []


def test_cuda_tells_the_uuid_of_its_first_device() -> None:
    def get_uuid(raw: Any, device: Any) -> int:
        raw[:] = list(ID.bytes)
        return 0

    cuda = SimpleNamespace(cuInit=lambda _: 0, cuDeviceGet=lambda *_: 0, cuDeviceGetUuid=get_uuid)
    assert cuda_uuid(cuda) == f"GPU-{ID}"
    cuda.cuInit = lambda _: 100
    with pytest.raises(InputError, match=r"no device \(error 100\)"):
        cuda_uuid(cuda)


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module.ctypes, "CDLL", lambda _: (_ for _ in ()).throw(OSError("no such file"))
    )
    with pytest.raises(InputError, match="has no CUDA driver"):
        cuda_uuid()


def test_a_gpu_in_use_is_refused_unless_forced() -> None:
    with pytest.raises(InputError, match=r"in use by process 77.*--force"):
        opened(FakeNvml(pids=(77,)))
    _, told = opened(FakeNvml(pids=(77,)), force=True)
    assert told == ["other processes use the GPU during the measurement: 77"]


def test_what_nvml_denies_is_said_and_stays_unknown() -> None:
    (_, window), told = opened(FakeNvml(denied=("nvmlDeviceGetViolationStatus",)))
    assert "power counter: Insufficient Permissions" in told[0] and window.throttled.startswith(
        "unknown: "
    )
    (_, window), told = opened(FakeNvml(denied=("nvmlInit",)))
    assert "is not watched, so whether it throttles stays unknown" in told[
        0
    ] and window.throttled.startswith("unknown: ")


def test_clocks_are_locked_to_the_base_and_given_back() -> None:
    nvml = FakeNvml()
    assert opened(nvml, lock=True)[0][0].clock_policy == "locked"
    assert ("nvmlDeviceSetGpuLockedClocks", "handle", 1110, 1110) in nvml.calls
    assert nvml.calls.count(("nvmlDeviceResetGpuLockedClocks", "handle")) == 1
    nvml = FakeNvml()
    with pytest.raises(KeyboardInterrupt), locked(NvmlSource("GPU-1", nvml), True):
        raise KeyboardInterrupt
    assert ("nvmlDeviceResetGpuLockedClocks", "handle") in nvml.calls


def test_a_lock_that_is_refused_is_said() -> None:
    nvml = FakeNvml(denied=("nvmlDeviceSetGpuLockedClocks",))
    (watched, _), told = opened(nvml, lock=True)
    assert watched.clock_policy == "denied" and "left free" in told[0]
    assert not any(name == "nvmlDeviceResetGpuLockedClocks" for name, *_ in nvml.calls)


def test_nothing_is_locked_unasked() -> None:
    nvml = FakeNvml()
    opened(nvml)
    assert not any("Locked" in name for name, *_ in nvml.calls)


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("tensorrt-rtx", True),
        ("onnxruntime-cuda", True),
        ("torch-graph", True),
        ("onnxruntime", False),
        ("openvino", False),
    ],
)
def test_who_uses_a_gpu(name: str, gpu: bool) -> None:
    assert uses_gpu(name) is gpu


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_eager_torch_uses_what_pytorch_takes(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's files may be absent in a container that has a GPU; PyTorch itself is asked."""
    monkeypatch.setattr(
        "rfdetr_repro.ops.device.choose_device", lambda: SimpleNamespace(type=device)
    )
    assert uses_gpu("torch") is (device == "cuda")


QUIET = Window(
    "no",
    9,
    (1500, 1980),
    300.0,
    200.0,
    60,
    0.0,
    (),
    seconds=1.0,
    clocks={1500: 1, 1980: 3},
    throttled_s={"power": 0.0},
)
THROTTLED = QUIET._replace(
    throttled="yes: power",
    throttled_s={"power": 0.25},
    clocks={900: 8},
    temperature_c=90,
    energy_j=999.0,
)


def test_a_record_keeps_clocks_heat_energy_and_the_time_of_dropped_blocks() -> None:
    state = gpu_state(
        [(QUIET, True, 0.5), (THROTTLED, False, 0.5), (QUIET, True, 0.5)], 100.0, True, 50
    )
    assert state.throttled_s == {"power": 0.25}  # seen in the block that was dropped
    assert (
        state.sm_mhz == {"1500": 0.25, "1980": 0.75}
        and state.temperature_c == 60
        and state.power_w == 300.0
    )
    assert state.joules_per_image == pytest.approx(2 * 200 * 0.5 / 50)
    assert state.net_joules_per_image == pytest.approx(2 * 200 * 0.5 / 50 - 100 * 1.0 / 50)
    assert gpu_state([(QUIET, True, 0.5)], None, False, 50).joules_per_image is None


def test_what_was_not_seen_is_absent() -> None:
    blind = Window("unknown: dead", 0, None, None, None, None, None, (), unknown="dead")
    state = gpu_state([(blind, True, 1.0)], None, True, 10)
    assert state.unknown == "dead"
    assert {
        state.throttled_s,
        state.sm_mhz,
        state.joules_per_image,
        state.power_w,
        state.idle_share,
    } == {None}
    assert gpu_state([], None, True, 10) is None


def test_programs_that_came_during_the_series_are_counted() -> None:
    def seen(*windows: Window) -> int | None:
        return gpu_state(
            [(window, True, 0.5) for window in windows], None, False, 50
        ).other_programs

    came = QUIET._replace(processes=(7, 9))
    denied = QUIET._replace(unknown="processes: denied")
    assert seen(QUIET, came, came._replace(processes=(9,))) == 2 and seen(QUIET) == 0
    assert seen(QUIET, denied) is None and seen(QUIET._replace(readings=0)) is None
    assert seen(came, denied) == 2


def test_one_verdict_of_several_builds() -> None:
    assert verdict_of(["no", "no"]) == "no"
    assert verdict_of(["no", "unknown: a", "unknown: b"]) == "unknown: a; unknown: b"
    assert verdict_of(["unknown: a", "yes: power", "no", "yes: power"]) == "yes: power"
