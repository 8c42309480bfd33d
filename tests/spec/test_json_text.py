"""The encoder of small values: the text of ``json.dumps``, and what it refuses."""

from __future__ import annotations

import json
import math
from json import encoder

import pytest

from rfdetr_repro.spec.json_text import sorted_encoder

VALUES = [
    {"b": [1, 2.5, None, True, False], "a": {"d": {}, "c": []}, "é": '\u2028 \ud83d\ude00 "\\'},
    [0.1, -0.0, 1e-300, 1e300, 5e-324, 123456789012345678901234567890],
    "\x00 text <é>",
    7,
    -2.5e-7,
    None,
    True,
    (1, "two"),
    {},
]


@pytest.fixture(params=[True, False], ids=["in C", "without a program in C"])
def any_python(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(encoder, "c_make_encoder", None)
    elif encoder.c_make_encoder is None:
        pytest.skip("this Python has no encoder in C")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_the_text_is_that_of_json(any_python, separators):
    text_of = sorted_encoder(*separators)
    for value in [*VALUES, VALUES]:
        for _ in range(2):  # the encoder is used again and again
            assert text_of(value) == json.dumps(value, sort_keys=True, separators=separators)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_no_number_is_refused_unless_allowed(any_python, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        sorted_encoder(",", ":")(value)
    allowed = sorted_encoder(",", ":", allow_nan=True)
    assert allowed(value) == json.dumps(value, separators=(",", ":"))


def test_other_values_are_refused(any_python):
    with pytest.raises(TypeError, match="Object of type object is not JSON serializable"):
        sorted_encoder(",", ":")({"a": object()})
