"""Means over data sets and regressions of knobs, against SciPy and a simulation with a known
answer.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from samples_record import fixed_record
from scipy import stats

from rfdetr_repro.records.data_sets import (
    RELATIONS,
    VARIANTS,
    gains_of,
    mean_over_sets,
    regression,
    regressions,
    results_of,
)
from rfdetr_repro.records.record import FIXED, RF100, TUNED, Record, TrainFacts
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

# AP of the fixed architecture, of the found one and after fine-tuning; objects of 10 images; knobs
SETS = {
    "bees": ((0.30, 0.35, 0.40), 40, Arch(128, 16, 1, 2, 25)),
    "cracks": ((0.20, 0.22, 0.30), 80, Arch(160, 16, 2, 1, 25)),
    "dials": ((0.50, 0.49, 0.55), 20, Arch(96, 16, 1, 0, 10)),
    "eggs": ((0.10, 0.16, 0.22), 300, Arch(160, 10, 2, 2, 50)),
}
BASE = Arch(128, 16, 1, 2, 25)


def record(name: str, variant: str, ap: float, split: str = "test") -> Record:
    _, objects, arch = SETS[name]
    whole = fixed_record()
    data = replace(
        whole.data, name=name, split=split, train=TrainFacts(10, objects, 3, 1 / objects)
    )
    model = replace(whole.model, variant=variant, arch=BASE if variant == FIXED else arch)
    return replace(
        whole,
        source="protocol",
        campaign=RF100,
        data=data,
        model=model,
        accuracy=replace(whole.accuracy, ap=ap, ap_low=None, ap_high=None),
    )


@pytest.fixture
def records() -> list[Record]:
    return [
        record(name, variant, ap)
        for name, (aps, _, _) in SETS.items()
        for variant, ap in zip(VARIANTS, aps, strict=True)
    ]


def test_results_are_of_one_split_and_of_this_campaign(records: list[Record]) -> None:
    others = [record("bees", FIXED, 0.9, "val"), replace(records[0], campaign="search")]
    found = results_of([*records, *others])
    assert [one.name for one in found] == sorted(SETS)
    assert found[0].ap(FIXED) == 0.30 and found[0].arch(FIXED) == BASE
    assert found[0].facts.objects_per_image == 4.0
    assert results_of(others[1:]) == []


def test_the_mean_gain_is_students_of_the_paired_differences(records: list[Record]) -> None:
    gains = gains_of(results_of(records), FIXED, TUNED)
    assert gains == pytest.approx([10.0, 10.0, 5.0, 12.0])
    found = mean_over_sets(gains)
    interval = stats.ttest_1samp(gains, 0.0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(gains), *interval))


def test_a_data_set_without_one_side_is_not_in_the_difference(records: list[Record]) -> None:
    kept = [one for one in records if (one.data.name, one.model.variant) != ("eggs", TUNED)]
    gains = gains_of(results_of(kept), FIXED, TUNED)
    assert len(gains) == 3 and mean_over_sets(gains).value == pytest.approx(25 / 3)
    nothing = [one for one in records if one.model.variant == FIXED]
    assert gains_of(results_of(nothing), FIXED, TUNED) == []


def test_no_interval_of_one_data_set() -> None:
    assert mean_over_sets([3.0]).told == "one data set"
    assert mean_over_sets([3.0, 3.0]).told == "all data sets give the same number"
    with pytest.raises(InputError, match="no data set"):
        mean_over_sets([])


def test_the_interval_covers_a_known_mean() -> None:
    """Of 400 simulated benchmarks of ten data sets, about 95 % of the intervals hold the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = mean_over_sets(rng.normal(1.5, 4.0, 10).tolist())
        held += found.low <= 1.5 <= found.high
    assert 0.92 <= held / 400 <= 0.975


def test_regressions_are_scipys(records: list[Record]) -> None:
    lines = regressions(results_of(records))
    assert [(one.statistic, one.knob) for one in lines] == list(RELATIONS)
    side = [math.sqrt(arch.tokens) for _, _, arch in SETS.values()]
    area = [1 / objects for _, objects, _ in SETS.values()]
    expected = stats.linregress(side, area)
    first = lines[0]
    assert (first.slope, first.intercept, first.p_value, first.std_error) == pytest.approx(
        (expected.slope, expected.intercept, expected.pvalue, expected.stderr)
    )
    assert first.r_squared == pytest.approx(expected.rvalue**2)
    half = stats.t.ppf(0.975, len(SETS) - 2) * expected.stderr
    assert (first.low, first.high) == pytest.approx((expected.slope - half, expected.slope + half))
    per_image = next(one for one in lines if one.knob == "Number of Queries")
    queries = [arch.queries for _, _, arch in SETS.values()]
    expected = stats.linregress(queries, [objects / 10 for _, objects, _ in SETS.values()])
    assert per_image.slope == pytest.approx(expected.slope)


def test_no_line_without_points() -> None:
    assert regression("a", "b", [1, 2], [1, 2]).told == "fewer than 3 data sets"
    knob = regression("Sizes", "Windows", [2, 2, 2], [1, 2, 3])
    assert knob.slope is None and knob.told == "the same windows for all data sets"
    statistic = regression("Sizes", "Windows", [1, 2, 3], [2, 2, 2])
    assert statistic.slope is None and statistic.told == "the same sizes for all data sets"


def test_facts_of_the_train_split_do_not_change_the_id(records: list[Record]) -> None:
    one = records[0]
    assert replace(one, data=replace(one.data, train=None)).id == one.id
    assert Record.from_json(one.to_json()) == one
