"""A table whose cells have a state, and its five printed formats: text, markdown, csv, latex, json.

A cell is published, measured, computed, not measured, or not measurable here; every format
distinguishes the five states: by the name of its column everywhere, by its state in JSON, and by
bold (measured) and italic (computed) type in Markdown and LaTeX.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from rfdetr_repro.spec.csv_text import to_csv

PUBLISHED = "published"
MEASURED = "measured"
MISSING = "not measured"
UNAVAILABLE = "not measurable here"
COMPUTED = "computed"  # computed from an architecture without a run
MARKS = {MISSING: "·", UNAVAILABLE: "×"}
FORMATS = ("text", "markdown", "csv", "latex", "json")


@dataclass(frozen=True)
class Cell:
    """A cell: the printed text, its state, and the value and the Record behind it."""

    text: str = ""
    state: str = ""
    value: float | str | None = None  # the value in JSON: percent for AP, milliseconds for latency
    record: str = ""  # id of the Record behind a measured cell
    artifact: str = ""  # SHA-256 of the file that was measured

    @property
    def shown(self) -> str:
        """The printed text, or the mark of the cell's state."""
        return one_line(self.text) or MARKS.get(self.state, "")


@dataclass(frozen=True)
class Column:
    """A column: key, printed label, and the group that the column belongs to."""

    key: str
    label: str
    group: str = ""
    right: bool = True  # numbers align right


