"""Numbers are rounded as by hand, and what is printed is what is compared."""

from __future__ import annotations

import math
from dataclasses import fields
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_repro.paper.costs import compare
from rfdetr_repro.records.record import Accuracy
from rfdetr_repro.spec.arch import KNOB_LABELS, KNOB_UNITS, KNOBS, Arch
from rfdetr_repro.spec.metrics import (
    COCO_METRICS,
    COCO_METRICS_IN_WORDS,
    decimals,
    in_points,
    milliseconds,
    percent,
    rounds_to,
    share,
)
from rfdetr_repro.spec.presets import NAMES_OF_LETTERS, PRESETS, SIZE_LETTERS, wide
from rfdetr_repro.tables.published import difference


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (47.25, 1, "47.3"),  # Python's own format says 47.2
        (47.35, 1, "47.4"),
        (0.125, 2, "0.13"),
        (2.5, 0, "3"),
        (-2.5, 0, "-3"),
        (-0.04, 1, "0.0"),
        (28.749999999999996, 2, "28.75"),
        (1e22, 1, "10000000000000000000000.0"),
        (0, 1, "0.0"),
    ],
)
def test_numbers_are_rounded_half_up(value, digits, text):
    assert decimals(value, digits) == text


@given(st.integers(-(10**9), 10**9), st.integers(0, 3))
def test_rounding_of_exact_decimals_is_that_of_decimal(thousandths, digits):
    exact = Decimal(thousandths) / 1000
    expected = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    assert Decimal(decimals(thousandths / 1000, digits)) == expected


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_a_rounded_number_is_the_nearest(value, digits):
    error = abs(Fraction(decimals(value, digits)) - Fraction(value))
    assert error <= Fraction(1, 2 * 10**digits) + Fraction(1, 10**9)


def test_what_is_not_finite_is_written_as_python_writes_it():
    assert decimals(math.inf, 1) == "inf" and decimals(math.nan, 2) == "nan"


def test_each_kind_has_one_form():
    assert percent(0.4725) == "47.3" and percent(None) == "" and percent(None, "-") == "-"
    assert percent(0.2875) == "28.8"  # 100 * 0.2875 is 28.749999999999996 in float64
    assert in_points(0.0125) == "+1.3" and in_points(-0.00001) == "+0.0"
    assert in_points(0.485 - 0.4725) == "+1.3"
    assert milliseconds(2.345) == "2.35" and milliseconds(12.25) == "12.3"
    assert share(0.0325) == "3.3%"


@pytest.mark.parametrize("printed", ["20.2", "20.3", "7", "7.00"])
@given(value=st.floats(0, 50))
def test_tables_and_cost_cells_agree_on_what_is_equal(printed, value):
    """Two programs compare counts with printed numbers; they must not differ on a tie."""
    equal = rounds_to(value, printed)
    assert (compare(value, printed) == "reproduced") is equal
    assert (difference(printed, value) == "=") is equal


def test_a_tie_is_equal_to_the_number_above():
    assert rounds_to(20.25, "20.3") and not rounds_to(20.25, "20.2")
    assert difference("20.3", 20.25) == "=" and compare(20.25, "20.3") == "reproduced"


def test_names_are_those_of_the_fields():
    assert list(COCO_METRICS) == [field.name for field in fields(Accuracy)][:6]
    assert COCO_METRICS_IN_WORDS.keys() == COCO_METRICS.keys()
    # a search space is square: the width is no knob
    assert [*KNOBS, "width"] == [field.name for field in fields(Arch)]
    assert tuple(KNOB_LABELS) == KNOBS and KNOB_UNITS.keys() <= set(KNOBS)


def test_sizes_are_presets_and_the_wide_ones_have_the_larger_backbone():
    assert SIZE_LETTERS.keys() <= PRESETS.keys()
    assert [NAMES_OF_LETTERS[letter.upper()] for letter in SIZE_LETTERS.values()] == list(
        SIZE_LETTERS
    )
    # Tables 2 and 12: DINOv2-B from XL on
    assert [size for size in SIZE_LETTERS if wide(size)] == ["xlarge", "2xlarge", "max"]
