"""Report: the same content as PDF and HTML, equal bytes for an equal run, and absent parts listed
as absent.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone

import pytest
from samples_report import everything
from samples_run import run_records, sha, summary, write_run

from rfdetr_repro.records.pareto import confirmed_points
from rfdetr_repro.records.record import FINE_TUNING, NEVER_TRAINED
from rfdetr_repro.records.store import Store
from rfdetr_repro.report.blocks import Drawing, Grid, Heading
from rfdetr_repro.report.build import build_report, newest_run
from rfdetr_repro.report.command import main
from rfdetr_repro.report.content import date_of, duration, report
from rfdetr_repro.report.findings import MOST_ROWS, limited, published_changes
from rfdetr_repro.report.html import write_html
from rfdetr_repro.report.pdf import write_pdf
from rfdetr_repro.report.run import read_run
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.tables.campaign import SYNTHETIC
from rfdetr_repro.tables.format import Cell, Column, Table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def built(run):
    return build_report(run)


def test_pdf_and_html_lie_beside_each_other(run, built):
    assert built == run / "report.pdf" and built.read_bytes().startswith(b"%PDF")
    page = (run / "report.html").read_text()
    # Pareto, training, knobs, sensitivity, one prediction
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in re.sub(r'base64,[^"]+|http-equiv', "", page)
    assert page.count(SYNTHETIC) >= 2


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    for name in ("first", "second"):
        document = report(read_run(run))
        document.blocks = [block for block in document.blocks if not isinstance(block, Drawing)]
        write_pdf(document, tmp_path / f"{name}.pdf")
        write_html(document, tmp_path / f"{name}.html")
    for suffix in ("pdf", "html"):
        assert (tmp_path / f"first.{suffix}").read_bytes() == (
            tmp_path / f"second.{suffix}"
        ).read_bytes()


BUILDS = """
import sys, threading
from pathlib import Path
from rfdetr_repro.records.store import Store
from rfdetr_repro.report import aside, blocks, build
from rfdetr_repro.spec import side_by_side

forks = sys.argv[1] == "forks"
aside.can_fork = side_by_side.can_fork = lambda: forks and threading.active_count() == 1
draws = []

def drawing(points):
    def draw(figure):
        draws.append(points)
        figure.subplots().plot(range(points))
    return blocks.Drawing(draw, 2.0, f"{points} points")

found = [drawing(blocks.MOST_POINTS + 1), drawing(9)]  # one is set as a picture, one as vectors
explorer = blocks.Explorer(Store(sys.argv[2]).read(), static=drawing(5))
document = blocks.Document("t", "f", [blocks.Title("t"), *found, explorer])
with aside.made_aside([found[0]]):  # before the others, as a report's front is
    build._written(document, Path(sys.argv[3]))
