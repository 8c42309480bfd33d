"""Records as a DataFrame: what a row says is what the stored line says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from samples_records import measured

from rfdetr_repro.paper.published import published_records
from rfdetr_repro.records import frame
from rfdetr_repro.records.record import GpuState, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.tabular import data_frame

RESULTS = Path(__file__).resolve().parents[2] / "results"


def by_path(fields: object, prefix: str = "") -> dict[str, object]:
    """Path -> value of the leaves of a parsed line; lists as JSON."""
    found: dict[str, object] = {}
    if isinstance(fields, dict):
        for key, value in fields.items():
            found |= by_path(value, f"{prefix}.{key}" if prefix else key)
        return found
    return {prefix: json.dumps(fields) if isinstance(fields, list) else fields}


def test_without_pandas_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pandas.*not installed") as caught:
        frame([])
    assert "pip install 'rfdetr-repro[frames]'" in str(caught.value)


def test_importing_records_loads_no_pandas():
    code = "import sys, rfdetr_repro.records.frames, rfdetr_repro.tables.frames; "
    code += "sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_value_of_the_stored_lines_is_in_its_column():
    """The oracle is the JSON of the store, read without this project's decoder."""
    pandas = pytest.importorskip("pandas")
    store = RESULTS / "embedded.jsonl"
    table = frame(store)
    last = {row["id"]: row for row in map(json.loads, store.read_text().splitlines())}
    assert list(table["id"]) == list(last)
    assert set(table["store"]) == {str(store)}
    for number, line in enumerate(last.values()):
        line = dict(line)
        line.pop("digest", None)
        line.pop("schema")
        row = table.iloc[number]
        for path, value in by_path(line).items():
            if path.endswith("resampled.aps"):
                continue
            if path == "latency.builds":  # a list as JSON; the order of its keys says nothing
                assert json.loads(row[path]) == json.loads(value)
                continue
            assert row[path] == value, path
        said = {name for name in table.columns if not pandas.isna(row[name])}
        # a field of later versions has the value that earlier versions implied
        implied = {"id", "store", "unverified", "protocol.quick"}
        assert said - implied <= by_path(line).keys()
    assert table["latency.median_ms"].dtype == "Float64"
    assert table["model.arch.queries"].dtype == "Int64"
    assert table["unverified"].dtype == "boolean"


def test_unknown_is_na_and_zero_is_zero():
    pandas = pytest.importorskip("pandas")
    known = measured(ap=0.0)
    unknown = replace(known, accuracy=None, latency=None)
    table = frame([known, unknown])
    assert table["accuracy.ap"].tolist()[0] == 0.0
    assert pandas.isna(table["accuracy.ap"][1]) and pandas.isna(table["latency.median_ms"][1])
    assert table["store"].isna().all()
    # numbers stay numbers where none is known
    assert frame([unknown])["accuracy.ap"].dtype == "Float64"


def test_columns_do_not_depend_on_the_records():
    pytest.importorskip("pandas")
    bare = Record("search", measured().model)
    fixed = [name for name in frame([bare]).columns if not name.startswith("env.")]
    full = [name for name in frame(RESULTS).columns if not name.startswith("env.")]
    gpu = ("latency.gpu.sm_mhz.", "latency.gpu.throttled_s.", "latency.gpu.throttled_share.")
    keyed = ("adoption.", *gpu)
    assert fixed == [name for name in full if not name.startswith(keyed)]
    assert list(frame([]).columns) == fixed and len(frame([])) == 0


def test_keys_of_dictionaries_are_columns_and_lists_are_json():
    pytest.importorskip("pandas")
    record = measured()
    latency = replace(record.latency, gpu=GpuState(throttled_s={"power": 1.5, "heat": 0.0}))
    record = replace(record, latency=latency, parts=("a", "b"), env={"torch": "2.13"})
    record = replace(record, agreement="difference 0")
    table = frame([record])
    assert table["agreement"].tolist() == ["difference 0"]
    assert table["latency.gpu.throttled_s.power"][0] == 1.5
    assert table["latency.gpu.throttled_s.heat"][0] == 0
    assert table["env.torch"][0] == "2.13"
    assert json.loads(table["parts"][0]) == ["a", "b"]


def test_a_path_is_read_as_a_store_is_and_a_bad_one_refused(tmp_path):
    pytest.importorskip("pandas")
    Store(tmp_path / "records.jsonl").append(measured())
    assert frame(tmp_path)["store"].tolist() == [str(tmp_path / "records.jsonl")]
    assert frame(str(tmp_path))["id"].tolist() == [measured().id]
    with pytest.raises(InputError, match="no such records"):
        frame(tmp_path / "absent")


def test_whole_numbers_beyond_64_bits_become_floats():
    pytest.importorskip("pandas")
    table = data_frame({"count": "Int64"}, [{"count": 10**30}, {}])
    assert table["count"][0] == 1e30 and table["count"].isna()[1]
    table = data_frame({"count": "Int64"}, [{"count": 2.5}, {"count": 2}])
    assert table["count"].tolist() == [2.5, 2.0]


def test_records_paths_and_lists_of_both_are_taken(tmp_path):
    pytest.importorskip("pandas")
    record = measured()
    Store(tmp_path / "a.jsonl").append(record)
    other = measured("S")
    assert frame(record)["id"].tolist() == [record.id]
    table = frame([tmp_path / "a.jsonl", other])
    assert table["id"].tolist() == [record.id, other.id]
    assert table["store"].fillna("").tolist() == [str(tmp_path / "a.jsonl"), ""]
    with pytest.raises(InputError, match="neither a Record nor a path"):
        frame([3])


def test_published_records_are_rows_too():
    pytest.importorskip("pandas")
    published = list(published_records("2"))
    table = frame(published)
    assert table["published.table"].tolist() == ["2"] * len(published)
    assert table["accuracy.ap"].tolist() == [record.accuracy.ap for record in published]
    assert table["published.row"].dtype == "Int64"
