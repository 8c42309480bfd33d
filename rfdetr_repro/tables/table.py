"""A table whose cells have a state: published, measured, computed, not measured, or not measurable
here.

Every printed format tells the states apart (:mod:`.format`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from rfdetr_repro.spec.metrics import percent, percent_value

PUBLISHED = "published"
MEASURED = "measured"
MISSING = "not measured"
UNAVAILABLE = "not measurable here"
COMPUTED = "computed"  # computed from an architecture without a run
MARKS = {MISSING: "·", UNAVAILABLE: "×"}
# tones of a cell, which a terminal shows as colours
GOOD = "good"
BAD = "bad"
OPEN = "open"
OWN = "own"


@dataclass(frozen=True)
class Cell:
    """A cell: the printed text, its state, and the value and the Record behind it."""

    text: str = ""
    state: str = ""
    value: float | str | None = None  # the value in JSON: percent for AP, milliseconds for latency
    record: str = ""  # id of the Record behind a measured cell
    artifact: str = ""  # SHA-256 of the file that was measured
    low: float | None = None  # ends of the 95 % interval, in the unit of the value
    high: float | None = None
    tone: str = ""  # GOOD, BAD, OPEN, OWN or none

    @property
    def shown(self) -> str:
        """The printed text, or the mark of the cell's state."""
        return one_line(self.text) or MARKS.get(self.state, "")

    @property
    def plain(self) -> float | str | None:
        """What a program reads: the value, else the text; None for an empty cell."""
        return self.value if self.value is not None else self.text or None


def percent_cell(fraction: float | None, absent: Cell) -> Cell:
    """A cell with a fraction in percent; ``absent`` for None."""
    if fraction is None:
        return absent
    return Cell(percent(fraction), MEASURED, percent_value(fraction))


@dataclass(frozen=True)
class Column:
    """A column: key, printed label, and the group that the column belongs to."""

    key: str
    label: str
    group: str = ""
    right: bool = True  # numbers align right
    # in a terminal that is too narrow the columns of the highest rank are left out first; rank 0
    # always stays
    rank: int = 0
    wraps: bool = False  # long texts are wrapped before columns are left out


@dataclass
class Table:
    """``rows`` map column keys to cells; a missing key is an empty cell.

    ``sections`` holds a heading per row ("" for none). ``facts`` holds what each row says in
    formats in which it stands alone, such as the data set; a cell of the same key goes before.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[dict[str, Cell]] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

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
        return replace(self, columns=kept)

    def without_unmeasured_columns(self) -> Table:
        """The table without the columns, but for the first, in which every cell is empty or not
        measured. A table with published cells keeps them: there, a missing measurement is what the
        column tells.
        """
        if self.mixed:
            return self
        kept = [
            column
            for index, column in enumerate(self.columns)
            if not index or any(_says(row.get(column.key, Cell())) for row in self.rows)
        ]
        return replace(self, columns=kept)

    def in_lines(self) -> Table:
        """The table with title, labels, sections and notes in one line each; cells handle their own
        text.
        """
        columns = [
            replace(column, label=one_line(column.label), group=one_line(column.group))
            for column in self.columns
        ]
        return replace(
            self,
            title=one_line(self.title),
            columns=columns,
            sections=[one_line(text) for text in self.sections],
            notes=[one_line(text) for text in self.notes],
        )


def _says(cell: Cell) -> bool:
    return bool(cell.text) or cell.state == UNAVAILABLE


def one_line(text: str) -> str:
    """``text`` without line breaks and other control characters, which would break a table."""
    if text.isprintable():
        return text
    return "".join(
        " " if letter.isspace() else letter
        for letter in text
        if letter.isspace() or unicodedata.category(letter) != "Cc"
    )


def section_starts(table: Table) -> Iterator[tuple[str, bool]]:
    """The section of each row, and whether the section begins there."""
    before = ""
    for section in table.sections:
        yield section, bool(section) and section != before
        before = section