print(draws)
"""


def test_two_processes_build_the_report_that_one_builds(tmp_path):
    """In programs of their own: the process of the tests has threads and must not fork."""
    if sys.platform != "linux":
        pytest.skip("only Linux forks")
    Store(tmp_path / "records.jsonl").extend(run_records()[:5])
    drawn = {}
    for kind in ("forks", "alone"):
        paths = [tmp_path / "records.jsonl", tmp_path / f"{kind}.pdf"]
        command = [sys.executable, "-c", BUILDS, kind, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        drawn[kind] = done.stdout.strip()
    assert drawn == {"forks": "[]", "alone": "[4001, 9, 5]"}  # by the first process
    for suffix in ("pdf", "html"):
        written = [(tmp_path / f"{kind}.{suffix}").read_bytes() for kind in ("forks", "alone")]
        assert written[0] == written[1]


def test_the_headline_is_the_best_on_val(run):
    best = max(confirmed_points(run_records()), key=lambda point: point.val.accuracy.ap)
    text = everything(report(read_run(run)))
    assert f"highest AP on val: {best.arch.key}" in text
    for split, accuracy in (("val", best.val.accuracy), ("test", best.test.accuracy)):
        numbers = f"{100 * accuracy.ap50:.1f} / {100 * accuracy.ap:.1f}"
        assert f"{split} AP50 / AP: {numbers} (synthetic), interval unknown" in text
    assert f"{best.val.latency.median_ms:.2f} ms [" in text


def test_the_report_holds_what_the_run_says(run):
    text = everything(report(read_run(run)))
    for wanted in [
        *summary()["departures"],
        *summary()["checks"],
        "11 min 30 s",
        "b" * 64,
        "median relative error",
        "model: vit dim 192, hidden 128",
        "speed-up by sharing: 9.2 x",
        "torch: 2.13.0",
    ]:
        assert str(wanted) in text, wanted
    assert (
        "Table 2. COCO detection" in text
        and "Does Table 2 hold?" in text
        and "not measured" in text
        and text.endswith(
            "--data DIR --out RUN/evaluation.']"
        )  # the end of what is not in this run
    )
    assert "State of the 1,523 published cells" in text
    assert all(point.sha256 in text for point in confirmed_points(run_records()))


def test_an_empty_run_invents_nothing(tmp_path):
    document = report(read_run(tmp_path))
    text = everything(document)
    headings = [block.text for block in document.blocks if isinstance(block, Heading)]
    assert headings == ["Not in this run"]
    assert document.footer == "This run holds no measured accuracy."
    assert not re.search(r"AP50 / AP: \d", text)


@pytest.mark.parametrize("records", ["", None, "given"])
def test_nothing_to_report_is_one_line_and_exit_code_2(records, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    arguments = ["--run", str(run)]
    if records == "given":
        (tmp_path / "given.jsonl").write_text("")
        arguments += ["--records", str(tmp_path / "given.jsonl")]
    elif records is not None:
        (run / "records.jsonl").write_text(records)
    assert run_main(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is nothing to report on") and error.count("\n") == 1
    assert not list(run.glob("report.*"))


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("records.jsonl", "Records of a search or of measured files"),
        ("summary.json", "The training recipe"),
        ("train_log.jsonl", "A training log"),
        ("predictions", "Example predictions"),
        ("predictions.json", None),
    ],
)
def test_any_part_may_be_missing(missing, told, tmp_path):
    run = write_run(tmp_path / "run")
    (shutil.rmtree if (run / missing).is_dir() else lambda path: path.unlink())(run / missing)
    *_, heading, last = report(read_run(run)).blocks
    assert heading == Heading("Not in this run")
    assert told is None or f"{told}." in last.items


def test_long_tables_are_cut_and_say_so(run):
    found = read_run(run)
    columns = [Column("front", "front"), Column("name", "name")]
    table = Table("frontier", "t", columns)
    for number in range(10 * MOST_ROWS):
        front = "yes" if number % 50 == 0 else "no"
        table.add({"front": Cell(front), "name": Cell(str(number))})
    short = limited(table, found)
    assert [row["name"].text for row in short.rows] == [str(50 * n) for n in range(20)]
    assert "20 of 1,000 rows are shown: those on the front." in short.notes[0]
    assert f"--table frontier --records {found.records_path}" in short.notes[0]
    for row in table.rows:
        row["front"] = Cell("")
    short = limited(table, found)
    assert len(short.rows) == len(short.sections) == MOST_ROWS
    assert "100 of 1,000 rows are shown: the first." in short.notes[0]
    assert limited(short, found) is short


def test_the_date_is_that_of_the_run_or_of_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert date_of(read_run(run)) == datetime(2025, 1, 2, 3, 26, 41, tzinfo=timezone.utc)
    assert date_of(read_run(tmp_path)) is None
    (tmp_path / "records.jsonl").write_bytes((run / "records.jsonl").read_bytes())
    assert date_of(read_run(tmp_path)) == datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert date_of(read_run(run)) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        date_of(read_run(run))


@pytest.mark.parametrize(
    "broken",
    [
        {"stages": "none"},
        {"stages": [1, {"name": "train"}]},
        {"data": [1]},
        {"data": {"splits": ["val"]}},
        {"recipe": 3},
        {"departures": "x"},
        {"checks": {"a": 1}},
        {"env": ["torch"]},
        {"machine": "here"},
        {"search": {"one_by_one": 3}},
        {"search": {"latency_model": ["a"]}},
    ],
)
def test_a_broken_part_of_the_summary_is_not_reported_as_absent(broken, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match="summary.json.*campaign"):
        read_run(tmp_path)


def test_parts_of_the_summary_may_be_absent_or_null(tmp_path):
    names = ("stages", "data", "recipe", "departures", "search", "checks", "env", "machine")
    for content in (
        {},
        dict.fromkeys(names),
        {"data": {"splits": {"val": None}}, "search": {"one_by_one": None}},
    ):
        (tmp_path / "summary.json").write_text(json.dumps(content))
        assert report(read_run(tmp_path)).blocks


@pytest.mark.parametrize(
    "broken", ["{}", '"x"', "[1]", '[{"caption": "no file"}]', '[{"file": 3}]']
)
def test_broken_captions_are_not_missing_ones(broken, tmp_path):
    (tmp_path / "predictions.json").write_text(broken)
    with pytest.raises(InputError, match="predictions.json"):
        read_run(tmp_path)


def test_a_stage_without_a_time_is_not_counted_as_none(tmp_path):
    (tmp_path / "summary.json").write_text(
        json.dumps({"stages": [{"name": "train", "seconds": 60.0}, {"name": "search"}]})
    )
    grids = [block.table for block in report(read_run(tmp_path)).blocks if isinstance(block, Grid)]
    (stages,) = (table for table in grids if table.name == "stages")
    words = [row["name"].text for row in stages.rows]
    assert words[-1].startswith("1 of 2 stages")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("summary.json", "{", "not JSON"),
        ("summary.json", "[]", "not a JSON object"),
        ("records.jsonl", "garbage\n", "not a store of Records"),
        ("train_log.jsonl", "garbage\n", "train_log.jsonl:1"),
    ],
)
def test_a_broken_file_is_one_line_and_exit_code_2(file, content, says, tmp_path, capsys):
    (tmp_path / file).write_text(content)
    assert run_main(main, ["--run", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not list(tmp_path.glob("report.*"))


def test_wrong_paths_are_refused(tmp_path):
    with pytest.raises(InputError, match="the run folder does not exist"):
        build_report(tmp_path / "absent")
    with pytest.raises(InputError, match=r"file name that ends in \.pdf"):
        build_report(tmp_path, tmp_path / "report.txt")
    with pytest.raises(InputError, match="no run to report on"):
        newest_run(tmp_path)


def test_other_records_can_be_given(run, tmp_path):
    text = everything(report(read_run(tmp_path, run / "records.jsonl")))
    assert "highest AP on val" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41.2, "41 s"), (690, "11 min 30 s"), (7500, "2 h 05 min"), (59.7, "60 s")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def tuned(record, variant, ap):
    """The record as fine-tuning leaves it: of its own campaign, from another file."""
    name = sha(variant + record.model.arch.key)
    parts = {
        part: dataclasses.replace(getattr(record, part), artifact_sha256=name)
        for part in ("mask_accuracy", "latency")
    }
    return dataclasses.replace(
        record,
        model=dataclasses.replace(record.model, variant=variant),
        campaign=FINE_TUNING,
        accuracy=dataclasses.replace(record.accuracy, ap=ap, artifact_sha256=name),
        artifact=dataclasses.replace(record.artifact, sha256=name, onnx_sha256=name),
        **parts,
    )


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.002, "lie within that range"), (0.2, "do not all lie within")]
)
def test_what_came_after_the_search_is_told_and_is_no_part_of_the_frontier(run, gain, verdict):
    found = read_run(run)
    plain = everything(report(found))
    points = len(found.points)
    assert "python -m rfdetr_repro.finetune" in plain and "python -m rfdetr_repro.family" in plain
    start = next(record for record in found.records if record.source == "protocol")
    trained = next(
        record
        for record in found.records
        if record.source == "search" and record.model.arch.patch == 16
    )
    arch = dataclasses.replace(
        trained.model.arch, patch=14, resolution=trained.model.arch.resolution * 14 // 16
    )
    model = dataclasses.replace(trained.model, variant=NEVER_TRAINED, arch=arch)
    accuracy = dataclasses.replace(trained.accuracy, ap=trained.accuracy.ap - 0.031)
    found.records += [tuned(start, "nas", 0.1), tuned(start, "nas+fine-tuning", 0.1 + gain)]
    found.records.append(dataclasses.replace(trained, model=model, accuracy=accuracy, latency=None))
    words = everything(report(found))
    assert verdict in words and f"+{100 * gain:.1f}" in words and "at most 3.1 AP" in words
    assert "python -m rfdetr_repro.finetune" not in words and len(found.points) == points


def test_published_changes_are_those_of_the_tables():
    low, high = published_changes()
    assert -1 < low <= 0 < high < 5
