"""Our own process among those that NVML lists, in and outside of a container."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from samples_nvml import FakeNvml, opened

from rfdetr_repro.bench.gpu import own_process as module
from rfdetr_repro.bench.gpu.own_process import own_pids

STRANGER = 77
OURS_OUTSIDE = 4711


class Driver:
    """A driver whose context makes NVML list ``appears``; ``held``: contexts that are open."""

    def __init__(self, appears: set[int], fails: str = "") -> None:
        self.appears = appears
        self.fails = fails
        self.held = 0
        self.calls: list[str] = []

    def listed(self) -> set[int]:
        return {STRANGER} | (self.appears if self.held else set())

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> int:
            self.calls.append(name)
            if name == self.fails:
                return 100
            self.held += {"cuDevicePrimaryCtxRetain": 1, "cuDevicePrimaryCtxRelease_v2": -1}.get(
                name, 0
            )
            return 0

        return call


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A namespace that is not the first."""
    path = tmp_path / "pid"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APPEARS_S", 0.0)


def test_in_the_first_namespace_nothing_is_opened(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_NAMESPACE", elsewhere.stat().st_ino)
    driver = Driver({OURS_OUTSIDE})
    found = own_pids(driver.listed, namespace=elsewhere, library=driver)
    assert found == {os.getpid()} and not driver.calls


def test_in_a_container_it_is_the_process_that_appears(elsewhere: Path) -> None:
    driver = Driver({OURS_OUTSIDE})
    found = own_pids(driver.listed, namespace=elsewhere, library=driver)
    assert found == {OURS_OUTSIDE}
    assert driver.held == 0  # the context does not stay


@pytest.mark.parametrize(
    "driver",
    [Driver(set()), Driver({1, 2}), Driver({OURS_OUTSIDE}, "cuDevicePrimaryCtxRetain")],
    ids=["a context was open before", "two at once", "no device"],
)
def test_what_cannot_be_told_is_unknown(elsewhere: Path, driver: Driver) -> None:
    assert own_pids(driver.listed, namespace=elsewhere, library=driver) is None
    assert driver.held == 0


def test_a_watch_in_a_container_does_not_count_itself() -> None:
    nvml = FakeNvml(pids=(OURS_OUTSIDE, STRANGER))
    (_, window), told = opened(nvml, own=lambda _: {OURS_OUTSIDE}, force=True)
    assert window.processes == (STRANGER,)
    assert told == [f"other processes use the GPU during the measurement: {STRANGER}"]


def test_unknown_is_no_refusal_and_is_said() -> None:
    (_, window), told = opened(FakeNvml(pids=(OURS_OUTSIDE,)), own=lambda _: None)
    assert window.processes == () and window.throttled == "no"
    assert "processes: this process is not known among them" in window.unknown
    assert "processes: this process is not known" in told[0]
    (_, window), told = opened(FakeNvml(), own=lambda _: None)
    assert window.processes == () and not window.unknown and not told  # nobody is there
