"""Range checks of settings: every field's type, range and choice is checked before anything is
spent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .errors import InputError, nearest

Range = tuple[float, float]  # lowest and highest value, both allowed
# Unicode's controls, halves of pairs, and separators of lines and of paragraphs
_NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}
_UNSEEN = {"Cf", "Zs"}  # joiners and marks of direction, and spaces


def check_ranges(
    settings: object, whole: Mapping[str, Range], real: Mapping[str, Range], what: str = ""
) -> None:
    """Checks the fields of ``settings`` that ``whole`` (integers) and ``real`` (finite numbers)
    name.

    Raises :class:`InputError` for the first field that has another type or lies outside its range;
    a bool is not a number. ``what`` names the settings in the message.
    """
    for names, kinds, noun in ((whole, (int,), "a whole number"), (real, (int, float), "a number")):
        for name, (low, high) in names.items():
            value = getattr(settings, name)
            # NaN fails
            fits = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
            if not fits:
                raise InputError(f"{name} = {value!r} is not {noun} from {low:g} to {high:g}", what)


def choose(value: object, options: Collection[str], what: str, where: object = "") -> str:
    """``value`` if it is among ``options``. Otherwise raises :class:`InputError`, which names the
    nearest option.
    """
    if isinstance(value, str) and value in options:
        return value
    near = nearest(value, options) if isinstance(value, str) else None
    hint = f"did you mean {near}? " if near else ""
    raise InputError(
        f"unknown {what} {value!r}", where, f"{hint}choose one of {', '.join(options)}"
    )


def plain_digits(text: str) -> bool:
    """Whether Python reads a number in ``text`` as other programs do: without ``1_000``, and
    without the digits of other scripts.
    """
    return text.isascii() and "_" not in text


def is_text(value: Any) -> bool:
    """Whether the value is a text that can be read: not blank, and without line breaks and other
    control characters. The joiners and marks of direction of Persian, Hindi or Hebrew names and
    unbreakable spaces are allowed, although Python does not call them printable.
    """
    if not isinstance(value, str):
        return False
    kinds = {unicodedata.category(one) for one in value}
    return bool(kinds - _UNSEEN) and not kinds & _NO_TEXT


def check_classes(names: Sequence[str], category_ids: Sequence[int]) -> None:
    """Raises ValueError for class names that cannot be printed, and for category ids that are not
    one for each class. Ids below 0 are those of classes that the data set lacks.
    """
    if len(names) != len(category_ids):
        raise ValueError(f"{len(names)} class names and {len(category_ids)} category ids")
    for name in names:
        if not is_text(name):
            raise ValueError(f"the class name {name[:60]!r} is not a text of printable characters")
    known = [number for number in category_ids if number >= 0]
    if len(set(known)) != len(known):
        raise ValueError("two classes have one category id")
    if not all(-(2**63) <= number < 2**63 for number in category_ids):
        raise ValueError("a category id takes more than 64 bits")


def plain_name(value: Any, what: str, where: object = "") -> str:
    """``value`` if it can be the name of a folder on any system. Otherwise raises
    :class:`InputError`.
    """
    forbidden = set('/\\:*?"<>|')
    usable = (
        isinstance(value, str)
        and 0 < len(value.encode("utf-8", "surrogatepass")) <= 100
        and value.strip(". ") == value
        and value.isprintable()
        and not forbidden & set(value)
    )
    if not usable:
        hint = (
            "use up to 100 letters, digits, spaces, hyphens and underscores, without a dot or a "
            "space at either end"
        )
        raise InputError(f"{what} {value!r} cannot be the name of a folder", where, hint)
    return value
