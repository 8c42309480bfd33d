"""The decoder from JSON values to dataclasses. It refuses unknown fields and wrong types and says
where, by the path of the field. No torch here.

Of the libraries that do this, msgspec 0.22 decodes every stored Record to the same value in 0.4 of
the time, and is as strict about bool, int and float. But it drops a field that a dataclass does not
have without a word (its ``forbid_unknown_fields`` is for its own ``Struct``), so that a misspelled
key of a card or a Record of a newer version would pass, changed. As ``Struct`` the rows would lose
``dataclasses.replace``, ``fields`` and ``asdict``, on which ids, digests and campaigns rest.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from .errors import nearest

T = TypeVar("T")


def without_absent(value: Any) -> Any:
    """``value`` without the dictionary entries that are None, at every depth; tuples become
    lists.
    """
    if isinstance(value, dict):
        return {key: without_absent(item) for key, item in value.items() if item is not None}
    return [without_absent(item) for item in value] if isinstance(value, (list, tuple)) else value


# what makes a field's value of a JSON value; its second argument is the path for messages
_Reader = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How a dataclass is decoded, found once for each: to find it anew for every stored line would
    dominate reading a store.
    """

    plain: dict[str, frozenset[type]]  # field -> types taken as they are: most values of a store
    readers: dict[str, _Reader]  # field -> what reads a value of any other type
    needed: dict[str, None]  # the fields that have to be given, in their order


@functools.cache
def _plan(kind: type) -> _Plan:
    hints = typing.get_type_hints(kind)
    plain = frozenset((str, int, float, bool))
    absent = dataclasses.MISSING
    return _Plan(
        {name: plain.intersection(_options(hint)) for name, hint in hints.items()},
        {name: _reader(hint) for name, hint in hints.items()},
        {
            field.name: None
            for field in dataclasses.fields(kind)
            if field.default is absent and field.default_factory is absent
        },
    )


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of ``X | Y``; any other type has itself as the only alternative."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def decode(kind: type[T], fields: Any, path: str = "") -> T:
    """A (nested) dataclass from plain JSON values. Nested dataclasses may be given decoded.

    ``path``: what messages call it; default the dataclass's name. Raises TypeError or ValueError
    for unknown and missing fields and for wrong types, with the path of the field.
    """
    path = path or kind.__name__
    if not isinstance(fields, dict):
        raise TypeError(f"{path} must be an object")
    row: Any = kind
    plan = _plan(row)
    plain = plan.plain
    readers = plan.readers
    if not fields.keys() <= readers.keys():
        unknown = sorted(fields.keys() - readers.keys())
        raise ValueError(f"unknown fields {unknown} of {path}{_meant(unknown, readers)}")
    values = {
        name: value if type(value) in plain[name] else readers[name](value, f"{path}.{name}")
        for name, value in fields.items()
    }
    if not plan.needed.keys() <= fields.keys():
        missing = next(name for name in plan.needed if name not in fields)
        raise ValueError(f"{path}.{missing} is missing")
    return kind(**values)


def _meant(unknown: Iterable[str], known: Collection[str]) -> str:
    """ "; did you mean X?" for the first of ``unknown`` that is nearly one of ``known``; else an
    empty text.
    """
    near = next(filter(None, (nearest(name, known) for name in unknown)), None)
    return f"; did you mean {near}?" if near else ""


def _reader(hint: Any) -> _Reader:
    """Reads a value of the type ``hint``; of several alternatives the first that accepts it."""
    options = _options(hint)
    *others, last = [_reader_of(option) for option in options if option is not type(None)]
    optional = type(None) in options

    def read(value: Any, name: str) -> Any:
        if value is None and optional:
            return None
        for other in others:
            try:
                return other(value, name)
            except (TypeError, ValueError):
                continue
        return last(value, name)

    return read


def _reader_of(kind: Any) -> _Reader:
    """Reads a value of a type without alternatives."""
    row: Any = kind
    if dataclasses.is_dataclass(kind):
        return lambda value, name: value if isinstance(value, row) else decode(row, value, name)
    plain = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if plain is tuple:
        return _tuple_reader(arguments)
    if plain is dict:
        return _dict_reader(arguments[1])

    def read(value: Any, name: str) -> Any:
        if plain is float and isinstance(value, int) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError as error:
                raise ValueError(f"{name} is beyond the range of a 64-bit float") from error
        return _checked(plain, value, name)

    return read


def _checked(plain: type, value: Any, name: str) -> Any:
    """The value itself if it is of this type; True and False are no numbers."""
    if not isinstance(value, plain) or (plain is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} = {repr(value)[:60]} is not {plain.__name__}")
    return value


def _dict_reader(kind: Any) -> _Reader:
    """Reads a dictionary with values of this type."""
    read_item = _reader(kind)

    def read(value: Any, name: str) -> dict[str, Any]:
        return {
            key: item if type(item) is kind else read_item(item, name)
            for key, item in _checked(dict, value, name).items()
        }

    return read


def _tuple_reader(kinds: tuple[Any, ...]) -> _Reader:
    """Reads a tuple. ``kinds``: (X, ...) for any number of X, else one type for each value."""
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        read_item = _reader(kinds[0])
        return lambda value, name: tuple(read_item(item, name) for item in _listed(value, name))
    readers = [_reader(kind) for kind in kinds]

    def read(value: Any, name: str) -> tuple[Any, ...]:
        values = _listed(value, name)
        if len(readers) != len(values):
            raise ValueError(f"{name} holds {len(values)} values instead of {len(readers)}")
        return tuple(reader(item, name) for reader, item in zip(readers, values, strict=True))

    return read


def _listed(value: Any, name: str) -> Any:
    return value if isinstance(value, list) else _checked(tuple, value, name)
