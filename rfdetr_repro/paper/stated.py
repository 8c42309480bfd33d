"""The sentences of the paper that state a number, each recomputed from the printed tables.

``data/claims.csv`` names for every sentence the printed cells and the arithmetic. Nothing that is
computed is stored there: :func:`statements` computes it. A cell is written
``TABLE:COLUMN:KEY=VALUE,KEY=VALUE``, which must select one row of the table; a plain number is a
number of the text. A statement that holds in several versions of the paper is recomputed in each.

Printed cells are rounded, so a recomputed number is only known within what the cells' last digits
leave open. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import product as combinations
from math import prod

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import decimals, decimals_of, rounds_to

from .cells import METRIC_LABELS
from .published import TABLES, PublishedTable, published_table

YES = "yes"
WITHIN = "within rounding"
NO = "no"
NOT_RECOMPUTED = "not recomputed"
AGREEMENT = {
    YES: "the number recomputed from the printed cells rounds to the stated number",
    WITHIN: "the recomputed number rounds to another number, but the digits that the printed cells "
    "leave open allow the stated number",
    NO: "no digits that the printed cells leave open allow the stated number",
    NOT_RECOMPUTED: "the numbers behind the sentence are not in the paper's tables",
}
# from best to worst: a statement about several versions gets the worst of their answers
_ORDER = (YES, WITHIN, NO)
_PLAIN = re.compile(r"\d+(\.\d+)?")
_STATED = re.compile(r"([>~]?)(\d+(?:\.\d+)?)")
_ARITHMETIC: dict[str, tuple[int, str, Callable[[Sequence[Decimal]], Decimal]]] = {
    # name -> (number of cells, 0: any; sign between the cells; function)
    "value": (1, "", lambda values: values[0]),
    "difference": (2, " - ", lambda values: values[0] - values[1]),
    "ratio": (2, " / ", lambda values: values[0] / values[1]),
    "product": (0, " x ", lambda values: prod(values, start=Decimal(1))),
}
_CONDITIONS: dict[str, tuple[str, Callable[[Decimal, Decimal], bool]]] = {
    "equal": ("equal to", lambda one, other: one == other),
    "greater": ("greater than", lambda one, other: one > other),
}

Reader = Callable[[str, str], PublishedTable]


@dataclass(frozen=True)
class PrintedNumber:
    """A number as printed, and by how much its rounding may have moved it: half a unit of the last
    digit, 0 for an exact number.
    """

    text: str
    where: str  # "Table 2", or "text"
    half: Decimal

    @property
    def value(self) -> Decimal:
        """The printed number."""
        return Decimal(self.text)

    @property
    def ends(self) -> tuple[Decimal, Decimal]:
        """The smallest and the largest number that are printed so."""
        return self.value - self.half, self.value + self.half


@dataclass(frozen=True)
class Recomputed:
    """The answer of one version of the paper's tables.

    ``low`` and ``high`` bound what the digits of the printed cells leave open.
    """

    version: str
    value: Decimal
    low: Decimal
    high: Decimal
    how: str  # "Table 2: 48.0 - 42.7"
    agrees: str  # YES, WITHIN or NO


@dataclass(frozen=True)
class Statement:
    """A sentence with a number; ``answers`` has one entry per version of the paper that prints the
    sentence, and none where the number cannot be recomputed (``note`` says why).
    """

    claim: str
    stated: str  # "5.3", ">5" (more than 5), "~10000" (about 10000)
    unit: str
    version: str
    note: str
    source: str
    answers: tuple[Recomputed, ...]

    @property
    def agrees(self) -> str:
        """YES, WITHIN or NO, the worst over the versions; NOT_RECOMPUTED without an answer."""
        if not self.answers:
            return NOT_RECOMPUTED
        return max((answer.agrees for answer in self.answers), key=_ORDER.index)

    @property
    def recomputed(self) -> str:
        """The recomputed number, at least to the stated digit; two where the versions differ."""
        digits = decimals_of(self.stated)
        texts = (_shown(answer.value, digits) for answer in self.answers)
        return ", ".join(dict.fromkeys(texts))

    @property
    def how(self) -> str:
        """The printed cells and the arithmetic, by version where the versions differ."""
        hows = dict.fromkeys(answer.how for answer in self.answers)
        if len(hows) <= 1:
            return "".join(hows)
        return "; ".join(f"{answer.version} {answer.how}" for answer in self.answers)


def statements(read: Reader = published_table) -> list[Statement]:
    """Every sentence of ``data/claims.csv``, recomputed.

    Args:
        read: gives a table by name and version, as :func:`published_table` does.

    Raises :class:`InputError` where a row of the file names no cell, several rows of a table, or
    unknown arithmetic.
    """
    table = read("claims", "all")
    found = []
    for row, source in zip(table.rows, table.sources, strict=True):
        version = row["version"]
        try:
            answers = tuple(_answers(row, version.split("+"), read))
        except InputError as error:
            raise error.at(f"claims.csv: {row['claim']}") from error
        found.append(
            Statement(
                row["claim"],
                row["stated_value"],
                row["unit"],
                version,
                row["note"],
                source,
                answers,
            )
        )
    return found


def _answers(row: dict[str, str], versions: Sequence[str], read: Reader) -> Iterator[Recomputed]:
    if not row["operation"]:
        if not row["note"]:
            raise InputError("neither arithmetic nor a reason why there is none")
        return
    for version in versions:
        yield _answer(row, version, read)


def _answer(row: dict[str, str], version: str, read: Reader) -> Recomputed:
    operation = row["operation"]
    if operation not in _ARITHMETIC:
        raise InputError(
            f"unknown arithmetic {operation!r}", hint=f"choose one of {', '.join(_ARITHMETIC)}"
        )
    number, sign, compute = _ARITHMETIC[operation]
    cells = [cell.strip() for cell in row["cells"].split(";")]
    if number and len(cells) != number:
        raise InputError(f"a {operation} of {len(cells)} numbers", hint=f"name {number}")
    numbers = [_number(cell, version, read) for cell in cells]
    value = compute([one.value for one in numbers])
    # each operation is monotonic in each of its positive numbers, so the extremes are at the ends
    extremes = [compute(ends) for ends in combinations(*(one.ends for one in numbers))]
    low, high = min(extremes), max(extremes)
    places = " and ".join(dict.fromkeys(one.where for one in numbers))
    how = f"{places}: {sign.join(one.text for one in numbers)}"
    agrees = _agreement(row["stated_value"], value, low, high)
    if row["condition"]:
        words, holds = _condition(row, version, read)
        how = f"{how}; {words}"
        agrees = agrees if holds else NO
    return Recomputed(version, value, low, high, how, agrees)


def _condition(row: dict[str, str], version: str, read: Reader) -> tuple[str, bool]:
    """What else the sentence says of two cells, in words, and whether the printed numbers say so
    too.
    """
    name = row["condition"]
    cells = [cell.strip() for cell in row["condition_cells"].split(";")]
    if name not in _CONDITIONS or len(cells) != 2:
        raise InputError(
            f"unknown condition {name!r} on {len(cells)} cells",
            hint=f"write one of {', '.join(_CONDITIONS)}, and two cells",
        )
    words, holds = _CONDITIONS[name]
    one, other = (_number(cell, version, read) for cell in cells)
    column = cells[0].split(":")[1]
    met = holds(one.value, other.value)
    label = METRIC_LABELS.get(column, column)
    verb = "is" if met else "is not"
    return f"{label} {one.text} {verb} {words} {other.text}", met


def _number(cell: str, version: str, read: Reader) -> PrintedNumber:
    if _PLAIN.fullmatch(cell):
        return PrintedNumber(cell, "text", Decimal(0))
    parts = cell.split(":")
    if len(parts) != 3:
        raise InputError(f"{cell!r} does not name a cell", hint="write TABLE:COLUMN:KEY=VALUE")
    name, column, selector = parts
    keys = dict(part.partition("=")[::2] for part in selector.split(","))
    table = read(name, version)
    unknown = ({column} | keys.keys()) - set(table.columns)
    if unknown:
        raise InputError(f"{name} has no column {', '.join(sorted(unknown))}", cell)
    rows = [row for row in table.rows if all(row[key] == text for key, text in keys.items())]
    if len(rows) != 1:
        raise InputError(f"{len(rows)} rows of {name} in {version}, where one is meant", cell)
    text = rows[0][column]
    if not _PLAIN.fullmatch(text):
        raise InputError(f"{text!r} is not a printed number", cell)
    # settings such as numbers of values are exact, numbers of tables are rounded
    printed = name in TABLES
    half = Decimal("0.5").scaleb(-decimals_of(text)) if printed else Decimal(0)
    return PrintedNumber(text, f"Table {name}" if printed else name.replace("_", " "), half)


def _agreement(stated: str, value: Decimal, low: Decimal, high: Decimal) -> str:
    match = _STATED.fullmatch(stated)
    if match is None:
        raise InputError(f"{stated!r} is not a stated number", hint="write 5.3, >5 or ~10000")
    kind, text = match.groups()
    printed = Decimal(text)
    if kind == ">":
        if value > printed:
            return YES
        return WITHIN if high > printed else NO
    if kind == "~":  # about: to the first digit
        unit = Decimal(1).scaleb(printed.adjusted())
        same = (value / unit).quantize(Decimal(1), ROUND_HALF_UP) * unit == printed
        return YES if same else NO
    if rounds_to(float(value), text):
        return YES
    half = Decimal("0.5").scaleb(-decimals_of(text))
    return WITHIN if low <= printed + half and printed - half <= high else NO


def _shown(value: Decimal, digits: int) -> str:
    """At least ``digits`` decimals; one more than stated where the number is not a whole number of
    that unit.
    """
    shown = decimals(float(value), digits)
    return shown if Decimal(shown) == value else decimals(float(value), digits + 1)
