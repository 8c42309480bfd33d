"""Shared by the benchmarks: interleaved timing of two callables, so that a busy machine slows both
alike; and the machine.

Saved files name the device, driver, processor and runtime versions; comparing with a file of
another machine is an error.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rfdetr_repro.bench.machine import environment, this_machine

MACHINE = "rfdetr_repro_machine"
ENVIRONMENT = "rfdetr_repro_environment"
WHAT_RAN = ("cpu", "cores", "gpu", "driver")  # two machines that agree in these may be compared


def interleaved_ms(
    calls: dict[str, Callable[[], Any]], *, budget_s: float = 0.5, min_rounds: int = 5
) -> dict[str, float]:
    """Best time of each call in milliseconds, over rounds that run every call once, until
    ``budget_s`` is spent.
    """
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()  # warm-up: allocations, thread pool
    deadline = time.perf_counter() + budget_s
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < deadline:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
        rounds += 1
    return best


@pytest.fixture(params=[1, 2], ids=lambda count: f"{count}thread")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Number of CPU threads PyTorch may use in the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips benchmarks marked gpu on machines without a GPU."""
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(
                pytest.mark.skip(reason="no CUDA device, or this PyTorch is not built for CUDA")
            )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Adds the facts of a Record's machine to the saved results."""
    machine_info[MACHINE] = {
        name: value or "none" for name, value in dataclasses.asdict(this_machine()).items()
    }
    machine_info[ENVIRONMENT] = environment()


def pytest_benchmark_compare_machine_info(
    config: pytest.Config,
    benchmarksession: Any,
    machine_info: dict[str, Any],
    compared_benchmark: dict[str, Any],
) -> None:
    """Times of two machines say nothing about a change; versions that differ may be the change, and
    are only named.
    """
    here = machine_info
    there = compared_benchmark["machine_info"]
    if MACHINE not in there:
        raise pytest.UsageError(
            "the saved benchmarks do not say which machine they ran on; run them again"
        )
    differs = [name for name in WHAT_RAN if here[MACHINE].get(name) != there[MACHINE].get(name)]
    if differs:
        words = "; ".join(
            f"{name}: {here[MACHINE].get(name)} here, {there[MACHINE].get(name)} there"
            for name in differs
        )
        raise pytest.UsageError(f"the saved benchmarks ran on another machine ({words})")
    old = there.get(ENVIRONMENT, {})
    new = here[ENVIRONMENT]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            benchmarksession.logger.warning(f"{name}: {old.get(name)} -> {new.get(name)}")
