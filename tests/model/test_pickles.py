"""Pickles of PyTorch files: plain data is read as torch reads it, and nothing else is made."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import os
import pathlib
import pickle
import subprocess
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples_upstream import written

from rfdetr_repro.model.checkpoints.unpickle import read_pickle
from rfdetr_repro.spec.errors import InputError

HARMLESS: dict[str, Any] = {
    "path": pathlib.PurePosixPath("/data/set"),
    "windows": pathlib.PureWindowsPath("C:/data"),
    "scalar": np.float64(0.42),
    "integer": np.int64(7),
    "flag": np.bool_(True),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "text": np.array(["a", "bcd"]),
    "dtype": np.dtype("float32"),
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]),
    "set": {1, 2},
    "frozen": frozenset({3}),
    "complex": 1 + 2j,
    "bytes": b"\x00\xff",
    "float16": torch.float16,
    "device": torch.device("cuda:0"),
    "size": torch.Size([2, 3]),
    "date": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
    "delta": datetime.timedelta(seconds=5),
    "namespace": argparse.Namespace(a=1, b=types.SimpleNamespace(c=[2])),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "sequence"])
def test_plain_values_of_every_kind_are_read(zipped: bool, protocol: int, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"model": {}, "args": HARMLESS},
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    found = read_pickle(path)["args"]
    for name, value in HARMLESS.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype and np.array_equal(found[name], value), name
        elif name == "namespace":
            assert found[name].a == 1 and found[name].b.c == [2]
        elif name in ("deque", "size"):
            assert list(found[name]) == list(value)
        else:
            assert found[name] == value, name


def test_paths_of_both_platforms_are_read(tmp_path: Path) -> None:
    """A file from Windows names ``pathlib.WindowsPath``, which cannot even be made here."""
    for module in ("pathlib", "pathlib._local"):
        stream = io.BytesIO()
        torch.save({"where": pathlib.PurePosixPath("a/b")}, stream)
        for kind in ("PosixPath", "WindowsPath"):
            path = tmp_path / f"{module}-{kind}.pth"
            path.write_bytes(
                _with_global(
                    stream.getvalue(), b"cpathlib\nPurePosixPath\n", f"c{module}\n{kind}\n".encode()
                )
            )
            assert str(read_pickle(path)["where"]).replace("\\", "/") == "a/b"


def _with_global(archive: bytes, old: bytes, new: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(target, "w") as changed:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("data.pkl"):
                # where it stands depends on Python's version
                names = (b"cpathlib._local\nPurePosixPath\n", old)
                for name in names:
                    content = content.replace(name, new)
            changed.writestr(member.filename, content)
    return target.getvalue()


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "sequence"])
def test_tensors_are_those_of_torch(zipped: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """Views, shared storages, transposed and empty tensors, parameters: bit for bit what torch's
    own loader gives.
    """
    base = torch.arange(24).reshape(4, 6).to(dtype)
    state = {
        "base": base,
        "column": base[:, 2],
        "turned": base.t(),
        "empty": base[:0],
        "one": base[1, 1],
    }
    if dtype.is_floating_point:
        state["parameter"] = torch.nn.Parameter(base.clone())
    path = written(tmp_path, state, _use_new_zipfile_serialization=zipped)
    ours = read_pickle(path)
    theirs = torch.load(path, weights_only=True)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
    assert ours["column"].untyped_storage().data_ptr() == ours["base"].untyped_storage().data_ptr()


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "sequence"])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("true",), "posix.system|os.system"),
        (eval, ("1",), "builtins.eval|__builtin__.eval"),
        (getattr, (1, "real"), "getattr"),
        (functools.partial, (print,), "functools.partial"),
        (subprocess.run, (["true"],), "(?:subprocess|commands).run"),
        (torch.load, ("x",), "torch.serialization.load"),
        (np.load, ("x",), "numpy.*load"),
        (bytearray, (1 << 40,), "bytearray"),
        (torch.nn.Linear, (1, 1), "torch.nn.*Linear"),
        (Path, ("x",), None),
    ],
)
def test_only_plain_data_is_made(
    function: Any, arguments: Any, name: str | None, zipped: bool, tmp_path: Path
) -> None:
    path = written(
        tmp_path, {"args": Calls(function, *arguments)}, _use_new_zipfile_serialization=zipped
    )
    if name is None:
        assert str(read_pickle(path)["args"]) == "x"
        return
    with pytest.raises(InputError, match=f"({name}).*refused"):
        read_pickle(path)


def test_no_file_changes_what_the_next_one_sees(tmp_path: Path) -> None:
    """A pickle may set attributes of what it names; here that is made anew for each file, or cannot
    be changed.
    """
    for target in (
        argparse.Namespace,
        torch.float32,
        collections.OrderedDict,
        pathlib.PurePosixPath,
        datetime.date,
    ):
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, 2)
        pickler.dump(target)
        # BUILD with {"changed": 1}
        program = stream.getvalue()[:-1] + b"}X\x07\x00\x00\x00changedK\x01sb."
        torch.save({"args": 0}, tmp_path / "change.pth")
        _replace_pickle(tmp_path / "change.pth", program)
        with pytest.raises(InputError):
            read_pickle(tmp_path / "change.pth")
        assert not hasattr(target, "changed")
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "next.pth")
    assert not hasattr(read_pickle(tmp_path / "next.pth")["args"], "changed")


def _replace_pickle(path: Path, program: bytes) -> None:
    with zipfile.ZipFile(path) as source:
        parts = {member.filename: source.read(member) for member in source.infolist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in parts.items():
            target.writestr(name, program if name.endswith("data.pkl") else content)
