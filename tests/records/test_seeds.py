"""Intervals over seeds: against SciPy, a textbook example, and a simulation with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from rfdetr_repro.records.seeds import seeded_difference, seeded_mean


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.31, 0.34, 0.29]
    found = seeded_mean(values)
    expected = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_the_interval_of_an_ap_is_cut_to_what_an_ap_can_be() -> None:
    wide = seeded_mean([0.40, 0.55])
    assert wide.low is not None and wide.low < 0 and wide.high is not None and wide.high > 1
    assert wide.within(0, 1) == wide._replace(low=0, high=1)
    narrow = seeded_mean([0.40, 0.41, 0.42])
    assert narrow.within(0, 1) == narrow
    assert seeded_mean([0.4]).within(0, 1) == seeded_mean([0.4])


def test_a_difference_has_welchs_interval() -> None:
    """Welch's own degrees of freedom, written out."""
    one, other = [0.50, 0.53, 0.55], [0.40, 0.47, 0.42]
    parts = [np.var(values, ddof=1) / 3 for values in (one, other)]
    degrees = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)
    half = scipy.stats.t.ppf(0.975, degrees) * np.sqrt(sum(parts))
    difference = np.mean(one) - np.mean(other)
    found = seeded_difference(one, other)
    assert found.value == pytest.approx(difference)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half))
    assert found.sign == 1 and seeded_difference(other, one).sign == -1
    assert seeded_difference(one, [0.45, 0.60, 0.50]).sign == 0


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ([0.5], [0.4, 0.3], "one seed"),
        ([0.5, 0.6], [0.4], "one seed"),
        ([0.0, 0.0, 0.0], [0.1, 0.2, 0.3], "all seeds give the same number"),
    ],
)
def test_without_a_spread_there_is_no_interval_and_no_sign(
    one: list[float], other: list[float], told: str
) -> None:
    found = seeded_difference(one, other)
    assert (found.low, found.high, found.told, found.sign) == (None, None, told, 0)


def test_no_difference_is_claimed_where_there_is_none() -> None:
    """Two methods of equal mean and different spread, three seeds each: about 5 % of the intervals
    leave 0 out, and of two methods that differ clearly most are told apart.
    """
    rng = np.random.default_rng(3)
    equal = [
        seeded_difference(rng.normal(0.3, 0.01, 3), rng.normal(0.3, 0.03, 3)).sign
        for _ in range(2000)
    ]
    apart = [
        seeded_difference(rng.normal(0.4, 0.01, 3), rng.normal(0.3, 0.01, 3)).sign
        for _ in range(500)
    ]
    assert np.mean(np.abs(equal)) <= 0.06
    assert np.mean(np.array(apart) == 1) > 0.9
