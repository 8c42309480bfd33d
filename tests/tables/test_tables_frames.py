"""A table as a DataFrame says what its CSV says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from rfdetr_repro.paper.published import CSV_FOLDER, TABLES
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.tables import build_tables, frame
from rfdetr_repro.tables.format import render
from rfdetr_repro.tables.observations import SOURCES

# counts, and the regressions of the camera-ready's Table 17
NO_UNIT = (
    "windows",
    "decoder_layers",
    "queries",
    "slope",
    "intercept",
    "r_squared",
    "p_value",
    "std_error",
)
RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(scope="module")
def records():
    return read_stores([RESULTS])


@pytest.mark.parametrize("name", [*TABLES, "frontier", "sensitivity", "all"])
def test_pandas_reads_the_csv_as_the_same_frame(name, records):
    """Numbers are numbers in both; pandas' own reader is the oracle."""
    pandas = pytest.importorskip("pandas")
    text = render(build_tables(name, records, "csv"), "csv")
    read = pandas.read_csv(io.StringIO(text))
    made = frame(name, records, long=True)
    assert list(read.columns) == list(made.columns) and len(read) == len(made)
    for column in made.columns:
        known = made[column].notna()
        assert (read[column].notna() == known).all(), column
        kind = made[column].dtype.name
        if kind in ("Float64", "Int64") and known.any():
            assert pandas.api.types.is_numeric_dtype(read[column]), column
            assert (read[column][known] - made[column][known].astype(float)).abs().max() < 1e-9
        elif kind == "boolean":
            assert read[column].dtype == bool
    for column in ("value", "low", "high", "published", "difference"):
        assert column not in read or pandas.api.types.is_numeric_dtype(read[column]), column


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_its_model_and_every_number_its_unit(name, records):
    pytest.importorskip("pandas")
    found = frame(name, records, long=True)
    assert found["model"].notna().all() and found["metric"].notna().all()
    assert found["value"].notna().all()
    assert found["unit"].notna()[~found["metric"].isin(NO_UNIT)].all()
    assert set(found["source"]) <= set(SOURCES)
    wide = frame(name, records)
    assert wide["model"].notna().all()


def test_published_numbers_are_those_of_the_file(records):
    """The CSV of the published table, read by pandas, is the oracle."""
    pandas = pytest.importorskip("pandas")
    printed = pandas.read_csv(CSV_FOLDER / "table02.csv")
    printed = printed[printed["version"] != "v1"]
    found = frame(2, records, long=True)
    paper = found[found["source"] == "paper"]
    names = {"params": "params_m", "gflops": "gflops", "latency": "latency_ms", "ap_s": "ap_s"}
    for metric in ("params", "gflops", "latency", "ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l"):
        column = pandas.to_numeric(printed[names.get(metric, metric)], errors="coerce").dropna()
        assert list(paper[paper["metric"] == metric]["value"]) == list(column), metric


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
    low = found["buffered_ci_low"]
    known = low.notna()
    assert known.any() and (known == found["buffered_ci_high"].notna()).all()
    assert (low[known] <= found["buffered_ms"][known] + 0.05).all()
    assert (found["buffered_ms"][known] <= found["buffered_ci_high"][known] + 0.05).all()


def test_several_tables_are_told_apart(records):
    pytest.importorskip("pandas")
    found = frame("frontier", records)
    assert set(found["table"]) == {"frontier", "fine-tuning"}
    checkpoints = {record.model.checkpoint_sha256 for record in records if record.model.arch}
    front = found[found["table"] == "frontier"]
    trained = set(front["checkpoint"].dropna())  # files with random weights name no checkpoint
    assert len(trained) == 2 and trained <= checkpoints
    assert found.attrs["notes"]


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="unknown table"):
        frame(99, [])
