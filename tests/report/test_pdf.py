"""The PDF: fonts, wrapping, and tables across pages."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import replace

import pytest
from samples_intervals import three
from samples_run import protocol_record, write_run

from rfdetr_repro.report import pages
from rfdetr_repro.report.blocks import Document, Grid, Picture
from rfdetr_repro.report.build import build_report
from rfdetr_repro.report.pages import WIDTH_PT, Pages, text_width_pt, wrap
from rfdetr_repro.report.pdf import write_pdf
from rfdetr_repro.report.pdf_table import fit, parts
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.tables.campaign import frontier_tables
from rfdetr_repro.tables.format import Cell, Column, Table

ARCH = Arch(128, 16, 1, 2, 25)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def built(run):
    return build_report(run)


def test_fonts_are_embedded_as_truetype_and_no_date_is_stored(built):
    content = built.read_bytes()
    assert b"/Type3" not in content and b"/FontFile2" in content and b"/CreationDate" not in content


def test_every_page_says_that_the_ap_is_synthetic(built, tmp_path):
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    pages = subprocess.run(
        ["pdftotext", "-layout", built, "-"], capture_output=True, text=True, check=True
    ).stdout.split("\f")[:-1]
    assert len(pages) >= 5 and all("it is not COCO AP" in page for page in pages)


def test_wrapped_lines_fit_and_lose_nothing():
    text = "word " * 60 + "x" * 300 + " end of the text"
    lines = wrap(text, WIDTH_PT, 9.2)
    assert all(text_width_pt(line, 9.2) <= WIDTH_PT for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("", 100, 9) == [""]


def test_a_long_word_is_broken_where_it_is_full_and_each_letter_looked_at_a_few_times(monkeypatch):
    word = "".join("iWm.l"[(7 * place * place) % 5] for place in range(20_000))
    first, *lines = wrap(f"a {word} b", 100, 9.0)
    assert first == "a"  # a word begins on a line of its own where it does not fit
    assert "".join(lines).replace(" ", "") == f"{word}b"
    for line, after in itertools.pairwise(lines):
        assert text_width_pt(line, 9.0) <= 100 < text_width_pt(line + after[0], 9.0)
    assert wrap("WWW", 1, 9.0) == ["W", "W", "W"]
    looked = []
    advance = pages._advance
    monkeypatch.setattr(pages, "_advance", lambda *of: looked.append(of) or advance(*of))
    wrap(word, 100, 9.0)
    assert len(looked) < 5 * len(word)


def test_a_table_fits_the_page_or_wraps():
    columns = [Column(str(index), f"column {index}", right=False) for index in range(6)]
    table = Table("t", "t", columns)
    table.add({str(index): Cell("some text " * (40 if index == 3 else 1)) for index in range(6)})
    size, widths = fit(table, WIDTH_PT, text_width_pt)
    assert sum(widths) <= WIDTH_PT + 1e-6 and size >= 5.5


def test_long_tables_repeat_their_head_on_the_next_page(tmp_path):
    table = Table(
        "t",
        "Long",
        [Column("a", "the head", right=False)],
        [{"a": Cell(f"row {n}")} for n in range(200)],
        [""] * 200,
    )
    pages = Pages()
    from rfdetr_repro.report.pdf import _grid

    _grid(pages, Grid(table))
    heads = [
        sum(text.get_text() == "the" or text.get_text() == "the head" for text in figure.texts)
        for figure in pages.figures
    ]
    assert len(heads) > 1 and all(heads)
    lowest = min(text.get_position()[1] for figure in pages.figures for text in figure.texts)
    assert lowest > 50 / (11.69 * 72)


def test_pictures_keep_their_shape(run, tmp_path):
    document = Document("t", "f", [Picture(run / "predictions" / "val_000.png", "caption")])
    assert write_pdf(document, tmp_path / "p.pdf").stat().st_size > 1000


def test_a_table_too_wide_for_the_page_is_cut_between_its_groups():
    (table,) = frontier_tables(three() + [protocol_record(arch, "test") for arch in (ARCH,)])
    wide = [replace(column, label=column.label + " wide") for column in table.columns]
    table.columns = wide
    pieces = parts(table, 420.0, text_width_pt)
    assert len(pieces) > 1
    lead = [column.key for column in wide if not column.group]
    assert all([column.key for column in piece.columns][: len(lead)] == lead for piece in pieces)
    assert [column.key for piece in pieces for column in piece.columns[len(lead) :]] == [
        c.key for c in wide if c.group
    ]
    assert [bool(piece.notes) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert parts(table, 10_000.0, text_width_pt) == [table]
