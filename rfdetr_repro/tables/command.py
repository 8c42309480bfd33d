"""Prints the paper's tables with published and measured values, and a campaign's frontier and
sensitivity, without PyTorch.

    python -m rfdetr_repro.tables --table 2 [--format text|markdown|csv|latex|json] \
        [--records PATH] [--with PATH] [--scoreboard]

Tables are pure functions of the published CSVs and of stored Records; nothing is written back.
Tables have the numbers of the paper's version 1; v2_17, v2_19 and v2_20 are tables of the
camera-ready, and 18, 19 and 20 stand for the camera-ready's tables.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records import stored
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.arguments import ArgumentParser, input_path
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.shared_arguments import add_records

from .answer import Answer, answer
from .answer_table import answer_table, for_paper
from .campaign import campaign_tables
from .data_sets import data_sets_tables
from .format import FORMATS, Table, render
from .join import Measured
from .missing import Here
from .observations import observations
from .parts import parts_tables
from .rivals import rivals_tables
from .scoreboard import scoreboard
from .screen import show, shows_colours, width
from .sensitivity import sensitivity_tables

log = logging.getLogger(__name__)

# tables of a campaign rather than of the paper
OWN = {
    "frontier": campaign_tables,
    "sensitivity": sensitivity_tables,
    "rivals": rivals_tables,
    "parts": parts_tables,
    "rf100": data_sets_tables,
}
# why a table of OWN is empty, and what fills it, where that is not a campaign
_NOTHING = {
    "parts": ("no Record holds parts of a latency", "measure them: bench --parts 1080x1920"),
    "rf100": (
        "no Record compares searches on several data sets",
        "run them: rf100 --data DIR --out OUT",
    ),
}
CHOICES = (*TABLES, *OWN, "all")
# camera-ready numbers that version 1 does not have
_ALSO = {"18": "17", "19": "v2_19", "20": "v2_20"}
_FOR_PROGRAMS = ("csv", "json")


def load_records(path: str | Path | None) -> list[Record]:
    """Records of a file, a run folder or a folder of stores; without a path, those that come with
    the package and those of ``results/`` of the current folder.
    """
    return read_stores(stored.default_records() if path is None else [path])


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


def build_tables(
    name: str,
    records: Sequence[Record],
    form: str = "text",
    *,
    own: Iterable[Record] = (),
    wide: bool = False,
    counters: bool = False,
) -> list[Table]:
    """The tables that ``--table name`` prints.

    Args:
        name: what ``--table`` takes.
        records: what was measured.
        form: one of ``FORMATS``. For csv and json a table of the paper is a list of observations.
        own: Records that join the paper's tables as rows of their own.
        wide: also the columns and lines that ``--wide`` adds.
        counters: also a line for each count of operations.

    Raises :class:`InputError`, which lists the known names, for an unknown name, and where no
    Record of ``own`` can join.
    """
    name = table_name(name)
    own = list(own)
    if name in OWN:
        if own:
            raise InputError(
                f"Records join a table of the paper, not {name!r}",
                "--with",
                "give the Records with --records, or choose a numbered table",
            )
        tables = OWN[name](records)
        if not tables:
            usual = (
                "there are no campaign Records to show",
                "run a campaign first, or give its folder with --records",
            )
            what, hint = _NOTHING.get(name, usual)
            raise InputError(what, hint=hint)
        return tables
    measured = Measured(records)
    here = Here.detect(records)
    names = list(TABLES) if name == "all" else [name]
    answers = [answer(each, measured, here, own) for each in names]
    _check_joined(answers, own)
    if form in _FOR_PROGRAMS:
        tables = [observations(found) for found in answers]
    else:
        tables = [answer_table(found, wide=wide, counters=counters) for found in answers]
    if form == "latex":
        tables = [for_paper(table, wide) for table in tables]
    # a campaign's tables have other columns than the paper's
    return tables + (campaign_tables(records) if name == "all" and form != "csv" else [])


def _check_joined(answers: Sequence[Answer], own: Sequence[Record]) -> None:
    """Raises :class:`InputError` where own Records were given and none joined any table."""
    joined = any(row.own is not None for found in answers for row in found.rows)
    if not own or joined:
        return
    where = "a table of the paper"
    if len(answers) == 1:
        where = f"Table {answers[0].table}: {answers[0].refused[0]}"
    raise InputError(
        f"none of the given Records can join {where}",
        "--with",
        "tables --table frontier --records PATH shows Records of any data set",
    )


def build_scoreboard(name: str, records: Sequence[Record], form: str = "text") -> list[Table]:
    """The output of ``--scoreboard`` for one table or for all; the list of every cell is only for
    programs: alone in CSV, with the others in JSON. Raises :class:`InputError` for an unknown name
    and for a table of a campaign.
    """
    name = table_name(name)
    if name in OWN:
        raise InputError(
            "the scoreboard is about the paper's tables",
            f"--table {name}",
            "choose a numbered table or all",
        )
    tables = scoreboard(list(TABLES) if name == "all" else [name], records)
    if form == "csv":
        return tables[-1:]
    if form == "json":
        return tables
    return [table.without_empty_columns() for table in tables[:-1]]


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        prog="rfdetr_repro.tables",
        description=(
            "Says whether a table of the paper holds: for every printed row the published number, "
            "what was measured here with its 95 % interval, the difference, and a state "
            "(reproduced, differs, not measured, cannot be compared), and at the end a verdict by "
            "counts. Also prints the tables of a campaign (frontier, sensitivity, rivals), and "
            "where the time goes from a frame to its detections (parts)."
        ),
        examples=(
            "tables --table 2",
            "tables --table 2 --with results/bench.jsonl",
            "tables --table 2 --format latex",
            "tables --table all --format csv",
            "tables --table frontier --records runs/mine",
            "tables --table parts --records results/bench.jsonl",
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
        help="format of the printed tables: text and markdown to read, latex to paste into a paper "
        "that loads booktabs, csv and json for programs (one number per row, with unit, interval "
        "and origin) (default: text)",
    )
    add_records(arguments, f"{stored.DEFAULT}; of a campaign {stored.DEFAULT_OF_CAMPAIGN}")
    arguments.add_argument(
        "--with",
        dest="own",
        action="append",
        default=[],
        type=input_path,
        metavar="PATH",
        help="Records of your own models, such as those of an ONNX file, that join the paper's "
        "table as rows of their own: a .jsonl file, a run folder, or a folder of such files; may "
        "be repeated. Records of another data set or task are refused, and the notes below the "
        "table say so",
    )
    arguments.add_argument(
        "--scoreboard",
        action="store_true",
        help="print the state of every published cell, such as reproduced or needs data, instead "
        "of its value",
    )
    layout = arguments.add_argument_group(
        "layout of the text",
        "A table that is wider than the terminal loses columns in a fixed order: numbers of which "
        "nothing was measured, reasons, other numbers, intervals, differences. A text that is "
        "longer than the terminal goes to $PAGER. Without a terminal a line has 120 characters, or "
        "COLUMNS, and there is neither a pager nor a colour; NO_COLOR switches colours off.",
    )
    layout.add_argument(
        "--wide",
        action="store_true",
        help="print every column, whatever the width of the terminal, with the file and the Record "
        "of each row, and a line for each further measurement of a row",
    )
    layout.add_argument(
        "--counters",
        action="store_true",
        help="also print a line for each counter of operations (FlopCounterMode, calflops, ...), "
        "which count by different conventions",
    )
    layout.add_argument(
        "--no-pager", action="store_true", help="print to the terminal without a pager"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables that ``argv`` names; returns the exit code."""
    options = parser().parse_args(argv)
    name = table_name(options.table)
    records = _records(name, options)
    own = read_stores(options.own)
    if options.own and options.scoreboard:
        raise InputError(
            "the scoreboard is about the paper's cells, which own rows are not",
            "--with",
            "leave one of --with and --scoreboard out",
        )
    tables = (
        build_scoreboard(name, records, options.format)
        if options.scoreboard
        else build_tables(
            name,
            records,
            options.format,
            own=own,
            wide=options.wide,
            counters=options.counters,
        )
    )
    text = options.format == "text"
    limit = width() if text and not options.wide else None
    shown = render(tables, options.format, limit, colour=text and shows_colours())
    show(shown, paged=text and not options.no_pager)
    return 0


def _records(name: str, options: argparse.Namespace) -> list[Record]:
    """The Records that the arguments name, or the default; says where there are none."""
    if options.records is not None:
        records = read_stores([options.records])
        where = str(options.records)
    else:
        folders = stored.default_campaign() if name in OWN else stored.default_records()
        records = read_stores(folders)
        where = stored.words(folders)
        log.debug(f"Records: {where}")
    if not records:
        log.warning(
            f"no Records were read from {where}: no cell counts as measured; give Records with "
            f"--records PATH"
        )
    return records
