"""Verdicts whose unit of observation is a data set, against SciPy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from samples_record import fixed_record
from scipy import stats

from rfdetr_repro.claims.catalog import claims_named
from rfdetr_repro.claims.table import claims_table, commands_lines
from rfdetr_repro.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED, judged
from rfdetr_repro.records.data_sets import FOUND
from rfdetr_repro.records.record import FIXED, RF100, TUNED, Record, TrainFacts
from rfdetr_repro.spec.arch import Arch


def rows(name: str, fixed: float, found: float, tuned: float, side: int = 8) -> list[Record]:
    """A data set whose objects are the smaller, the more patches its found architecture has."""
    whole = fixed_record()
    data = replace(whole.data, name=name, split="test", train=TrainFacts(10, 40, 3, 0.5 / side))
    arch = Arch(16 * side, 16, 1, 2, 25)
    return [
        replace(
            whole,
            campaign=RF100,
            data=data,
            model=replace(whole.model, variant=variant, arch=arch),
            accuracy=replace(whole.accuracy, ap=ap),
        )
        for variant, ap in ((FIXED, fixed), (FOUND, found), (TUNED, tuned))
    ]


def findings(records: list[Record], claim: str) -> dict[str, list]:
    (one,) = judged(records, claims_named(claim))
    found: dict[str, list] = {}
    for finding in one.findings:
        found.setdefault(finding.comparison.id, []).append(finding)
    return found


def test_found_against_fixed_is_students_over_data_sets() -> None:
    records = [
        *rows("a", 0.30, 0.34, 0.40, 6),
        *rows("b", 0.20, 0.25, 0.30, 8),
        *rows("c", 0.50, 0.53, 0.50, 10),
    ]
    (finding,) = findings(records, "7")["7.1"]
    interval = stats.ttest_1samp([4.0, 5.0, 3.0], 0.0).confidence_interval(0.95)
    assert (finding.effect.value, finding.effect.low, finding.effect.high) == pytest.approx(
        (4.0, *interval)
    )
    assert finding.word == HOLDS and finding.pairs == 3
    assert finding.scale.words == "3 data sets test, 900 images"
    (line,) = findings(records, "7")["7.2"]
    expected = stats.linregress([6, 8, 10], [50 / 6, 50 / 8, 50 / 10])
    assert line.effect.value == pytest.approx(expected.slope)
    (tuned,) = findings(records, "3")["3.2"]
    assert tuned.word == UNDECIDED  # +6, +5 and -3 points


def test_data_sets_on_which_nothing_is_found_are_left_out() -> None:
    records = [
        *rows("a", 0.30, 0.34, 0.40),
        *rows("b", 0.20, 0.25, 0.3),
        *rows("c", 0.5, 0.53, 0.5),
    ]
    (before,) = findings(records, "7")["7.1"]
    (finding,) = findings([*records, *rows("d", 0.01, 0.04, 0.06)], "7")["7.1"]
    assert finding.effect.value == before.effect.value and finding.pairs == 3
    assert finding.reason == "left out: 1 data set with an AP below 5"
    (tuned,) = findings([*records, *rows("d", 0.01, 0.04, 0.06)], "3")["3.2"]
    assert tuned.pairs == 4  # after fine-tuning something is found


def test_a_gain_of_the_fixed_architecture_fails_the_claim() -> None:
    records = [one for n in "abcd" for one in rows(n, 0.4 + ord(n) / 1e4, 0.3, 0.3)]
    (finding,) = findings(records, "7")["7.1"]
    assert finding.word == FAILS
    assert claims_table(judged(records, claims_named("7"))).rows


def test_two_data_sets_and_composed_ones_decide_nothing_together() -> None:
    records = [
        one
        for name in ("a", "b", "embedded-x", "embedded-y")
        for one in rows(name, 0.3, 0.35 + len(name) / 100, 0.4)
    ]
    found = findings(records, "7")["7.1"]
    assert [one.word for one in found] == [UNDECIDED, UNDECIDED]
    assert [one.scale.synthetic for one in found] == [False, True]
    lines = findings(records, "7")["7.2"]  # the found architecture is the same everywhere
    assert [(one.word, one.effect) for one in lines] == [(UNDECIDED, None)] * 2


def test_without_records_the_command_is_named() -> None:
    assert findings([], "7")["7.1"][0].word == NOT_RUN
    lines = commands_lines(judged([], claims_named("7")))
    assert any("rfdetr-repro rf100 --data DIR --out OUT" in line for line in lines)
