"""Prints the paper's tables, published beside measured, and the campaign's own frontier. Needs no torch.

    python -m rfdetr_repro.tables --table 2 [--format text|markdown|csv|latex|json] [--records PATH] [--scoreboard]

Tables are pure functions of the published CSVs and of stored Records; nothing is written back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, run_main
from .paper import TABLES
from .record import Record
from .store import read_stores
from .tables_campaign import campaign_tables
from .tables_format import FORMATS, Table, render
from .tables_paper import paper_table, scoreboard, shown_columns

DEFAULT_RECORDS = Path("results")


def load_records(path: str | Path | None) -> list[Record]:
    """Records of a file, a run folder or a folder of stores; without a path, of ``results/`` if it exists."""
    if path is None:
        return read_stores([DEFAULT_RECORDS]) if DEFAULT_RECORDS.exists() else []
    return read_stores([path])


def build_tables(name: str, records: Sequence[Record], form: str = "text") -> list[Table]:
    """The tables that ``--table name`` prints. An unknown name is an :class:`InputError` that lists what there is."""
    if name not in (*TABLES, "frontier", "all"):
        raise InputError(f"unknown table {name!r}", mend=f"choose one of {', '.join([*TABLES, 'frontier', 'all'])}")
    if name == "frontier":
        tables = campaign_tables(records)
        if not tables:
            raise InputError("no campaign Records to show", mend="run a campaign first, or give its folder with --records")
        return tables
    whole = form in ("csv", "json")
    names = list(TABLES) if name == "all" else [name]
    tables = [table if whole else shown_columns(table) for table in (paper_table(each, records) for each in names)]
    own = [] if form == "csv" and name != "all" else campaign_tables(records)  # one table per CSV file unless all are asked for
    return tables + own


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rfdetr_repro.tables", description="Published numbers beside measured ones.")
    parser.add_argument("--table", default="all", help=f"one of {', '.join([*TABLES, 'frontier', 'all'])}; default all")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument(
        "--records", type=Path, help="a .jsonl file, a run folder, or a folder of them; default results/ if it exists"
    )
    parser.add_argument("--scoreboard", action="store_true", help="the state of every cell instead of its value")
    options = parser.parse_args(argv)
    records = load_records(options.records)
    tables = build_tables(options.table, records, options.format)
    if options.scoreboard:
        if options.table == "frontier":
            raise InputError("the scoreboard is about the paper's tables", "--table frontier", "choose a numbered table or all")
        tables = scoreboard(list(TABLES) if options.table == "all" else [options.table], records)
    sys.stdout.write(render(tables, options.format))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
