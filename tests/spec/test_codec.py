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
        {"share": 10**400},
        {"count": 1.5},
        {"count": None},
        {"other": 1},
        [],
    ],
)
def test_wrong_types_are_refused(fields: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        decode(Row, fields)


@dataclass(frozen=True)
class Outer:
    """A row inside a row."""

    name: str
    row: Row | None = None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a", "row": {"sides": ["3"]}}, r"Outer\.row\.sides = '3' is not int"),
        ({"name": "a", "row": {"share": True}}, r"Outer\.row\.share = True is not float"),
        (
            {"name": "a", "row": {"shrae": 1}},
            r"unknown fields \['shrae'\] of Outer\.row; did you mean share\?",
        ),
        ({"name": "a", "zzz": 1}, r"unknown fields \['zzz'\] of Outer$"),
        ({"row": {}}, r"Outer\.name is missing"),
        ({"name": "a", "row": 3}, r"Outer\.row must be an object"),
        ([], "Outer must be an object"),
    ],
)
def test_messages_name_the_field_by_its_path(fields: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        decode(Outer, fields)


def test_whole_numbers_are_taken_for_floats_and_become_floats() -> None:
    found = decode(Row, {"share": 1})
    assert type(found.share) is float
