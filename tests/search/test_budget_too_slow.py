"""A budget that the measured files exceed, because the latency model was too optimistic: faster
files are measured until one is within the budget or the fastest has been measured. The latencies
are simulated: each file is slower than modelled by a known factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from samples_run import SPACE, protocol_record, search_record

from rfdetr_repro.records.pareto import frontier
from rfdetr_repro.records.record import Record
from rfdetr_repro.search.budget import Budget
from rfdetr_repro.search.run import SearchRun
from rfdetr_repro.spec.arch import Arch

MODELLED = [search_record(arch) for arch in SPACE]
FRONT = frontier(MODELLED, "latency", "ap")  # ascending in latency and AP


def ms(record: Record) -> float:
    return record.as_latency().ms


def confirmed(budget: Budget, slower: float, limit: int) -> tuple[list[Arch], list[str]]:
    """The architectures that are measured, in their order, and what is told."""
    told: list[str] = []
    order: list[Arch] = []

    class Simulated(SearchRun):
        def __init__(self) -> None:
            self.request = cast(
                Any,
                SimpleNamespace(
                    candidates=limit, metric="ap", targets=None, budget=budget, tell=told.append
                ),
            )

        def _measured(self, fit: Any, chosen: Sequence[Arch], check_exports: bool) -> list[Record]:
            order.extend(chosen)
            modelled = {one.model.arch: ms(one) for one in MODELLED}
            records = []
            for arch in chosen:
                record = protocol_record(arch)
                assert record.latency is not None
                latency = replace(record.latency, median_ms=slower * modelled[arch])
                records.append(replace(record, latency=latency))
            return records

    Simulated().confirm(cast(Any, None), MODELLED)
    return order, told


def test_a_faster_file_is_measured_where_all_are_too_slow() -> None:
    ceiling = ms(FRONT[-1])
    order, told = confirmed(Budget(ceiling), slower=1.5, limit=1)
    possible = [one for one in FRONT if 1.5 * ms(one) <= ceiling]
    assert possible, "the sample has a file that is fast enough"
    assert order == [FRONT[-1].model.arch, possible[-1].model.arch]
    assert len(told) == 1 and order[1].key in told[0]


def test_the_search_ends_with_the_fastest_file() -> None:
    ceiling = 0.5 * ms(FRONT[0])
    order, _ = confirmed(Budget(ceiling), slower=3.0, limit=2)
    assert order[-1] == FRONT[0].model.arch and len(order) == len(set(order))
    ceiling = 1.01 * ms(FRONT[0])
    order, _ = confirmed(Budget(ceiling), slower=1.5, limit=2)
    assert order[-1] == FRONT[0].model.arch


@pytest.mark.parametrize("limit", [1, 3])
def test_nothing_else_is_measured_where_a_file_is_within(limit: int) -> None:
    order, told = confirmed(Budget(2 * ms(FRONT[-1])), slower=1.1, limit=limit)
    assert len(order) == limit and told == []


@pytest.mark.parametrize("slower", [1.05, 1.3, 2.0, 5.0])
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_a_budget_that_a_file_keeps_is_kept(slower: float, share: float) -> None:
    """With one factor for all files, the best file within the budget is among the measured."""
    place = int(share * (len(FRONT) - 1))
    ceiling = slower * ms(FRONT[place]) * 1.0001
    order, _ = confirmed(Budget(ceiling), slower=slower, limit=1)
    within = [one for one in FRONT if slower * ms(one) <= ceiling]
    if order[0] not in {one.model.arch for one in within}:
        assert within[-1].model.arch in order
