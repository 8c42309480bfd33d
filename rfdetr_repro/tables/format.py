"""The printed formats of a table: text, markdown, csv, latex, json.

Every format distinguishes published, measured, computed, not measured and not measurable cells: by
the name of the column everywhere, by the state in CSV and JSON, and by bold (measured) and italic
(computed) type in Markdown and LaTeX.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rfdetr_repro.spec.csv_text import to_csv

from .latex import latex_of
from .table import (
    COMPUTED,
    MARKS,
    MEASURED,
    MISSING,
    PUBLISHED,
    UNAVAILABLE,
    Cell,
    Column,
    Table,
    one_line,
    section_starts,
)
from .text import text_of, width_of
from .tidy import split_intervals, tidy

__all__ = [
    "COMPUTED",
    "FORMATS",
    "MARKS",
    "MEASURED",
    "MISSING",
    "PUBLISHED",
    "UNAVAILABLE",
    "Cell",
    "Column",
    "Table",
    "one_line",
    "render",
    "width_of",
]

FORMATS = ("text", "markdown", "csv", "latex", "json")


def render(
    tables: Sequence[Table], form: str, width: int | None = None, colour: bool = False
) -> str:
    """All tables in one of :data:`FORMATS`, ending with a newline.

    Args:
        tables: what is printed. As CSV they are one file: each row stands alone, numbers are
            numbers, and a column that a table lacks is empty in its rows.
        form: one of :data:`FORMATS`.
        width: characters of a line of text; None: no limit.
        colour: whether a text gets the colours of a terminal.
    """
    if form == "json":
        return (
            json.dumps({"tables": [_json(table) for table in tables]}, indent=1, ensure_ascii=False)
            + "\n"
        )
    if form == "csv":
        return _csv([tidy(table) for table in tables])
    if form == "text":
        shown = [table.without_unmeasured_columns().in_lines() for table in tables]
        return "\n".join(text_of(table, width, colour) for table in shown)
    if form == "latex":
        return "\n".join(latex_of(split_intervals(table).in_lines()) for table in tables)
    return "\n".join(_markdown(table.in_lines()) for table in tables)


def _json(table: Table) -> dict[str, Any]:
    whole = tidy(table)
    rows = [
        {column.key: row.get(column.key, Cell()).plain for column in whole.columns}
        for row in whole.rows
    ]
    columns = [
        {"key": column.key, "label": column.label, "group": column.group}
        for column in whole.columns
    ]
    return {
        "table": table.name,
        "title": table.title,
        "columns": columns,
        "rows": rows,
        "notes": table.notes,
    }


def _csv(tables: Sequence[Table]) -> str:
    keys = list(dict.fromkeys(column.key for table in tables for column in table.columns))
    rows: list[list[float | str | None]] = [list(keys)]
    for table in tables:
        rows += [[row.get(key, Cell()).plain for key in keys] for row in table.rows]
    return to_csv(rows)


def _typed(
    table: Table, strong: str, soft: str, escaped: Callable[[str], str]
) -> Iterator[list[str]]:
    """Rows of texts; in a table with published cells, measured cells are in strong and computed
    cells in soft type.
    """
    kinds = {MEASURED: strong, COMPUTED: soft} if table.mixed else {}
    for row in table.rows:
        cells = [row.get(column.key, Cell()) for column in table.columns]
        yield [
            kinds.get(cell.state if cell.text else "", "{}").format(escaped(cell.shown))
            for cell in cells
        ]


def _markdown(table: Table) -> str:
    def escaped(text: str) -> str:
        return _MARKDOWN.sub(r"\\\g<0>", one_line(text))

    head = [
        f"{column.label} ({column.group})" if column.group else column.label
        for column in table.columns
    ]
    lines = [f"### {escaped(table.title)}", "", "| " + " | ".join(map(escaped, head)) + " |"]
    lines.append(
        "|" + "|".join("---:" if column.right else "---" for column in table.columns) + "|"
    )
    for (section, starts), texts in zip(
        section_starts(table), _typed(table, "**{}**", "*{}*", escaped), strict=True
    ):
        if starts:
            lines.append("| *" + escaped(section) + "* |" + " |" * (len(head) - 1))
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *(f"{escaped(note)}  " for note in table.notes), ""])


# Letters that GitHub's Markdown may read as markup, and the bracket of a link.
_MARKDOWN = re.compile(r"[\\|*_`$<&~]|(?<=\])\(")
