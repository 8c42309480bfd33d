"""COCO's metrics by name, and the only functions that round and write numbers of each kind.

A number is rounded half up on its decimal digits, as by hand: 47.25 becomes 47.3. Printed numbers
and numbers that are compared with printed numbers are rounded in the same way, so that numbers that
look equal are equal. No torch here.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

# fields of an Accuracy -> headings of the paper's tables
COCO_METRICS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_s": "APs",
    "ap_m": "APm",
    "ap_l": "APl",
}
# the same in words, for wide tables
COCO_METRICS_IN_WORDS = COCO_METRICS | {
    "ap_s": "AP small",
    "ap_m": "AP medium",
    "ap_l": "AP large",
}
_NOISE = 12  # decimals: further digits of a difference of two floats are rounding noise
_WHOLE_FLOAT = Context(prec=350)


def decimals(value: float, digits: int, *, signed: bool = False) -> str:
    """``value`` with ``digits`` decimals, rounded half up; ``signed`` adds a plus sign to positive
    numbers.

    A negative number that rounds to zero has no minus sign. NaN and infinity are written as Python
    writes them.
    """
    if not math.isfinite(value):
        return f"{value:+}" if signed else f"{value}"
    exact = Decimal(repr(round(float(value), _NOISE)))
    rounded = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP, _WHOLE_FLOAT)
    rounded = rounded if rounded else abs(rounded)
    return f"{rounded:+f}" if signed else f"{rounded:f}"


def decimals_of(printed: str) -> int:
    """Number of decimals of a printed number."""
    return len(printed.partition(".")[2])


def rounds_to(value: float, printed: str) -> bool:
    """Whether ``value`` rounds to the printed number at the printed digit."""
    return Decimal(decimals(value, decimals_of(printed))) == Decimal(printed)


def percent(fraction: float | None, absent: str = "", digits: int = 1) -> str:
    """A fraction as percent, like "47.3"; ``absent`` for None."""
    return absent if fraction is None else decimals(100 * fraction, digits)


def percent_value(fraction: float) -> float:
    """A fraction as the percentage for other programs: four decimals."""
    return round(100 * fraction, 4)


def in_points(difference: float) -> str:
    """A difference of two fractions in percentage points, like "+0.3"."""
    return decimals(100 * difference, 1, signed=True)


def share(part: float, digits: int = 1) -> str:
    """A part of a whole, or a relative error, in percent with its sign: "3.2%"."""
    return f"{percent(part, digits=digits)}%"


def plural(number: int, noun: str) -> str:
    """A count with its noun: "1 Record", "1,523 Records"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def milliseconds(value: float | None, absent: str = "") -> str:
    """Two decimals below 10 ms, one decimal above; ``absent`` for None."""
    if value is None:
        return absent
    return decimals(value, 2 if value < 10 else 1)
