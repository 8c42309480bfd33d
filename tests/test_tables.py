"""Tables: what is printed, what joins, and that published, measured, not measured and not measurable never look alike."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
from samples_run import protocol_record, run_records, search_record, write_run

from rfdetr_repro import tables
from rfdetr_repro.config import Arch, Protocol
from rfdetr_repro.errors import InputError, run_main
from rfdetr_repro.paper import TABLES
from rfdetr_repro.record import Accuracy, ArtifactId, Cost, DataId, Latency, Machine, ModelId, Record
from rfdetr_repro.tables_campaign import SYNTHETIC, campaign_tables
from rfdetr_repro.tables_format import (
    FORMATS,
    MEASURED,
    MISSING,
    PUBLISHED,
    UNAVAILABLE,
    Cell,
    Column,
    Table,
    milliseconds,
    render,
)
from rfdetr_repro.tables_paper import AS_PRINTED, Here, paper_table, scoreboard, shown_columns

SHA = "5e" * 32
NOTHING = Here(gpu=False, data=frozenset())
EVERYTHING = Here(gpu=True, data=frozenset({"coco-val2017", "rf100-vl", "rf20-vl"}))


def measured(size: str = "N", ap: float | None = 0.479, ms: float = 2.3456, **changes: object) -> Record:
    accuracy = None if ap is None else Accuracy(ap, 0.67, artifact_sha256=SHA)
    parts: dict = {
        "source": "protocol",
        "model": ModelId("rfdetr", "ours", size=size),
        "data": DataId("coco-val2017", "val"),
        "artifact": ArtifactId(SHA, SHA, "tensorrt", "fp16", 1),
        "accuracy": accuracy,
        "latency": Latency(ms, artifact_sha256=SHA),
        "protocol": Protocol(),
        "machine": Machine("CPU", 8, 16.0, "Linux", gpu="Example GPU"),
    }
    return Record(**{**parts, **changes})


def row_of(table: Table, model: str, size: str, index: int = 0) -> dict[str, Cell]:
    start = next(
        i for i, row in enumerate(table.rows) if "model" in row and (row["model"].text, row["size"].text) == (model, size)
    )
    return table.rows[start + index]


def test_a_measured_value_stands_beside_the_published_one():
    row = row_of(paper_table("2", [measured()], NOTHING), "RF-DETR", "N")
    assert (row["published_ap"].text, row["published_ap"].state) == ("48.0", PUBLISHED)
    assert (row["measured_ap"].text, row["measured_ap"].state, row["measured_ap"].value) == ("47.9", MEASURED, 47.9)
    assert (row["published_ms"].text, row["measured_ms"].text) == ("2.3", "2.35")
    assert row["measured_ap75"].state == MISSING and row["published_ap75"].text == "51.4"
    assert row["state"].text == "measured tensorrt fp16 buffered on Example GPU, file 5e5e5e5e"


def test_several_measurements_of_one_row_are_several_lines():
    other = measured(ms=3.0, artifact=ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 1))
    table = paper_table("2", [measured(), other], NOTHING)
    assert row_of(table, "RF-DETR", "N", 1)["measured_ms"].text == "3.00" and "model" not in row_of(table, "RF-DETR", "N", 1)
    assert len(table.rows) == 19


@pytest.mark.parametrize(
    "stranger",
    [
        measured(data=DataId("embedded", "val")),
        measured(data=DataId("my-folder", "val")),
        measured(model=ModelId("yolov5", "x", size="N")),
        measured(model=ModelId("rfdetr", "x", task="segment", size="N")),
        measured(model=ModelId("rfdetr", "x", size="Q")),
        measured(model=ModelId("rfdetr", "x", size="N", variant="nas+fine-tuning")),
        measured(source="search"),
        measured(source="engine"),
    ],
)
def test_what_does_not_match_does_not_join(stranger):
    table = paper_table("2", [stranger], NOTHING)
    assert not any(cell.state == MEASURED for row in table.rows for cell in row.values())


def test_embedded_records_never_reach_a_coco_row():
    for name in TABLES:
        table = paper_table(name, run_records(), NOTHING)
        assert not any(cell.state == MEASURED for row in table.rows for cell in row.values()), name


def test_not_measured_and_not_measurable_look_different():
    here, nowhere = (shown_columns(paper_table("2", [], where)) for where in (EVERYTHING, NOTHING))
    assert {cell.state for row in here.rows for cell in row.values()} == {"", PUBLISHED, MISSING}
    assert {cell.state for row in nowhere.rows for cell in row.values()} == {"", PUBLISHED, UNAVAILABLE}
    assert row_of(here, "RF-DETR", "N")["state"].text == "not measured"
    assert row_of(nowhere, "RF-DETR", "N")["state"].text == "not measurable here [1][2]"
    assert "[1] no NVIDIA GPU on this machine" in nowhere.notes
    for form in FORMATS:
        assert render([here], form) != render([nowhere], form)
    half = paper_table("2", [], Here(gpu=False, data=frozenset({"coco-val2017"})))
    row = row_of(half, "RF-DETR", "N")
    assert (row["measured_ms"].state, row["measured_ap"].state) == (UNAVAILABLE, MISSING)


def test_what_this_machine_has_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("RFDETR_COCO", str(tmp_path))
    assert "coco-val2017" in Here.detect().data
    monkeypatch.setenv("RFDETR_COCO", str(tmp_path / "absent"))
    assert Here.detect().data == frozenset()
    assert Here.detect([measured()]).data == {"coco-val2017"}


def test_random_weights_give_latency_and_say_so():
    record = measured(ap=None, model=ModelId("rfdetr", "ours", size="N", weights="random"))
    row = row_of(paper_table("2", [record], NOTHING), "RF-DETR", "N")
    assert row["measured_ms"].state == MEASURED and row["measured_ap"].state == MISSING
    assert "random weights" in row["state"].text


def test_table_1_joins_by_precision():
    table = paper_table("1", [measured("M")], NOTHING)
    states = {row["variant"].text: row["measured_ap"].state for row in table.rows if row["model"].text == "RF-DETR"}
    assert states == {"buffered FP32": UNAVAILABLE, "buffered FP16": MEASURED}


def test_differences_are_printed_as_printed():
    row = next(row for row in paper_table("15", [], NOTHING).rows if row["variant"].text == "nas+fine-tuning")
    assert (row["published_ap"].text, row["published_ap"].value) == ("+0.4", None)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", FORMATS)
def test_every_table_prints_in_every_format(name, form):
    text = render(tables.build_tables(name, [], form), form)
    assert text.endswith("\n") and len(text.splitlines()) >= 3
    if form == "json":
        (table,) = json.loads(text)["tables"]
        assert table["table"] == name and len(table["rows"]) >= 2
    if form == "csv":
        rows = list(csv.reader(io.StringIO(text)))
        assert len({len(row) for row in rows}) == 1


def test_text_columns_line_up():
    text = render([shown_columns(paper_table("2", [measured()], NOTHING))], "text")
    bars = {
        tuple(i for i, letter in enumerate(line) if letter == "|")
        for line in text.splitlines()
        if line.startswith(("RF-DETR", "D-FINE"))
    }
    assert len(bars) == 1 and len(next(iter(bars))) == 3


def test_json_and_csv_carry_the_state():
    (table,) = json.loads(render([paper_table("2", [measured()], NOTHING)], "json"))["tables"]
    nano = next(row for row in table["rows"] if (row["model"], row["size"]) == ("RF-DETR", "N"))
    assert nano["published_ap"] == {"value": 48.0, "state": PUBLISHED} and nano["measured_ap"] == {
        "value": 47.9,
        "state": MEASURED,
    }
    rows = list(csv.DictReader(io.StringIO(render([paper_table("2", [], NOTHING)], "csv"))))
    assert rows[0]["measured_ap"] == UNAVAILABLE and rows[0]["published_ap"] == "35.2"


def test_special_letters_survive():
    table = Table("t", "50 % & more", [Column("a", "a_b | c", right=False)], [{"a": Cell("x|y_{1}")}], [""])
    assert "x\\|y_{1}" in render([table], "markdown")
    latex = render([table], "latex")
    assert "50 \\% \\& more" in latex and "x|y\\_\\{1\\}" in latex


def test_the_scoreboard_counts_every_cell():
    summary, grid = scoreboard(["2"], [measured()], EVERYTHING)
    row = summary.rows[0]
    published = sum(
        cell.state == PUBLISHED for r in paper_table("2").rows for key, cell in r.items() if key.startswith("published_")
    )
    assert [row[state].value for state in (PUBLISHED, MEASURED, MISSING, UNAVAILABLE)] == [published, 3, published - 3, 0]
    letters = {r["row"].text: [r[m].text for m in ("ms", "ap", "ap75") if m in r] for r in grid.rows}
    assert letters["RF-DETR N nas"] == ["M", "M", "P"] and letters["GroundingDINO T"] == ["P", "P"]
    everything = scoreboard(list(TABLES), [], NOTHING)
    assert len(everything[0].rows) == len(TABLES) and len(everything) == 1 + len(TABLES) - len(AS_PRINTED)


def test_the_frontier_table_by_hand():
    arch = Arch(128, 16, 1, 2, 25)
    records = [protocol_record(arch), protocol_record(arch, "test"), protocol_record(arch, mode="sustained"), search_record(arch)]
    (table,) = campaign_tables(records)
    (row,) = table.rows
    val, test, sustained = (record for record in records[:3])
    assert row["val_ap"].text == f"{100 * val.accuracy.ap:.1f}" and row["test_ap50"].text == f"{100 * test.accuracy.ap50:.1f}"
    assert row["buffered_ms"].text == f"{val.latency.median_ms:.2f}" and row["sustained_ms"].value == sustained.latency.median_ms
    assert row["buffered_ci"].text == f"[{val.latency.ci_low_ms:.2f}, {val.latency.ci_high_ms:.2f}]"
    assert row["sha256"].text == val.artifact.sha256[:12] and row["front"].text == "yes"
    assert "SYNTHETIC" in table.title and SYNTHETIC in table.notes


def test_the_frontier_table_names_what_was_not_measured_and_what_lost():
    slow = dataclasses.replace(protocol_record(Arch(160, 16, 1, 2, 25)), accuracy=None, mask_accuracy=None)
    fast, worse = protocol_record(Arch(128, 16, 1, 2, 25)), protocol_record(Arch(128, 16, 2, 0, 10))
    worse = dataclasses.replace(worse, latency=dataclasses.replace(worse.latency, median_ms=50.0))
    (table,) = campaign_tables([slow, fast, worse])
    by_arch = {row["arch"].text: row for row in table.rows}
    assert by_arch["r160-p16-w1-d2-q25"]["val_ap"].state == MISSING and by_arch["r160-p16-w1-d2-q25"]["test_ap"].state == MISSING
    assert (by_arch["r128-p16-w1-d2-q25"]["front"].text, by_arch["r128-p16-w2-d0-q10"]["front"].text) == ("yes", "no")


def test_backends_get_their_own_frontier_table():
    cpu = protocol_record(Arch(128, 16, 1, 2, 25))
    other = dataclasses.replace(cpu, artifact=dataclasses.replace(cpu.artifact, runtime="openvino"))
    assert len(campaign_tables([cpu, other])) == 2


def test_an_unconfirmed_search_says_so():
    (table,) = campaign_tables([record for record in run_records() if record.source == "search"])
    assert "NOT CONFIRMED" in table.title and "modelled" in table.title and SYNTHETIC in table.notes


@pytest.mark.parametrize(("value", "text"), [(None, ""), (2.3456, "2.35"), (9.999, "10.00"), (10.04, "10.0"), (123.45, "123.5")])
def test_latency_digits(value, text):
    assert milliseconds(value) == text


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_main(tables.main, ["--table", "2"]) == 0
    out = capsys.readouterr().out
    assert "RF-DETR" in out and "frontier" not in out.lower().split("table 2")[0] and SYNTHETIC not in out
    run = write_run(tmp_path / "run", pictures=False)
    assert run_main(tables.main, ["--table", "2", "--records", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.index("Table 2.") < out.index("SYNTHETIC data: not COCO AP") and SYNTHETIC in out
    write_run(tmp_path / "results", pictures=False)
    assert run_main(tables.main, ["--table", "frontier"]) == 0
    assert "Confirmed frontier" in capsys.readouterr().out
    assert run_main(tables.main, ["--table", "4", "--scoreboard", "--format", "markdown"]) == 0
    assert "| 4 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--table", "99"], "v2_20, frontier, all"),
        (["--table", "frontier"], "no campaign Records"),
        (["--table", "2", "--records", "absent.jsonl"], "no such records"),
        (["--table", "frontier", "--scoreboard", "--records", "run"], "choose a numbered table"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", pictures=False)
    assert run_main(tables.main, arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_an_unknown_format_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        tables.main(["--format", "pdf"])
    assert caught.value.code == 2
    with pytest.raises(InputError):
        tables.build_tables("nope", [])


def test_cost_of_a_published_row_is_printed():
    row = row_of(paper_table("2", [], NOTHING), "RF-DETR", "N")
    assert (row["params"].text, row["gflops"].text) == ("30.5", "31.9")
    assert Cost(params=30_500_000).params == 1e6 * row["params"].value
