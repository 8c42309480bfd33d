"""Range checks of settings: every field's type, range and choice is checked before anything is
spent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .errors import InputError, nearest

Range = tuple[float, float]  # lowest and highest value, both allowed


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
