"""Reads the content of a PyTorch file without running anything that the file names.

The file is a zip archive, or the older format, a sequence of pickles.
:class:`.inert_unpickler.InertUnpickler` reads the pickles; tensors are views of storages that this
module reads from the file, with checked bounds.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfdetr_repro.spec.errors import InputError, first_line

from .inert_unpickler import MOST_PICKLE_BYTES, Bounded, InertUnpickler
from .inert_values import Fields, Foreign, finished

__all__ = ["RESAVE", "Fields", "Foreign", "InertUnpickler", "read_pickle"]

RESAVE = 'save it again as {"model": state_dict, "args": dict of plain values}'
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before zip archives
_ENCRYPTED = 1  # flag of a member of a zip archive
_DAMAGED = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,  # RecursionError too
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    LookupError,
    AssertionError,
    struct.error,
    zlib.error,
)


class _NotPyTorch(Exception):
    """The file is not a PyTorch file."""


def read_pickle(path: str | Path) -> Any:
    """The content of a PyTorch file: a zip archive, or the sequence of pickles that PyTorch wrote
    before 1.6.

    Raises :class:`InputError` for a name outside plain data, which the message states, for a
    damaged file, and for another kind of file.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return finished(_read_archive(archive, path))
        with Path(path).open("rb") as stream:
            if stream.peek(2)[:2] == b"PK":
                raise ValueError("a zip archive without its end")
            return finished(_read_sequence(stream, Path(path).stat().st_size))
    except Foreign as error:
        raise InputError(
            f"the file would load {error.name}, which is refused", path, RESAVE
        ) from None
    except _NotPyTorch as error:
        raise InputError(
            "not a checkpoint of tensors and plain values",
            path,
            "give a PyTorch or safetensors file",
        ) from error
    except _DAMAGED as error:
        raise InputError(
            f"corrupt checkpoint: {first_line(error)}", path, "copy or download it again"
        ) from error


def _read_sequence(stream: io.BufferedReader, size: int) -> Any:
    """Magic number, protocol, machine, content, keys of storages: five pickles, then the
    storages.
    """
    storages: dict[str, tuple[Tensor, int]] = {}
    left = size

    def load_storage(key: str, dtype: torch.dtype, numel: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= numel * dtype.itemsize
            if left < 0:
                raise ValueError("its storages are larger than the file")
            storages[key] = torch.zeros(numel * dtype.itemsize, dtype=torch.uint8), dtype.itemsize
        return storages[key][0].view(dtype) if numel else torch.empty(0, dtype=dtype)

    def load() -> Any:
        return InertUnpickler(Bounded(stream), load_storage).load()

    try:
        magic = load()
    except (*_DAMAGED, pickle.UnpicklingError) as error:
        raise _NotPyTorch from error
    if magic != _MAGIC:
        raise _NotPyTorch
    load()
    machine = load()
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise ValueError("written on a big-endian machine")
    content = load()
    for key in load():
        buffer, itemsize = storages[str(key)]
        count = int.from_bytes(stream.read(8), "little")
        expected = len(buffer)
        if count * itemsize != expected or stream.readinto(buffer.numpy().data) != expected:
            raise ValueError("the file is cut short")
    return content


def _read_archive(archive: zipfile.ZipFile, path: str | Path) -> Any:
    members = _members(archive)
    roots = [
        name[: -len("data.pkl")]
        for name in members
        if name == "data.pkl" or name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise _NotPyTorch
    root = roots[0]
    if (order := members.get(f"{root}byteorder")) is not None and _small(
        archive, order, path
    ).strip() != b"little":
        raise InputError("the file was written on a big-endian machine", path, RESAVE)
    storages: dict[str, Tensor] = {}
    left = Path(path).stat().st_size

    def load_storage(key: str, dtype: torch.dtype, numel: int) -> Tensor:
        nonlocal left
        if key not in storages:
            member = members[f"{root}data/{key}"]
            left -= member.file_size
            if left < 0:
                raise ValueError("its storages are larger than the file")
            if (
                member.compress_type != zipfile.ZIP_STORED
                or member.file_size < numel * dtype.itemsize
            ):
                raise ValueError(f"storage {key} is compressed or cut short")
            storages[key] = _bytes_of(path, member)
        return (
            storages[key][: numel * dtype.itemsize].view(dtype)
            if numel
            else torch.empty(0, dtype=dtype)
        )

    return InertUnpickler(
        io.BytesIO(_small(archive, members[f"{root}data.pkl"], path)), load_storage
    ).load()


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by their names. Raises ValueError for a name that occurs twice, and for encrypted
    members.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if member.filename in members:
            raise ValueError(f"{member.filename} is in the archive twice")
        if member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{member.filename} is encrypted")
        members[member.filename] = member
    return members


def _small(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str | Path) -> bytes:
    """Content of a member that holds no weights. A member that is too long when inflated is refused
    before it is inflated completely.
    """
    if member.compress_type == zipfile.ZIP_STORED and member.file_size <= MOST_PICKLE_BYTES:
        return _bytes_of(path, member).numpy().tobytes()
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in an unusual way")
    with archive.open(member) as stream:
        content = stream.read(MOST_PICKLE_BYTES + 1)
    if len(content) > MOST_PICKLE_BYTES:
        raise ValueError("the description of its tensors is too long")
    return content


def _bytes_of(path: str | Path, member: zipfile.ZipInfo) -> Tensor:
    """Content of a stored member, uint8 (n,). Its checksum is checked unless it is 0, which PyTorch
    writes where it computes none.
    """
    buffer = np.empty(member.file_size, dtype=np.uint8)
    with Path(path).open("rb") as stream:
        stream.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
        stream.seek(member.header_offset + 30 + name + extra)
        if stream.readinto(buffer.data) != member.file_size:
            raise ValueError("the file is cut short")
    if member.CRC and zlib.crc32(buffer.data) != member.CRC:
        raise ValueError(f"{member.filename} is damaged: its checksum differs")
    return torch.from_numpy(buffer)
