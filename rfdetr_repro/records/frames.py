"""Records as a pandas DataFrame: one row per Record, one column per field.

    from rfdetr_repro.records import frame

    records = frame("results")  # a store, a run folder, or a folder of stores
    records.groupby("artifact.runtime")["latency.median_ms"].min()

A column is named by its path in the Record: ``model.arch.queries``, ``latency.median_ms``. Units
are in the name: ``_ms`` milliseconds, ``_s`` seconds, ``_bytes``, ``_gib``, ``_mhz``, ``_w`` watts,
``_c`` degrees Celsius, ``_per_s`` per second, ``_share`` and ``_error`` fractions of 1. Every
``ap``, ``ap50``, ... is a fraction in 0..1; ``cost.flops`` counts 2 per multiply-add. Absent fields
are NA. Every field of a Record is a column, even if no Record has a value; ``env.*``,
``adoption.*``, ``latency.gpu.throttled_s.*``, ``latency.gpu.throttled_share.*`` and
``latency.gpu.sm_mhz.*`` have a column for each key that occurs.

Origin: ``id``, ``source``, ``campaign`` and ``command`` are columns, ``store`` is the file that the
row was read from (NA for Records given as such), ``unverified`` is true for a line without digests.
A list (``parts``, ``latency.builds``) is JSON text. The resampled APs (``accuracy.resampled.aps``)
are left out: they are thousands of numbers per Record.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from rfdetr_repro.spec.errors import InputError, shortened
from rfdetr_repro.spec.tabular import data_frame

from .record import Record
from .store import read_stores, stores_of

_TYPES = {int: "Int64", float: "Float64", bool: "boolean", str: "string"}
_LEFT_OUT = ("accuracy.resampled.aps", "mask_accuracy.resampled.aps", "schema")


Given = Record | str | Path  # a path stands for the Records of its stores


def frame(records: Given | Iterable[Given]) -> Any:
    """The Records as a ``pandas.DataFrame``; for a path, all Records in the stores of the path.

    Raises :class:`InputError` for a path that cannot be read, and where pandas is not installed.
    """
    rows = list(_rows(records))
    columns = {"id": "string", "store": "string"}
    kinds = dict(_columns(Record))
    seen = {name: None for _, row in rows for name in row}
    for name, kind in kinds.items():
        if kind is not None:
            columns[name] = kind
        else:  # a dictionary, with a column for each key that occurs
            own = sorted(key for key in seen if key.startswith(f"{name}."))
            columns.update({key: _TYPES[type(_first(rows, key))] for key in own})
    return data_frame(columns, [{"store": store, **row} for store, row in rows])


def _rows(records: Given | Iterable[Given]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    for one in [records] if isinstance(records, (Record, str, Path)) else records:
        if isinstance(one, Record):
            yield None, flat(one)
        elif isinstance(one, (str, Path)):
            for file in stores_of(one):
                yield from ((str(file), flat(record)) for record in read_stores([file]))
        else:
            raise InputError(
                f"{shortened(repr(one), 60)} is neither a Record nor a path",
                hint="give Records, a store, a run folder, or a folder of stores",
            )


def flat(record: Record) -> dict[str, Any]:
    """The present fields of a Record by path, such as ``latency.median_ms``, with its id."""
    row: dict[str, Any] = {"id": record.id}  # is also kept among the fields of the object
    _collect(row, record, "")
    return row


def _collect(row: dict[str, Any], part: Any, prefix: str) -> None:
    """Adds path -> value of all fields of a dataclass, and of its parts."""
    for field, value in vars(part).items():
        if value is None:  # most fields of most Records
            continue
        name = prefix + field
        if name in _LEFT_OUT:
            continue
        if isinstance(value, (str, int, float)):
            row[name] = value
        elif isinstance(value, dict):
            row.update((f"{name}.{key}", item) for key, item in value.items())
        elif isinstance(value, tuple):
            row[name] = _listed(value)
        else:
            _collect(row, value, f"{name}.")


def columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Path -> values of all Records in their order, None where a Record has no such field: what
    :func:`flat` gives of each, for the paths that at least one Record has, in no stated order.

    A field is read of all Records at once: to go through one Record after the other takes three
    times as long.
    """
    every = range(len(records))
    found: dict[str, list[Any]] = {"id": [record.id for record in records]}
    for name, places, values in _parts("", every, records):
        if len(places) == len(records):
            found[name] = values
            continue
        column = found.setdefault(name, [None] * len(records))
        for place, value in zip(places, values, strict=True):
            column[place] = value
    return found


_Column = tuple[str, Sequence[int], list[Any]]  # path, places of Records, their values


def _parts(prefix: str, places: Sequence[int], parts: Sequence[Any]) -> Iterator[_Column]:
    """The columns of the fields of dataclasses of one type, which belong to the Records at
    ``places``.
    """
    if parts:
        for field in dataclasses.fields(parts[0]):
            values = list(map(attrgetter(field.name), parts))
            yield from _column(prefix + field.name, places, values)


def _column(name: str, places: Sequence[int], values: list[Any]) -> Iterator[_Column]:
    """The columns of a field with these values: its own, or those of its parts."""
    kinds = set(map(type, values))
    if type(None) in kinds:
        places = [place for place, value in zip(places, values, strict=True) if value is not None]
        values = [value for value in values if value is not None]
        kinds.remove(type(None))
    if name in _LEFT_OUT or not values:
        return
    if kinds <= {str, int, float, bool}:
        yield name, places, values
    elif kinds == {dict}:
        for key in dict.fromkeys(key for value in values for key in value):
            yield f"{name}.{key}", places, [value.get(key) for value in values]
    elif kinds == {tuple}:
        yield name, places, list(map(_listed, values))
    else:
        yield from _parts(f"{name}.", places, values)


def _listed(items: tuple[Any, ...]) -> str:
    """A list as JSON text."""
    return json.dumps(
        [
            dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item  # type: ignore[arg-type]
            for item in items
        ]
    )


def _columns(kind: Any, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Path -> type of a column; None: a dictionary, whose keys are not known."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if name in _LEFT_OUT:
            continue
        hint = hints[field.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = next(option for option in options if option is not type(None))
        origin = typing.get_origin(plain) or plain
        if dataclasses.is_dataclass(plain):
            yield from _columns(plain, f"{name}.")
        elif origin is dict:
            yield name, None
        else:
            yield name, _TYPES.get(origin, "string")


def _first(rows: Iterable[tuple[str | None, dict[str, Any]]], name: str) -> Any:
    return next(row[name] for _, row in rows if name in row)
