"""The assignment of the matcher against SciPy's, group by group: equal pairs in equal order, with
ties, more targets than queries, and images without targets.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from rfdetr_repro.data.transforms import Target
from rfdetr_repro.train import matcher


def targets(counts: list[int]) -> list[Target]:
    return [
        Target(torch.zeros(count, 4), torch.zeros(count, dtype=torch.long), None, number)
        for number, count in enumerate(counts)
    ]


def expected(cost: np.ndarray, groups: int) -> list[list[int]]:
    """Pairs of one image by SciPy: costs (n, groups * q)."""
    queries = cost.shape[1] // groups
    pairs: list[list[int]] = [[], []]
    for group in range(groups):
        rows, columns = linear_sum_assignment(cost[:, group * queries : (group + 1) * queries].T)
        pairs[0] += (rows + group * queries).tolist()
        pairs[1] += columns.tolist()
    return pairs


@pytest.mark.parametrize("levels", [0, 40, 6])  # different values of a cost; 0: any float32
def test_pairs_equal_those_of_scipy(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(300):
        groups = int(rng.integers(1, 5))
        queries = int(rng.integers(1, 12))
        counts = rng.integers(0, 9, int(rng.integers(1, 4))).tolist()
        cost = rng.random((sum(counts), groups * queries)).astype(np.float32)
        if levels:
            cost = np.round(cost * levels)
        first = 0
        found = list(matcher._assign(cost, targets(counts), groups))
        assert len(found) == len(counts)
        for count, pairs in zip(counts, found, strict=True):
            assert pairs.tolist() == expected(cost[first : first + count], groups)
            assert pairs.dtype == np.int64
            first += count


def test_scipy_is_asked_only_where_the_assignment_is_not_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(
        matcher,
        "linear_sum_assignment",
        lambda cost: asked.append(cost.shape) or linear_sum_assignment(cost),
    )
    cost = np.ones((2, 6), np.float32)  # two targets, two groups of three queries
    cost[0, 1] = cost[1, 0] = 0  # clear
    cost[0, 4] = cost[1, 4] = 0  # both want the same query
    (pairs,) = matcher._assign(cost, targets([2]), 2)
    assert pairs[:, :2].tolist() == [[0, 1], [1, 0]] and asked == [(3, 2)]
    cost[0, 1] = 1  # no query is cheaper than the others
    list(matcher._assign(cost, targets([2]), 2))
    assert len(asked) == 3
