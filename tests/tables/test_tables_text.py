"""Text that fits a terminal: nothing is broken or glued at any width, what is left out is named,
and colours and the pager are for terminals only.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from samples_records import NOTHING, counted, measured
from test_tables_own import mine

from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.tables.answer import answer
from rfdetr_repro.tables.answer_table import answer_table
from rfdetr_repro.tables.command import build_scoreboard, build_tables
from rfdetr_repro.tables.format import Cell, Column, Table, render
from rfdetr_repro.tables.text import NARROWEST, width_of, wrapped
from rfdetr_repro.tables.text import _fitting as fitting

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = (20, 80, 120)
RECORDS = [measured(), measured("M", 0.5, sha="ab" * 32), counted("dfine", "S", 10_200_000, 25.2)]


def bars(line: str) -> tuple[int, ...]:
    """Terminal columns of the vertical bars."""
    return tuple(width_of(line[: found.start()]) for found in re.finditer(r" [|] ", line))


def check(text: str, width: int) -> None:
    """No line is longer than the terminal, and the bars of a table stand below one another."""
    for line in text.splitlines():
        assert width_of(line) <= max(width, NARROWEST), line
    for block in text.split("\n\n"):
        rules = [line for line in block.splitlines() if set(line) <= set("-+") and "-" in line]
        if len(rules) == 2:
            crossings = tuple(i - 1 for i, letter in enumerate(rules[0]) if letter == "+")
            first, last = (i for i, line in enumerate(block.splitlines()) if line in rules)
            body = block.splitlines()[first + 1 : last]
            assert body and rules[0] == rules[1]
            for line in body:
                assert line.startswith("[") or set(bars(line)) <= set(crossings), line


def test_a_note_has_a_number_only_where_a_shown_cell_cites_it() -> None:
    columns = [Column("model", "Model"), Column("why", "why", right=False, rank=1)]
    table = Table("t", "Title", columns)
    table.add({"model": Cell("m" * 50), "why": Cell("[1][2] " + "w" * 40)})
    table.notes = ["[1] 3 numbers: no GPU", "[2] 1 number: no weights", "[4, 5] is an interval"]
    assert render([table], "text", 120).endswith("\n".join([*table.notes, ""]))
    narrow = render([table], "text", 60)
    assert "\n3 numbers: no GPU\n1 number: no weights\n[4, 5] is an interval\n" in narrow


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_every_table_fits_at_every_width(name, width):
    found = answer(name, RECORDS, NOTHING, [mine()])
    check(render([answer_table(found)], "text", width), width)
    check(render([answer_table(found, wide=True, counters=True)], "text", width), width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["frontier", "sensitivity", "scoreboard"])
def test_a_campaigns_tables_fit_too(name, width):
    records = read_stores([ROOT / "results"])
    tables = (
        build_scoreboard("all", records) if name == "scoreboard" else build_tables(name, records)
    )
    check(render(tables, "text", width), width)


def test_columns_are_left_out_in_the_stated_order():
    records = [*RECORDS, counted("rfdetr", "nano", 30_467_000, 31.934)]
    table = answer_table(answer("2", records, NOTHING))
    before = [column.key for column in table.columns]
    for width in range(240, 59, -5):
        kept, dropped = fitting(table, width)
        keys = [column.key for column in kept]
        assert [key for key in before if key in keys] == keys  # none comes back
        ranks = [column.rank for column in dropped]
        assert ranks == sorted(ranks, reverse=True)
        text = render([table], "text", width)
        assert ("Left out at" in text) == bool(dropped)
        before = keys
    assert before == ["model", "published_ap", "measured_ap", "state"]
    assert "Model" in text and "state" in text and "AP" in text
    assert "Left out" not in render([table], "text")


def test_a_column_of_words_is_wrapped_inside_the_column():
    table = Table("t", "t", [Column("a", "a", right=False), Column("b", "b", right=False)])
    table.add({"a": Cell("one two three four five seven"), "b": Cell("x" * 90)})
    lines = render([table], "text", 60).splitlines()
    check("\n".join(lines), 60)
    assert sum(line.count("x") for line in lines) == 90


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a b c", 3, ["a b", "c"]),
        ("abcdef", 4, ["abcd", "ef"]),
        ("犬犬犬", 4, ["犬犬", "犬"]),
        ("", 5, [""]),
        ("a  b", 9, ["a  b"]),
    ],
)
def test_wrapping(text, width, lines):
    assert wrapped(text, width) == lines


def at_a_terminal(*arguments: str, size: tuple[int, int] = (24, 80), **environment: str) -> str:
    """What the command writes to a terminal of this size (rows, columns)."""
    import fcntl
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    kept = {key: value for key, value in kept.items() if key not in ("NO_COLOR", "PAGER", "LESS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rfdetr_repro.tables", *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        cwd=ROOT,
        env={**kept, "TERM": "xterm", **environment},
    )
    os.close(child)
    found = b""
    while True:
        ready, _, _ = select.select([parent], [], [], 60)
        if not ready:
            process.kill()
            raise AssertionError("the command waits for a key")
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        found += piece
    os.close(parent)
    assert process.wait(60) == 0
    return found.decode().replace("\r\n", "\n")


def test_colours_on_a_terminal_only():
    coloured = at_a_terminal("--table", "9", "--no-pager")
    assert "\x1b[2m" in coloured or "\x1b[32m" in coloured
    plain = re.sub(r"\x1b\[\d*m", "", coloured)
    check(plain, 80)
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in at_a_terminal("--table", "9", "--no-pager", **environment)
    done = subprocess.run(
        [sys.executable, "-m", "rfdetr_repro.tables", "--table", "9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TERM": "xterm", "PAGER": "false"},
    )
    assert "\x1b" not in done.stdout and "Does Table 9 hold?" in done.stdout
    assert render([Table("t", "t", [Column("a", "a")])], "text", 80, colour=True).count("\x1b") == 0


def test_the_pager_is_for_long_texts_on_a_terminal(tmp_path):
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho PAGED\ncat\n")
    pager.chmod(0o755)
    long = at_a_terminal("--table", "2", PAGER=str(pager))
    assert long.startswith("PAGED") and "Does Table 2 hold?" in long
    assert "PAGED" not in at_a_terminal("--table", "2", "--no-pager", PAGER=str(pager))
    assert "PAGED" not in at_a_terminal("--table", "2", PAGER=str(pager), size=(400, 80))
    for other in ("", "cat", "/no/such/pager", "it's"):
        assert "Does Table 2 hold?" in at_a_terminal("--table", "2", PAGER=other)


def test_a_pager_that_is_left_early_is_no_error():
    assert at_a_terminal("--table", "all", PAGER="head -n 3").count("\n") <= 4


def test_a_file_gets_neither(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rfdetr_repro.tables", "--table", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80", "PAGER": "false"},
    )
    check(done.stdout, 80)
    assert "Left out at 80 columns" in done.stdout.replace("\n", " ")
