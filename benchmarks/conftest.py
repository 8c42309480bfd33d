"""Shared by the benchmarks: interleaved timing of two callables, so that a busy machine slows both alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


def interleaved_ms(calls: dict[str, Callable[[], Any]], *, budget_s: float = 0.5, min_rounds: int = 5) -> dict[str, float]:
    """Best time of each call in milliseconds, over rounds that run every call once, until ``budget_s`` is spent."""
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()  # warm-up: allocations, thread pool
    deadline, rounds = time.perf_counter() + budget_s, 0
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
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device, or this PyTorch is not built for CUDA"))
