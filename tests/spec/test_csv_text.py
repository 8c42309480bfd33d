"""CSV that spreadsheets open: names of other people's files and classes never become formulas,
numbers stay numbers.
"""

from __future__ import annotations

import csv
import io

import pytest

from rfdetr_repro.spec.csv_text import csv_cell, to_csv
from rfdetr_repro.tables.format import Cell, Column, Table, render


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\n=1",
        "＝1",
        "- x",
        "--1",
        "+a",
        "-1 - 1",
    ],
)
def test_formulas_become_text(text: str) -> None:
    assert csv_cell(text) == f"'{text}"
    assert list(csv.reader(io.StringIO(to_csv([[text, 1]]), newline=""))) == [[f"'{text}", "1"]]


@pytest.mark.parametrize(
    "text",
    [
        "-1.5",
        "+0.3",
        "-1e-5",
        "-.5",
        "-12%",
        "-",
        "+",
        "",
        "a=1",
        "rf-detr",
        "3 - 2",
        "·",
        "×",
        "'x",
    ],
)
def test_numbers_and_names_stay(text: str) -> None:
    assert csv_cell(text) == text


def test_other_types_stay() -> None:
    assert csv_cell(-1.5) == -1.5 and csv_cell(None) == "" and csv_cell(-3) == -3


def test_lines_within_a_cell_stay_in_the_cell() -> None:
    for text in ("a\nb", "a\rb", "a\r\nb"):
        assert list(csv.reader(io.StringIO(to_csv([[text, "c"]]), newline=""))) == [["a\nb", "c"]]
    assert csv_cell("\r=1") == "'\n=1"


def test_a_printed_table() -> None:
    """A model, a section and a column that are called like formulas."""
    table = Table("t", "title", [Column("=A1", "=A1"), Column("ms", "ms")])
    table.add({"=A1": Cell("=HYPERLINK(1)"), "ms": Cell("-0.25", value=-0.25)}, section="@here")
    assert render([table], "csv") == ("table,section,'=A1,ms\nt,'@here,'=HYPERLINK(1),-0.25\n")
