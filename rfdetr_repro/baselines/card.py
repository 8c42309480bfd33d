"""Reads ``baseline.toml``, the data file of a baseline: name, licence, weights and sizes.

This module does not import PyTorch.

.. code-block:: toml

    name = "D-FINE"
    license = "Apache-2.0"
    source = "arXiv 2410.13842"
    weights = "where trained weights come from"

    [every]                # fields of Size that all sizes have in common
    family = "dfine"

    [sizes.dfine-n]        # fields of Size; the table's name is its id
    size = "N"

    [sizes.dfine-n.settings]
    decoder_layers = 3
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rfdetr_repro.spec.codec import decode
from rfdetr_repro.spec.errors import InputError

from .baseline import Size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "baseline.toml"


@dataclass(frozen=True)
class Card:
    """What ``baseline.toml`` states; the fields are those of :class:`Baseline`."""

    name: str
    license: str
    source: str
    weights: str
    sizes: tuple[Size, ...] = ()
    suppression: bool = False
    torch_only: str = ""

    def by_key(self, key: str) -> Size:
        """The size that the method's own program calls ``key``."""
        return next(size for size in self.sizes if size.key == key)


def read_card(folder: str | Path) -> Card:
    """The card in ``folder``; :class:`InputError` with the file's name for anything wrong in it."""
    path = Path(folder, FILE)
    try:
        with path.open("rb") as stream:
            read = tomllib.load(stream)
        every = read.pop("every", {})
        rows = read.pop("sizes", {})
        for place, found in {"every": every, "sizes": rows, **rows}.items():
            if not isinstance(found, dict):
                raise TypeError(f"{place} is no table")
        sizes = tuple(_size(id, every, row, read.get("name")) for id, row in rows.items())
        return replace(decode(Card, read), sizes=sizes)
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise InputError(str(error), path) from error


def _size(id: str, every: dict[str, Any], row: dict[str, Any], name: object) -> Size:
    settings = {**every.get("settings", {}), **row.get("settings", {})}
    fields = {"name": name, **every, **row, "id": id}
    fields.pop("settings", None)
    return replace(decode(Size, fields), settings=settings)


class CardBaseline:
    """The part of a baseline that its card states."""

    def __init__(self, card: Card) -> None:
        """Takes the fields of ``card`` that :class:`Baseline` asks for."""
        self.name = card.name
        self.license = card.license
        self.weights = card.weights
        self.sizes = card.sizes
        self.suppression = card.suppression
        self.torch_only = card.torch_only
