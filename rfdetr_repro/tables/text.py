"""A table as text for a terminal: columns that do not fit are left out in a stated order, long
texts are wrapped inside their column, and states are coloured where the terminal shows colours.

The order: each :class:`~.table.Column` has a ``rank``. While the table is wider than the terminal,
the columns of the highest rank are left out; columns of rank 0 always stay. What was left out is
named below the table.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby

from .table import BAD, GOOD, OPEN, OWN, Cell, Column, Table, section_starts

NARROWEST = 60  # a narrower terminal gets lines of this width
LONGEST_IN_ONE_LINE = 24  # name of a group of columns that is not wrapped
READABLE_COLUMN = 36  # to which a column of words is wrapped before a column is left out
NARROWEST_COLUMN = 12  # the same where nothing more can be left out
_COLOURS = {GOOD: "32", BAD: "31", OPEN: "2", OWN: "36"}
_ENDED = "\x1b[0m"


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


def text_of(table: Table, width: int | None = None, colour: bool = False) -> str:
    """The table as lines, the last one empty.

    Args:
        table: title, labels and notes in one line each.
        width: characters of the longest line, at least :data:`NARROWEST`; None: no limit, every
            column.
        colour: whether cells with a tone get ANSI colours.
    """
    if width is not None:
        width = max(width, NARROWEST)
    columns, dropped = _fitting(table, width)
    layout = _Layout(table, columns, width)
    lines = [*wrapped(table.title, width), "", *layout.head()]
    for (section, starts), row in zip(section_starts(table), table.rows, strict=True):
        if starts:
            lines += wrapped(f"[{section}]", width)
        lines += layout.lines(row, colour)
    lines.append(layout.rule)
    for note in _left_out(dropped, columns, width) + _notes(table, columns):
        lines += wrapped(note, width, hanging="  ")
    return "\n".join([*lines, ""])


def _notes(table: Table, columns: Sequence[Column]) -> list[str]:
    """The notes; one that begins with a number such as [3], which no shown cell refers to, is
    without this number.
    """
    cells = [row[column.key].text for row in table.rows for column in columns if column.key in row]
    cited = set(re.findall(r"\[\d+\]", " ".join(cells)))
    parts = [re.match(r"(\[\d+\]) (.*)", note, re.DOTALL) for note in table.notes]
    return [
        part[2] if part is not None and part[1] not in cited else note
        for note, part in zip(table.notes, parts, strict=True)
    ]


def wrapped(text: str, width: int | None, hanging: str = "") -> list[str]:
    """Lines of at most ``width`` columns; a word that is longer is cut. Lines after the first begin
    with ``hanging``.
    """
    if width is None or width_of(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        for piece in _pieces(word, width - len(hanging)):
            joined = f"{lines[-1]} {piece}" if lines[-1].strip() else lines[-1] + piece
            if width_of(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(hanging + piece)
    return lines


def _pieces(word: str, width: int) -> Iterator[str]:
    """A word that is wider than ``width``, cut; any other word as it is."""
    piece = ""
    for letter in word:
        if width_of(piece + letter) > width:
            yield piece
            piece = ""
        piece += letter
    yield piece


class _Layout:
    """Widths of the columns, and the lines that they give."""

    def __init__(self, table: Table, columns: Sequence[Column], width: int | None) -> None:
        self.columns = columns
        self.spans = group_spans(columns)
        self.widths = _natural(table, columns)
        if width is not None and _total(self.widths, self.spans) > width:
            self.widths = _natural(table, columns, whole_labels=False)
            self._narrow(width)
        self.rule = "-+-".join("-" * self._span_width(span) for _, span in self.spans)

    def _span_width(self, span: Sequence[int]) -> int:
        return sum(self.widths[index] for index in span) + 2 * (len(span) - 1)

    def _narrow(self, width: int) -> None:
        """Takes from the widest columns of words what is too much."""
        while (over := _total(self.widths, self.spans) - width) > 0:
            words = [
                index
                for index, column in enumerate(self.columns)
                if not column.right and self.widths[index] > NARROWEST_COLUMN
            ]
            if not words:
                return
            widest = max(words, key=lambda index: self.widths[index])
            second = max(
                (self.widths[index] for index in words if index != widest),
                default=NARROWEST_COLUMN,
            )
            floor = max(NARROWEST_COLUMN, min(second, self.widths[widest] - 1))
            self.widths[widest] = max(floor, self.widths[widest] - over)

    def head(self) -> list[str]:
        """The names of the groups, the labels and the rule."""
        lines = []
        if any(group for group, _ in self.spans):
            names = [wrapped(group, self._span_width(span)) for group, span in self.spans]
            for parts in _from_below(names):
                texts = [
                    _padded(text, self._span_width(span), False)
                    if not self.columns[span[0]].right
                    else _centred(text, self._span_width(span))
                    for text, (_, span) in zip(parts, self.spans, strict=True)
                ]
                lines.append(" | ".join(texts).rstrip())
        labels = [
            wrapped(column.label, width)
            for column, width in zip(self.columns, self.widths, strict=True)
        ]
        for parts in _from_below(labels):
            lines += self._joined([[text] for text in parts])
        return [*lines, self.rule]

    def lines(self, row: dict[str, Cell], colour: bool) -> list[str]:
        """The lines of a row: more than one where a text was wrapped."""
        cells = [row.get(column.key, Cell()) for column in self.columns]
        parts = [
            wrapped(cell.shown, None if column.right else width)
            for cell, column, width in zip(cells, self.columns, self.widths, strict=True)
        ]
        tones = [cell.tone if colour else "" for cell in cells]
        return self._joined(parts, tones)

    def _joined(self, parts: Sequence[Sequence[str]], tones: Sequence[str] = ()) -> list[str]:
        found = []
        for number in range(max(map(len, parts))):
            texts = [part[number] if number < len(part) else "" for part in parts]
            cells = [
                _coloured(_padded(text, width, column.right), tones[index] if tones else "")
                for index, (text, width, column) in enumerate(
                    zip(texts, self.widths, self.columns, strict=True)
                )
            ]
            line = " | ".join("  ".join(cells[index] for index in span) for _, span in self.spans)
            found.append(re.sub(r" +((\x1b\[0m)?)$", r"\1", line))
        return found


def _from_below(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Lines of wrapped texts side by side, the last line of each in the last line."""
    height = max(map(len, columns))
    filled = [[""] * (height - len(column)) + list(column) for column in columns]
    return [list(parts) for parts in zip(*filled, strict=True)]


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def _centred(text: str, width: int) -> str:
    space = max(0, width - width_of(text))
    return " " * (space // 2) + text + " " * (space - space // 2)


def _coloured(text: str, tone: str) -> str:
    if tone not in _COLOURS or not text.strip():
        return text
    return f"\x1b[{_COLOURS[tone]}m{text}{_ENDED}"


def group_spans(columns: Sequence[Column]) -> list[tuple[str, list[int]]]:
    """Groups of neighbouring columns: (group, indices of the columns)."""
    return [
        (group, [index for index, _ in run])
        for group, run in groupby(enumerate(columns), key=lambda item: item[1].group)
    ]


def _natural(table: Table, columns: Sequence[Column], whole_labels: bool = True) -> list[int]:
    """Widths that hold every cell in one line, and the labels too, or else their longest words."""
    widths = [
        max(
            width_of(column.label) if whole_labels else _longest_word(column.label),
            *(width_of(row[column.key].shown) for row in table.rows if column.key in row),
            0,
        )
        for column in columns
    ]
    for group, span in group_spans(columns):  # a group's name may be wider than its columns
        own = sum(widths[index] for index in span) + 2 * (len(span) - 1)
        wanted = width_of(group)
        if not whole_labels or wanted > LONGEST_IN_ONE_LINE:
            wanted = _longest_word(group)
        widths[span[-1]] += max(0, wanted - own)
    return widths


def _longest_word(text: str) -> int:
    return max(map(width_of, text.split()), default=0)


def _total(widths: Sequence[int], spans: Sequence[tuple[str, Sequence[int]]]) -> int:
    return sum(widths) + sum(2 * (len(span) - 1) for _, span in spans) + 3 * (len(spans) - 1)


def _narrowed(table: Table, columns: Sequence[Column], last: bool) -> int:
    """Width of the table with wrapped labels and long texts; ``last``: with every column of words
    as narrow as can be.
    """
    widths = [
        min(width, NARROWEST_COLUMN)
        if last and not column.right
        else min(width, READABLE_COLUMN)
        if column.wraps
        else width
        for width, column in zip(_natural(table, columns, whole_labels=False), columns, strict=True)
    ]
    return _total(widths, group_spans(columns))


def _fitting(table: Table, width: int | None) -> tuple[list[Column], list[Column]]:
    """The columns that fit, and those that are left out, first left out first.

    Where the columns of rank 0 do not fit, the last of them are left out too, except the first.
    """
    kept = list(table.columns)
    dropped: list[Column] = []
    while width is not None and len(kept) > 1 and _narrowed(table, kept, last=False) > width:
        last = max(column.rank for column in kept)
        if not last and _narrowed(table, kept, last=True) <= width:
            break
        numbers = [column for column in kept[1:] if column.right] or kept[1:]
        gone = [column for column in kept if column.rank == last] if last else numbers[-1:]
        dropped += gone
        kept = [column for column in kept if column not in gone]
    return kept, dropped


def _left_out(dropped: Sequence[Column], kept: Sequence[Column], width: int | None) -> list[str]:
    """One line that names what was left out; a group of which nothing is left by its name alone."""
    if not dropped:
        return []
    groups: dict[str, list[str]] = {}
    for column in dropped:
        groups.setdefault(column.group, []).append(column.label)
    there = {column.group for column in kept}
    names = []
    for group, labels in groups.items():
        if not group:
            names += labels
        elif group in there:
            names += [f"{label} of {group}" for label in labels]
        else:
            names.append(group)
    return [f"Left out at {width} columns: {', '.join(names)}. --wide shows every column."]
