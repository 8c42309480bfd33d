"""Values as JSON text, for thousands of small values."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder
from typing import Any


def sorted_encoder(
    item_separator: str, key_separator: str, allow_nan: bool = False
) -> Callable[[Any], str]:
    """A function that gives the JSON text of a value in ASCII, with sorted keys and these
    separators. It raises ValueError for NaN and infinite numbers unless ``allow_nan``.

    The text is that of ``json.JSONEncoder``, which puts its program in C together anew for every
    value; of a small value this takes half of the time. Here this is done once.
    """
    make: Any = getattr(encoder, "c_make_encoder", None)
    if make is None:  # a Python without that program
        separators = (item_separator, key_separator)
        plain = json.JSONEncoder(sort_keys=True, separators=separators, allow_nan=allow_nan)
        return plain.encode
    text_of = encoder.encode_basestring_ascii
    chunks = make(
        None, _refused, text_of, None, key_separator, item_separator, True, False, allow_nan
    )
    return lambda value: text_of(value) if type(value) is str else "".join(chunks(value, 0))


def _refused(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
