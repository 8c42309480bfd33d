"""Reads safetensors files, and refuses in one line what is not a whole file of this kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import DuplicateKeyError, open_input, parse_json, refuse_stand_in

MOST_BYTES = 16 << 30  # of a checkpoint: several times the largest model with its training state
_MOST_HEADER_BYTES = 100_000_000  # the limit of the format


def check_length(stream: Any, path: str | Path) -> None:
    """Raises :class:`InputError` for a file that is too large to be a checkpoint, before it takes
    memory.
    """
    if os.fstat(stream.fileno()).st_size > MOST_BYTES:
        what = f"a file of more than {MOST_BYTES >> 30} GiB, which cannot be a checkpoint"
        raise InputError(what, path, "check the path")


def read_safetensors(path: str | Path, hint: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; ``hint`` says what to do about a broken
    file.

    Raises :class:`InputError` for a missing or damaged file, and for a key that occurs twice.
    """
    with _opened(path, hint) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(file)  # noqa: SIM118 (not a dict)


def read_metadata(path: str | Path, hint: str) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors. Raises :class:`InputError` as
    :func:`read_safetensors` does.
    """
    with _opened(path, hint) as file:
        return _metadata(file)


def _metadata(file: Any) -> dict[str, str]:
    return dict(file.metadata() or {})


@contextmanager
def _opened(path: str | Path, hint: str) -> Iterator[Any]:
    try:
        _check_header(path)
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, DuplicateKeyError, OSError) as error:
        raise InputError(f"corrupt checkpoint: {error}", path, hint) from error


def _check_header(path: str | Path) -> None:
    """Raises :class:`DuplicateKeyError` for a key that occurs twice, of which the library would
    take the last. Everything else that is wrong with a header the library finds itself.
    """
    with open_input(path) as stream:
        check_length(stream, path)
        head = stream.read(256)
        refuse_stand_in(head, path)
        stream.seek(8)
        length = int.from_bytes(head[:8], "little")
        header: bytes = stream.read(length) if length <= _MOST_HEADER_BYTES else b""
    try:
        parse_json(header)
    except DuplicateKeyError:
        raise
    except ValueError:
        pass
