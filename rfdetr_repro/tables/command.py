"""Prints the paper's tables with published and measured values, and a campaign's frontier and
sensitivity, without PyTorch.

    python -m rfdetr_repro.tables --table 2 [--format text|markdown|csv|latex|json] \
        [--records PATH] [--scoreboard]

Tables are pure functions of the published CSVs and of stored Records; nothing is written back.
Tables have the numbers of the paper's version 1; v2_17, v2_19 and v2_20 are tables of the
camera-ready, and 18, 19 and 20 stand for the camera-ready's tables.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.arguments import ArgumentParser, add_records
from rfdetr_repro.spec.errors import InputError

from .campaign import campaign_tables
from .format import FORMATS, Table, render
from .join import Measured
from .missing import Here
from .published import paper_table, shown_columns
from .scoreboard import scoreboard
from .sensitivity import sensitivity_tables

log = logging.getLogger(__name__)

DEFAULT_RECORDS = Path("results")
# tables of a campaign rather than of the paper
OWN = {"frontier": campaign_tables, "sensitivity": sensitivity_tables}
CHOICES = (*TABLES, *OWN, "all")
# camera-ready numbers that version 1 does not have
_ALSO = {"18": "17", "19": "v2_19", "20": "v2_20"}


def load_records(path: str | Path | None) -> list[Record]:
    """Records of a file, a run folder or a folder of stores; without a path, of ``results/`` if it
    exists.
    """
    if path is None:
        return read_stores([DEFAULT_RECORDS]) if DEFAULT_RECORDS.exists() else []
    return read_stores([path])


def table_name(text: str) -> str:
    """The key of :data:`CHOICES` for a user's text: "v2 20", "20" and "v2_20" are the same; "17" is
    version 1's table, "v2_17" the camera-ready's.
    """
    name = text.strip().lower().replace(" ", "_").replace("-", "_").removeprefix("table_")
    if name.startswith("v1_") and name.removeprefix("v1_") in TABLES:
        return name.removeprefix("v1_")
    if name.startswith("v2_") and name not in TABLES:
        plain = name.removeprefix("v2_")
        name = _ALSO.get(plain, plain if plain != "17" else name)
    name = _ALSO.get(name, name)
    if name not in CHOICES:
        raise InputError(f"unknown table {text!r}", hint=f"choose one of {', '.join(CHOICES)}")
    return name


def build_tables(name: str, records: Sequence[Record], form: str = "text") -> list[Table]:
    """The tables that ``--table name`` prints.

    Raises :class:`InputError`, which lists the known names, for an unknown name.
    """
    name = table_name(name)
    if name in OWN:
        tables = OWN[name](records)
        if not tables:
            raise InputError(
                "there are no campaign Records to show",
                hint="run a campaign first, or give its folder with --records",
            )
        return tables
    whole = form in ("csv", "json")
    names = list(TABLES) if name == "all" else [name]
    measured = Measured(records)
    here = Here.detect(records)
    tables = [
        table if whole else shown_columns(table)
        for table in (paper_table(each, measured, here) for each in names)
    ]
    # one table per CSV file unless all are asked for
    own = [] if form == "csv" and name != "all" else campaign_tables(records)
    return tables + own


def build_scoreboard(name: str, records: Sequence[Record], form: str = "text") -> list[Table]:
    """The output of ``--scoreboard`` for one table or for all; the list of every cell is only in
    CSV and JSON, for programs.
    """
    name = table_name(name)
    if name in OWN:
        raise InputError(
            "the scoreboard is about the paper's tables",
            f"--table {name}",
            "choose a numbered table or all",
        )
    tables = scoreboard(list(TABLES) if name == "all" else [name], records)
    return (
        tables
        if form in ("csv", "json")
        else [table.without_empty_columns() for table in tables[:-1]]
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        prog="rfdetr_repro.tables",
        description=(
            "Prints tables of the paper with published and measured values, and "
            "tables of a campaign."
        ),
        examples=(
            "tables --table 2",
            "tables --table 2 --format markdown --records runs/mine",
            "tables --scoreboard",
        ),
    )
    arguments.add_argument(
        "--table", default="all", help=f"table to print, one of {', '.join(CHOICES)} (default: all)"
    )
    arguments.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="format of the printed tables (default: text)",
    )
    add_records(arguments, "results/ if it exists")
    arguments.add_argument(
        "--scoreboard",
        action="store_true",
        help="print the state of every published cell, such as reproduced or needs data, instead "
        "of its value",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables that ``argv`` names; returns the exit code."""
    options = parser().parse_args(argv)
    name = table_name(options.table)
    records = load_records(options.records)
    tables = (
        build_scoreboard(name, records, options.format)
        if options.scoreboard
        else build_tables(name, records, options.format)
    )
    if not records:
        where = options.records or f"{DEFAULT_RECORDS}/ of this folder"
        log.warning(
            f"no Records were read from {where}: no cell counts as measured; give Records with "
            f"--records PATH"
        )
    sys.stdout.write(render(tables, options.format))
    return 0
