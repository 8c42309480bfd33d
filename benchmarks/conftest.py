"""Shared by the benchmarks: threads, the table of implementations, and the machine.

Saved files name the device, driver, processor and runtime versions; comparing with a file of
another machine is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from benchmarks.turns import grouped
from rfdetr_repro.bench.machine import environment, this_machine

MACHINE = "rfdetr_repro_machine"
ENVIRONMENT = "rfdetr_repro_environment"
WHAT_RAN = ("cpu", "cores", "gpu", "driver")  # two machines that agree in these may be compared


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


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_group_stats(
    config: pytest.Config, benchmarks: Sequence[dict[str, Any]], group_by: str
) -> list[tuple[str, list[dict[str, Any]]]] | None:
    """Groups by case, with a row and a ratio for each implementation; any other
    ``--benchmark-group-by`` than the default is left to pytest-benchmark.
    """
    return grouped(benchmarks) if group_by == "group" else None
