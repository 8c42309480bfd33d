"""A table as a DataFrame says what its CSV says."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import decimals
from rfdetr_repro.tables import build_tables, frame
from rfdetr_repro.tables.format import MARKS, render

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(scope="module")
def records():
    return read_stores([RESULTS])


def decimals_in(text: str) -> int:
    return len(text.partition(".")[2])


@pytest.mark.parametrize("name", [*TABLES, "frontier", "sensitivity"])
def test_every_cell_is_that_of_the_csv(name, records):
    pandas = pytest.importorskip("pandas")
    found = frame(name, records)
    lines = []
    for part in render(build_tables(name, records, "csv"), "csv").split("\n\n"):
        lines += list(csv.DictReader(io.StringIO(part)))
    assert len(lines) == len(found)
    for number, line in enumerate(lines):
        for column, text in line.items():
            value = found[column][number]
            plain = text.removeprefix("'")
            if text == "" or text in MARKS:
                assert pandas.isna(value), (column, text)
            elif isinstance(value, str):
                # programs get whole hashes, and knobs by their fields' names
                whole = column == "sha256" and value.startswith(plain)
                assert (
                    value == plain
                    or whole
                    or (column == "knob" and value.replace("_", " ") == plain)
                )
            elif "(" in plain:  # a modelled latency and its error
                assert decimals(value, decimals_in(plain.split()[0])) == plain.split()[0]
            elif plain.strip("≈? ").startswith("+") and column == "gain":
                assert decimals(value, 1, signed=True) == plain.strip("≈? ")
            else:
                shown = plain.split()[0]
                signed = shown.startswith(("+", "-"))
                assert decimals(value, decimals_in(shown), signed=signed) == shown or (
                    value == float(shown)
                ), (column, text, value)


def test_columns_of_numbers_are_numbers_even_where_none_is_known():
    pytest.importorskip("pandas")
    found = frame(2, [])
    for column in ("published_ap", "measured_ap", "measured_latency_ms", "interval_ap_low"):
        assert found[column].dtype == "Float64", column
    assert found["measured_ap"].isna().all()
    assert set(found["state"].dropna()) and found["record"].isna().all()


def test_measured_cells_keep_their_origin(records):
    pytest.importorskip("pandas")
    found = frame("2", records)
    counted = found[found["measured_params_m"].notna()]
    assert len(counted) and counted["record"].notna().all()
    ids = {record.id for record in records}
    assert {text.split(" ")[0] for text in counted["record"]} <= ids


def test_the_ends_of_an_interval_are_numbers(records):
    pytest.importorskip("pandas")
    found = frame("frontier", records)
    known = found["buffered_ci"].notna()
    low = found["buffered_ci_low"][known]
    high = found["buffered_ci_high"][known]
    for text, a, b in zip(found["buffered_ci"][known], low, high, strict=True):
        ends = text.strip("[]").split(", ")
        assert (float(ends[0]), float(ends[1])) == (a, b)
    assert (low <= high).all()


def test_several_tables_are_told_apart(records):
    pytest.importorskip("pandas")
    found = frame("frontier", records)
    titles = [table.title for table in build_tables("frontier", records, "csv")]
    assert list(dict.fromkeys(found["table"])) == titles
    assert found.attrs["notes"]


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="unknown table"):
        frame(99, [])
