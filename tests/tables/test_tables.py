"""Tables: what is printed, what joins, and that published, measured, not measured and not
measurable never look alike.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re

import pytest
from samples_records import EVERYTHING, NOTHING, SHA, counted, measured
from samples_run import write_run

from rfdetr_repro.paper.cells import cells
from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.record import ArtifactId, Cost, ModelId
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.metrics import milliseconds
from rfdetr_repro.tables import command as tables
from rfdetr_repro.tables.campaign import SYNTHETIC
from rfdetr_repro.tables.format import (
    COMPUTED,
    FORMATS,
    MEASURED,
    MISSING,
    PUBLISHED,
    UNAVAILABLE,
    Cell,
    Column,
    Table,
    render,
    width_of,
)
from rfdetr_repro.tables.join import Measured
from rfdetr_repro.tables.missing import Here
from rfdetr_repro.tables.published import paper_table


def row_of(table: Table, model: str, size: str, index: int = 0) -> dict[str, Cell]:
    start = next(
        i
        for i, row in enumerate(table.rows)
        if "model" in row and (row["model"].text, row["size"].text) == (model, size)
    )
    return table.rows[start + index]


def test_a_measured_value_stands_beside_the_published_one():
    row = row_of(paper_table("2", [measured()], NOTHING), "RF-DETR", "N")
    assert (row["published_ap"].text, row["published_ap"].state) == ("48.0", PUBLISHED)
    assert (row["measured_ap"].text, row["measured_ap"].state, row["measured_ap"].value) == (
        "47.9",
        MEASURED,
        47.9,
    )
    assert (row["published_latency_ms"].text, row["measured_latency_ms"].text) == ("2.3", "2.35")
    assert row["measured_ap75"].state == MISSING and row["published_ap75"].text == "51.4"
    assert row["state"].text == "measured tensorrt fp16 CUDA graph buffered on Tesla T4"
    assert (row["file"].text, row["record"].text) == ("5e5e5e5e5e5e", measured().id)
    assert (row["measured_ap"].artifact, row["measured_ap"].record) == (SHA, measured().id)


def test_several_measurements_of_one_row_are_several_lines():
    other = measured(ms=3.0, artifact=ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 1))
    table = paper_table("2", [measured(), other], NOTHING)
    assert row_of(table, "RF-DETR", "N", 1)[
        "measured_latency_ms"
    ].text == "3.00" and "model" not in row_of(table, "RF-DETR", "N", 1)
    assert len(table.rows) == 19


def test_not_measured_and_not_measurable_look_different():
    here, nowhere = (paper_table("2", [], where) for where in (EVERYTHING, NOTHING))
    # random weights only: an AP is out of reach wherever this runs
    never = row_of(here, "GroundingDINO", "T")
    assert {key for key, cell in never.items() if cell.state == UNAVAILABLE} == {"measured_ap"}
    assert {cell.state for row in here.rows for cell in row.values() if row is not never} == {
        "",
        PUBLISHED,
        COMPUTED,
        MISSING,
    }
    assert {cell.state for row in nowhere.rows for cell in row.values()} == {
        "",
        PUBLISHED,
        COMPUTED,
        MISSING,
        UNAVAILABLE,
    }
    assert row_of(here, "RF-DETR", "N")["state"].text == "not measured"
    whole = row_of(nowhere, "RF-DETR", "N")["state"].text  # parameters need nothing
    assert whole == "not measured; not measurable here [1][2]"
    assert "[1] no NVIDIA GPU on this machine" in nowhere.notes
    assert (
        "[2] no COCO val2017 (RFDETR_COCO), no trained weights (RFDETR_WEIGHTS) on this machine"
        in nowhere.notes
    )
    for form in FORMATS:
        assert render([here], form) != render([nowhere], form)
    half = paper_table("2", [], Here(False, frozenset({"coco-val2017"}), weights=True))
    row = row_of(half, "RF-DETR", "N")
    assert (row["measured_latency_ms"].state, row["measured_ap"].state) == (UNAVAILABLE, MISSING)
    assert row_of(half, "YOLOv8", "N")[
        "measured_gflops"
    ].state == UNAVAILABLE and "no package ultralytics" in " ".join(half.notes)


def test_text_leaves_out_columns_in_which_nothing_was_measured():
    columns = [Column(key, f"column {key}") for key in "abcde"]
    table = Table("t", "title", columns)
    silent = {"a": Cell(state=MISSING), "b": Cell(state=MISSING), "e": Cell(state=UNAVAILABLE)}
    table.add({**silent, "d": Cell("1.0", MEASURED)})
    table.add({**silent, "d": Cell(state=MISSING)})
    shown = table.without_unmeasured_columns()
    assert [column.key for column in shown.columns] == ["a", "d", "e"]
    text = render([table], "text")
    assert "column d" in text and "column e" in text and "column b" not in text
    table.add({"c": Cell("2.0", PUBLISHED)})
    assert table.without_unmeasured_columns() is table


def test_what_this_machine_has_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("RFDETR_COCO", str(tmp_path))
    assert "coco-val2017" in Here.detect().data
    monkeypatch.setenv("RFDETR_COCO", str(tmp_path / "absent"))
    assert Here.detect().data == frozenset()
    assert Here.detect([measured()]).data == {"coco-val2017"}
    assert not Here.detect().weights
    monkeypatch.setenv("RFDETR_WEIGHTS", str(tmp_path))
    assert Here.detect().weights


def test_random_weights_give_latency_and_say_so():
    record = measured(ap=None, model=ModelId("rfdetr", "ours", size="N", weights="random"))
    row = row_of(paper_table("2", [record], NOTHING), "RF-DETR", "N")
    assert row["measured_latency_ms"].state == MEASURED and row["measured_ap"].state == MISSING
    assert "random weights" in row["state"].text


def test_differences_are_printed_as_printed():
    row = next(
        row
        for row in paper_table("15", [], NOTHING).rows
        if row["variant"].text == "nas+fine-tuning"
    )
    assert (row["published_ap"].text, row["published_ap"].value) == ("+0.4", None)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", FORMATS)
def test_every_table_prints_in_every_format(name, form):
    table = paper_table(name, Measured([measured("M")]), NOTHING)
    text = render([table], form)
    published = [column.key for column in table.columns if column.key.startswith("published_")]
    assert published and not {column.key for column in table.columns} & {
        key.removeprefix("published_") for key in published
    }
    assert text.endswith("\n") and len(text.splitlines()) >= 3
    if form == "json":
        (table,) = json.loads(text)["tables"]
        assert table["table"] == name and len(table["rows"]) >= 2
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        numbers = [row[key] for row in rows for key in published if row[key] not in ("", None)]
        assert {row["table"] for row in rows} == {name}
        assert len(numbers) == len(list(cells(name))) and all(
            float(number) == float(number) for number in numbers
        )
    if form == "latex":
        body = text.split("\\midrule", 1)[1].split("\\bottomrule")[0]
        lines = [
            line
            for line in body.splitlines()
            if line.endswith("\\\\") and "multicolumn" not in line
        ]
        assert len(lines) == len(table.rows) and len({line.count(" & ") for line in lines}) == 1
        assert text.count("{") == text.count("}") and text.count("$") % 2 == 0


def test_text_columns_line_up():
    text = render([paper_table("2", [measured()], NOTHING)], "text")
    bars = {
        tuple(i for i, letter in enumerate(line) if letter == "|")
        for line in text.splitlines()
        if line.startswith(("RF-DETR", "D-FINE"))
    }
    assert len(bars) == 1 and len(next(iter(bars))) == 4


def test_measured_and_computed_are_set_in_other_type_than_published():
    table = paper_table("2", [measured()], NOTHING)
    markdown = render([table], "markdown")
    latex = render([table], "latex")
    assert (
        "| 48.0 |" in markdown
        and "| **47.9** |" in markdown
        and "| *31.9* |" in markdown
        and "AP (published)" in markdown
    )
    assert " 48.0 &" in latex and "\\textbf{47.9}" in latex and "\\emph{31.9}" in latex
    assert "**" not in render(
        [Table("t", "t", [Column("a", "a")], [{"a": Cell("1", MEASURED)}], [""])], "markdown"
    )


def test_special_letters_survive():
    table = Table(
        "t", "50 % & more", [Column("a", "a_b | c", right=False)], [{"a": Cell("x|y_{1}")}], [""]
    )
    assert "x\\|y\\_{1}" in render([table], "markdown")
    latex = render([table], "latex")
    assert "50 \\% \\& more" in latex and "x\\textbar{}y\\_\\{1\\}" in latex


ODD_NAMES = [
    "US$ 5 and CA$ 7",
    "a_b_c *d* `e` ~~f~~",
    "<b>bold</b> & &lt; 5 %",
    "[link](http://x) \\frac{1}{2} #1 ^2",
    "犬|猫",
    "😀 x",
    "שלום",
    "two\nlines\ttab\x07",
    "[1, 2]",
    "x" * 300,
    "é ≈ −1",
]


def odd_table(name: str) -> Table:
    rows = [
        {"a": Cell(name), "b": Cell("1.0", MEASURED, 1.0)},
        {"a": Cell("plain"), "b": Cell("22.0", MEASURED, 22.0)},
    ]
    columns = [Column("a", name, name, right=False), Column("b", "b")]
    return Table("t", name, columns, rows, [name, name], [name])


def shown(name: str) -> str:
    """What a reader is to see: the name in one line."""
    return name.replace("\n", " ").replace("\t", " ").replace("\x07", "")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_free_text_in_names_is_text_in_every_format(name):
    table = odd_table(name)
    assert json.loads(render([table], "json"))["tables"][0]["rows"][0]["a"] == name
    assert list(csv.reader(io.StringIO(render([table], "csv"))))[1][2:] == [name, "1.0"]
    lines = render([table], "text").splitlines()
    assert shown(name) in lines[0] and len(lines) == 10
    rows = [line for line in render([table], "latex").splitlines() if line.endswith("\\\\")]
    assert len(rows) == 5 and not any(line.startswith(("[", "*")) for line in rows)
    first = re.split(r"(?<!\\)& ", next(line for line in rows if "1.0" in line))[0]
    plain = re.sub(r"\\text\w+\{\}|\$\\\w+\$|\$[<>-]\$|\\[&%$#_{}]|^\{\}", "", first)
    assert not set(plain) & set("&%$#_{}~^\\<>|")  # what TeX would act upon


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_markdown_reader_shows_the_name_as_written(name):
    """markdown-it-py, a CommonMark parser with GitHub's tables and strikethrough, is the oracle."""
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(render([odd_table(name)], "markdown"))
    cells = [
        token
        for before, token in itertools.pairwise(tokens)
        if before.type in ("td_open", "th_open", "heading_open")
    ]
    texts = [
        "".join(child.content for child in token.children if child.type == "text")
        for token in cells
    ]
    assert {child.type for token in cells for child in token.children} <= {
        "text",
        "em_open",
        "em_close",
    }
    assert texts[0] == shown(name).strip() and any(
        text == shown(name).strip() for text in texts[3:]
    )


