"""The document of the whole paper: nothing of the paper is missing, every number says its source,
and nothing leaves the page.
"""

from __future__ import annotations

import csv
import html
import re

import pytest
from pypdf import PdfReader
from samples_records import measured
from samples_run import write_run

from rfdetr_repro.claims.verdicts import judged
from rfdetr_repro.paper.published import CSV_FOLDER, TABLES
from rfdetr_repro.paper.stated import statements
from rfdetr_repro.records.store import Store
from rfdetr_repro.report import command
from rfdetr_repro.report.blocks import Explorer, Grid, Heading
from rfdetr_repro.report.build import build_paper
from rfdetr_repro.report.pages import BOTTOM, MARGIN
from rfdetr_repro.report.paper import FIGURE_TITLES, OTHERS, SETTINGS, paper_document
from rfdetr_repro.report.run import Run
from rfdetr_repro.spec.errors import run_main

WIDTH = 595.28
MEASURED = [measured("N", 0.479, 2.4), measured("S", 0.53, 3.6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """paper.pdf and paper.html of two measured Records."""
    folder = tmp_path_factory.mktemp("paper")
    Store(folder / "mine.jsonl").extend(MEASURED)
    build_paper(folder / "paper.pdf", records=folder / "mine.jsonl")
    return folder


@pytest.fixture(scope="module")
def pdf(folder):
    return PdfReader(folder / "paper.pdf")


@pytest.fixture(scope="module")
def texts(pdf):
    """The text of each page."""
    return [page.extract_text() for page in pdf.pages]


@pytest.fixture(scope="module")
def page(folder):
    """The words of the HTML page, without its programs, pictures and Records."""
    text = (folder / "paper.html").read_text(encoding="utf-8")
    text = re.sub(r"(?s)<(script|style)\b.*?</\1>", "", text)
    text = re.sub(r'src="data:[^"]*"', "", text)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def plain(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_every_table_and_figure_is_a_section_of_both_documents(pdf, page):
    named = [item.title for item in pdf.outline if not isinstance(item, list)]
    for number in FIGURE_TITLES:
        assert sum(name.startswith(f"Figure {number}. ") for name in named) == 1
    numbers = [name.removeprefix("v2_") for name in TABLES]
    assert len(TABLES) == 20
    for number in numbers:
        assert any(re.match(rf"Table {number}[ .]", name) for name in named), number
    assert {title for title, _ in OTHERS.values()} <= set(named)
    claims = {"Claims of the text", "Claims of cause and effect"}
    assert {"Scoreboard", *claims, "Method", "Sources"} <= set(named)
    for name in named:
        assert name in page


def test_the_contents_link_to_the_page_of_each_section(pdf, texts):
    destinations = {item.title: item for item in pdf.outline if not isinstance(item, list)}
    links = [link for page in pdf.pages[:2] for link in page.get("/Annots") or []]
    assert len(links) >= 2 * len(destinations)  # a name and a number each
    first = plain("".join(texts[:2]))
    for title, item in destinations.items():
        number = pdf.get_destination_page_number(item) + 1
        assert plain(title)[:40] in first
        assert plain(title)[:30] in plain(texts[number - 1])


def test_every_claim_has_its_verdict_on_the_page(page):
    for one in judged(MEASURED):
        assert " ".join(one.claim.sentence.split()) in page
        for finding in one.findings:
            what = finding.comparison.what
            assert f"{finding.comparison.id} {what[:1].upper()}{what[1:]}" in page
        assert one.word in page
    assert "nothing about COCO" in page


def test_every_recomputed_sentence_is_on_the_page(page):
    for one in statements():
        for text in (one.claim, one.stated, one.recomputed, one.agrees, one.how, one.note):
            assert " ".join(text.split()) in page


@pytest.mark.parametrize("name", [*OTHERS, *SETTINGS])
def test_every_cell_of_the_other_files_is_on_the_page(name, page):
    with (CSV_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    for row in rows:
        for column, text in row.items():
            assert column in ("version", "source") or " ".join(text.split()) in page


@pytest.mark.parametrize("name", TABLES)
def test_every_printed_number_of_a_table_is_in_the_pdf(name, texts):
    """The oracle is the file itself, read by the csv module."""
    stem = f"table{int(name):02d}" if name.isdigit() else name.replace("_", "_table")
    with (CSV_FOLDER / f"{stem}.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if "v2" in row.get("version", "v2")]
    found = set(re.findall(r"[0-9.]+", "\n".join(texts)))
    printed = {
        row[column]
        for row in rows
        for column in ("ap", "ap50", "latency_ms", "gflops")
        if re.fullmatch(r"[0-9.]+", row.get(column) or "")
    }
    assert not printed - found


def test_measured_numbers_name_their_record_and_rows_their_source(texts, page):
    for record in MEASURED:
        assert record.id in page
    text = "\n".join(texts)
    listed = text[text.rindex("Sources") :]
    cited = " ".join(re.findall(r"Entered from ((?:\[\d+\]\s?)+)", text))
    marks = set(re.findall(r"\[\d+\]", cited))
    assert len(marks) >= 15 and all(mark in listed for mark in marks)
    with (CSV_FOLDER / "table02.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            assert plain(row["source"]) in plain(listed)


def test_no_text_leaves_the_margins(pdf):
    for number, page in enumerate(pdf.pages, 1):
        outside = []

        def visit(text, page, line, font, size, outside=outside):
            x = page[0] * line[4] + page[2] * line[5] + page[4]
            y = page[1] * line[4] + page[3] * line[5] + page[5]
            if text.strip() and not (MARGIN - 3 <= x <= WIDTH - MARGIN + 3 and y >= BOTTOM - 40):
                outside.append((text, x, y))

        page.extract_text(visitor_text=visit)
        assert not outside, (number, outside[:3])


def test_without_records_nothing_is_called_measured():
    document = paper_document(Run(CSV_FOLDER), pictures=False)
    explorers = [block for block in document.blocks if isinstance(block, Explorer)]
    assert [block.published_first for block in explorers] == [True]
    assert len(explorers) == 1 and all(record.published for record in explorers[0].records)
    headings = [block.text for block in document.blocks if isinstance(block, Heading)]
    assert "Measured and searched here" not in headings and "Machines" in headings
    states = {
        row["state"].text
        for block in document.blocks
        if isinstance(block, Grid)
        for row in block.table.rows
        if "state" in row
    }
    assert states and not any("reproduced" in state or "differs" in state for state in states)


def test_a_run_gives_its_pictures_to_figure_6(tmp_path):
    run = write_run(tmp_path / "run")
    drawings = [
        block.alt
        for block in paper_document(Run(run)).blocks
        if getattr(block, "alt", "").startswith("Figure 6")
    ]
    assert drawings == ["Figure 6: Predictions"]


def test_the_command_refuses_what_it_cannot_write(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_main(command.main, ["--paper", "--out", "paper.txt"]) == 2
    assert run_main(command.main, ["--paper", "--records", "absent"]) == 2
    assert capsys.readouterr().err.count("\n") == 2 and not list(tmp_path.iterdir())
