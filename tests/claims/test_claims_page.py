"""The tables of docs/claims.md are those of ``rfdetr-repro claims --format markdown``."""

from __future__ import annotations

from pathlib import Path

from rfdetr_repro.claims.table import findings_table, summary_table
from rfdetr_repro.claims.verdicts import judged
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.tables.format import render

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "claims.md"
SECTION = "## What the Records of the package say"


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_the_page_has_the_tables_of_the_command() -> None:
    found = judged(read_stores(sorted((ROOT / "results").glob("*.jsonl"))))
    wanted = rows_of(render([summary_table(found), findings_table(found)], "markdown"))
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition(SECTION)[2].partition("\n**How to read")[0]
    stated = rows_of(section)
    assert len(wanted) > 60
    assert stated == wanted, "copy the tables that rfdetr-repro claims --format markdown prints"
