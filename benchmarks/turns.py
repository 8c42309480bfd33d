"""Rows of pytest-benchmark's table for implementations that are timed in turns.

One benchmark times every implementation of a case: a round runs each of them once, in a new random
order, so that a busy machine slows all alike. The first one's samples are the benchmark's own; the
others' are kept in ``extra_info`` and become rows of the same group, each with the ratio of its
median to the first one's, so that the printed table answers "how much faster".
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.ratios import ratio

TURNS = "turns"
MOST_ROUNDS = 2000
_STATISTICS = ("min", "max", "mean", "stddev", "median", "iqr", "ops", "rounds", "outliers")


def in_turns(
    benchmark: Any,
    calls: Mapping[str, Callable[[], object]],
    *,
    group: str,
    budget_s: float = 0.5,
    min_rounds: int = 5,
) -> dict[str, float]:
    """Best time of each call in ms; the first call is the benchmark's own row, the others are rows
    beside it in ``group``.

    ``extra_info`` gets, for every other call, ``median_over_NAME``: [ratio of the medians, low,
    high], with the 95 % interval over rounds.
    """
    samples = _samples(calls, budget_s, min_rounds)
    first, *others = calls
    benchmark.group = group
    benchmark._mode = "in turns"  # else the fixture counts as unused
    if benchmark.enabled:
        own = benchmark._make_stats(1)
        for sample in samples[first]:
            own.update(sample)
    rows = {}
    for name in others:
        found = ratio(np.array(samples[name])[:, None], np.array(samples[first])[:, None])
        benchmark.extra_info[f"median_over_{name}"] = [
            round(value, 3) for value in (found.median, found.low, found.high)
        ]
        rows[name] = _statistics(samples[name])
    benchmark.extra_info[TURNS] = {"first": first, "rows": rows}
    return {name: 1e3 * min(values) for name, values in samples.items()}


def interleaved_ms(
    calls: Mapping[str, Callable[[], object]], *, budget_s: float = 0.5, min_rounds: int = 5
) -> dict[str, float]:
    """Best time of each call in ms, over rounds that run every call once, until ``budget_s`` is
    spent.
    """
    samples = _samples(calls, budget_s, min_rounds)
    return {name: 1e3 * min(seconds) for name, seconds in samples.items()}


def _samples(
    calls: Mapping[str, Callable[[], object]], budget_s: float, min_rounds: int
) -> dict[str, list[float]]:
    """Seconds of every round of each call; one more run warms each up."""
    order = random.Random(0)
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + budget_s
    rounds = 0
    while rounds < min_rounds or (time.perf_counter() < deadline and rounds < MOST_ROUNDS):
        for name in order.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            found[name].append(time.perf_counter() - start)
        rounds += 1
    return found


def _statistics(seconds: Sequence[float]) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    stats = Stats()
    for value in seconds:
        stats.update(value)
    return {name: getattr(stats, name) for name in _STATISTICS}


def grouped(benchmarks: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """pytest-benchmark's rows by group; a benchmark that was timed in turns becomes a row per
    implementation, named by the implementation and its ratio.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in benchmarks:
        turns = row.get("extra_info", {}).get(TURNS)
        group = groups[row["group"] or row["fullname"].split("[")[0]]
        if not turns or row.get("source"):  # rows that are compared with a saved file stay alone
            group.append(row)
            continue
        group.append({**row, "name": turns["first"], "fullname": turns["first"]})
        for name, statistics in turns["rows"].items():
            middle, low, high = row["extra_info"][f"median_over_{name}"]
            told = f"{name}: {middle:.2f} x {turns['first']} ({low:.2f} to {high:.2f})"
            group.append({**row, **statistics, "name": told, "fullname": told})
    return sorted(groups.items())