@dataclass
class Table:
    """``rows`` map column keys to cells; a missing key is an empty cell.

    ``sections`` holds a heading per row ("" for none).
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[dict[str, Cell]] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Cell], section: str = "") -> None:
        """Appends a row below the heading ``section``."""
        self.rows.append(row)
        self.sections.append(section)

    def line(self, row: dict[str, Cell]) -> list[str]:
        """The printed texts of a row, in the order of the columns."""
        return [row.get(column.key, Cell()).shown for column in self.columns]

    @property
    def mixed(self) -> bool:
        """Whether the table has both published cells and others."""
        return any(cell.state == PUBLISHED for row in self.rows for cell in row.values())

    def without_empty_columns(self, keep: Sequence[str] = ()) -> Table:
        """The table without the columns in which every cell is empty."""
        kept = [
            column
            for column in self.columns
            if column.key in keep
            or any(column.key in row and row[column.key].shown for row in self.rows)
        ]
        return Table(self.name, self.title, kept, self.rows, self.sections, self.notes)


def one_line(text: str) -> str:
    """``text`` without line breaks and other control characters, which would break a table."""
    if text.isprintable():
        return text
    return "".join(
        " " if letter.isspace() else letter
        for letter in text
        if letter.isspace() or unicodedata.category(letter) != "Cc"
    )


def width_of(text: str) -> int:
    """Width of a text in terminal columns: two for wide East Asian letters and emoji, none for
    combining marks.
    """
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return (
        len(text)
        + wide
        - sum(unicodedata.category(letter) in ("Mn", "Me", "Cf") for letter in text)
    )


def render(tables: Sequence[Table], form: str) -> str:
    """All tables in one of :data:`FORMATS`, ending with a newline."""
    if form == "json":
        return (
            json.dumps({"tables": [_json(table) for table in tables]}, indent=1, ensure_ascii=False)
            + "\n"
        )
    if form == "csv":
        return "\n".join(map(_csv, tables))
    render_table = {"text": _text, "markdown": _markdown, "latex": _latex}[form]
    return "\n".join(render_table(_in_lines(table)) for table in tables)


def _in_lines(table: Table) -> Table:
    """The table with one-line title, labels and notes; cells handle their own text."""
    columns = [
        Column(column.key, one_line(column.label), one_line(column.group), column.right)
        for column in table.columns
    ]
    sections = [one_line(text) for text in table.sections]
    notes = [one_line(text) for text in table.notes]
    return Table(table.name, one_line(table.title), columns, table.rows, sections, notes)


def _json(table: Table) -> dict[str, Any]:
    rows = []
    for row, section in zip(table.rows, table.sections, strict=True):
        cells: dict[str, Any] = {"section": section} if section else {}
        for column in table.columns:
            cell = row.get(column.key, Cell())
            value = cell.value if cell.value is not None else cell.text or None
            cells[column.key] = (
                {"value": value, "state": cell.state, **_origin(cell)} if cell.state else value
            )
        rows.append(cells)
    columns = [
        {"key": column.key, "label": column.label, "group": column.group}
        for column in table.columns
    ]
    return {
        "table": table.name,
        "title": table.title,
        "columns": columns,
        "rows": rows,
        "notes": table.notes,
    }


def _origin(cell: Cell) -> dict[str, str]:
    named = {"record": cell.record, "artifact_sha256": cell.artifact}
    return {name: text for name, text in named.items() if text}


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


def _csv(table: Table) -> str:
    sections = any(table.sections)
    rows = [(["section"] if sections else []) + [column.key for column in table.columns]]
    for row, section in zip(table.rows, table.sections, strict=True):
        cells = [row.get(column.key, Cell()) for column in table.columns]
        texts = [cell.text or (cell.state if cell.state in MARKS else "") for cell in cells]
        rows.append(([section] if sections else []) + texts)
    return to_csv(rows)


def _group_spans(columns: Sequence[Column]) -> list[tuple[str, list[int]]]:
    """Groups of neighbouring columns: (group, indices of the columns)."""
    return [
        (group, [index for index, _ in run])
        for group, run in groupby(enumerate(columns), key=lambda item: item[1].group)
    ]


def _text(table: Table) -> str:
    head = [column.label for column in table.columns]
    body = [table.line(row) for row in table.rows]
    widths = [max(width_of(line[index]) for line in [head, *body]) for index in range(len(head))]
    spans = _group_spans(table.columns)
    for group, indices in spans:  # a group name wider than its columns widens the last column
        widths[indices[-1]] += max(
            0, len(group) - sum(widths[index] for index in indices) - 2 * (len(indices) - 1)
        )

    def joined(texts: Sequence[str]) -> str:
        cells = [
            " " * (width - width_of(text)) + text
            if column.right
            else text + " " * (width - width_of(text))
            for text, width, column in zip(texts, widths, table.columns, strict=True)
        ]
        return " | ".join(
            "  ".join(cells[index] for index in indices) for _, indices in spans
        ).rstrip()

    rule = "-+-".join(
        "-" * (sum(widths[i] for i in indices) + 2 * (len(indices) - 1)) for _, indices in spans
    )
    lines = [table.title, ""]
    if any(group for group, _ in spans):
        lines.append(
            " | ".join(
                group.center(len(part))
                for (group, _), part in zip(spans, rule.split("-+-"), strict=True)
            ).rstrip()
        )
    lines += [joined(head), rule]
    for (section, starts), texts in zip(_section_starts(table), body, strict=True):
        lines += [f"[{section}]"] if starts else []
        lines.append(joined(texts))
    return "\n".join([*lines, rule, *table.notes, ""])


def _section_starts(table: Table) -> Iterator[tuple[str, bool]]:
    before = ""
    for section in table.sections:
        yield section, bool(section) and section != before
        before = section


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
        _section_starts(table), _typed(table, "**{}**", "*{}*", escaped), strict=True
    ):
        if starts:
            lines.append("| *" + escaped(section) + "* |" + " |" * (len(head) - 1))
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *(f"{escaped(note)}  " for note in table.notes), ""])


def _latex(table: Table) -> str:
    width = len(table.columns)
    spans = _group_spans(table.columns)
    alignment = "".join("r" if column.right else "l" for column in table.columns)
    groups = " & ".join(
        f"\\multicolumn{{{len(indices)}}}{{c}}{{{_tex(group)}}}" for group, indices in spans
    )
    lines = [
        f"% {table.title}",
        "\\begin{table}",
        f"\\caption{{{_tex(table.title)}}}",
        f"\\begin{{tabular}}{{{alignment}}}",
        "\\toprule",
    ]
    lines += [f"{groups} \\\\"] if any(group for group, _ in spans) else []
    lines += [_tex_row([_tex(column.label) for column in table.columns]), "\\midrule"]
    typed = _typed(table, "\\textbf{{{}}}", "\\emph{{{}}}", _tex)
    for (section, starts), texts in zip(_section_starts(table), typed, strict=True):
        if starts:
            lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{_tex(section)}}}}} \\\\")
        lines.append(_tex_row(texts))
    lines += [
        "\\bottomrule",
        "\\end{tabular}",
        *(f"\\par {_tex(note)}" for note in table.notes),
        "\\end{table}",
        "",
    ]
    return "\n".join(lines)


def _tex_row(cells: Sequence[str]) -> str:
    """Cells as a LaTeX row; a first cell such as "[1]" is guarded, so that LaTeX does not read it
    as an option of the row before.
    """
    guard = "{}" if cells and cells[0][:1] in ("[", "*") else ""
    return f"{guard}{' & '.join(cells)} \\\\"


# Letters that GitHub's Markdown may read as markup, and the bracket of a link.
_MARKDOWN = re.compile(r"[\\|*_`$<&~]|(?<=\])\(")

_TEX = {
    "\\": "\\textbackslash{}",
    "·": "$\\cdot$",
    "×": "$\\times$",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "−": "$-$",
    "Δ": "$\\Delta$",
    "±": "$\\pm$",
    "<": "$<$",
    ">": "$>$",
    "|": "\\textbar{}",
    "≈": "$\\approx$",
    "→": "$\\rightarrow$",
}
_TEX.update({mark: f"\\{mark}" for mark in "&%$#_{}"})


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in one_line(text))
