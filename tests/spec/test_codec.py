"""The decoder of dataclasses: values of the stated types only, also inside containers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rfdetr_repro.spec.codec import decode


@dataclass(frozen=True)
class Row:
    """One field of each kind that stored files have."""

    packages: dict[str, str] | None = None
    names: tuple[str, ...] = ()
    sides: tuple[int, ...] = ()
    share: float | None = None
    count: int = 0


@pytest.mark.parametrize(
    "fields",
    [
        {"packages": {"torch": "2"}},
        {"packages": None},
        {"names": ["a", "b"]},
        {"sides": [1, 2]},
        {"share": 1},
        {"share": None, "count": 3},
    ],
)
def test_right_types_are_taken(fields: dict[str, object]) -> None:
    assert isinstance(decode(Row, fields), Row)


@pytest.mark.parametrize(
    "fields",
    [
        {"packages": "torch"},
        {"packages": {"torch": 2}},
        {"names": "abc"},
        {"names": [1]},
        {"sides": 3},
        {"sides": ["3"]},
        {"sides": [True]},
        {"share": "0.5"},
        {"share": True},
        {"count": 1.5},
        {"count": None},
        {"other": 1},
        [],
    ],
)
def test_wrong_types_are_refused(fields: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        decode(Row, fields)