def test_wide_letters_line_up():
    lines = render([odd_table("犬と猫")], "text").splitlines()
    places = [width_of(line.partition(" | ")[0]) for line in lines if " | " in line]
    assert len(places) == 3 and len(set(places)) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (2.3456, "2.35"), (9.999, "10.00"), (10.04, "10.0"), (123.45, "123.5")],
)
def test_latency_digits(value, text):
    assert milliseconds(value) == text


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_main(tables.main, ["--table", "2"]) == 0
    out = capsys.readouterr().out
    assert (
        "RF-DETR" in out
        and "frontier" not in out.lower().split("table 2")[0]
        and SYNTHETIC not in out
    )
    run = write_run(tmp_path / "run", pictures=False)
    assert run_main(tables.main, ["--table", "2", "--records", str(run)]) == 0
    assert SYNTHETIC not in capsys.readouterr().out  # the table that was asked for, alone
    assert run_main(tables.main, ["--records", str(run)]) == 0
    out = capsys.readouterr().out
    out = " ".join(out.split())  # a long title is wrapped
    assert out.index("Table 2.") < out.index("SYNTHETIC data: not COCO AP")
    write_run(tmp_path / "results", pictures=False)
    assert run_main(tables.main, ["--table", "frontier"]) == 0
    assert "Confirmed frontier" in capsys.readouterr().out
    assert run_main(tables.main, ["--table", "4", "--scoreboard", "--format", "markdown"]) == 0
    assert "| 4 |" in capsys.readouterr().out
    assert run_main(tables.main, ["--table", "18"]) == 0
    assert "Table 18 of the camera-ready" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--table", "99"], "v2_20, frontier, sensitivity, rivals, parts, rf100, all"),
        (["--table", "frontier", "--records", "costs.jsonl"], "no campaign Records"),
        (["--table", "sensitivity", "--records", "costs.jsonl"], "no campaign Records"),
        (["--table", "sensitivity", "--scoreboard"], "choose a numbered table"),
        (["--table", "2", "--records", "absent.jsonl"], "No such file"),
        (["--table", "frontier", "--scoreboard", "--records", "run"], "choose a numbered table"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", pictures=False)
    Store(tmp_path / "costs.jsonl").extend([counted("rfdetr", "nano", 30_467_000, 31.934)])
    assert run_main(tables.main, arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_an_unknown_format_is_refused(capsys):
    assert run_main(tables.main, ["--format", "pdf"]) == 2
    captured = capsys.readouterr()
    assert (
        captured.out == ""
        and captured.err.count("\n") == 1
        and "invalid choice: 'pdf'" in captured.err
    )
    with pytest.raises(InputError):
        tables.build_tables("nope", [])


def test_cost_of_a_published_row_is_printed():
    row = row_of(paper_table("2", [], NOTHING), "RF-DETR", "N")
    assert (row["published_params_m"].text, row["published_gflops"].text) == ("30.5", "31.9")
    assert Cost(params=30_500_000).params == 1e6 * row["published_params_m"].value


@pytest.mark.parametrize(
    "damage", ["garbage", '{"schema": 99}', '{"schema": 1, "source": 3}', "[]", '{"id": "0"}']
)
@pytest.mark.parametrize("arguments", [["--table", "2"], ["--scoreboard"]])
def test_a_corrupt_store_is_one_line(damage, arguments, tmp_path, capsys):
    path = tmp_path / "records.jsonl"
    path.write_text(measured().to_json() + f"\n{damage}\n")
    assert run_main(tables.main, [*arguments, "--records", str(path)]) == 2
    captured = capsys.readouterr()
    assert f"{path}:2" in captured.err and captured.err.count("\n") == 1 and captured.out == ""
