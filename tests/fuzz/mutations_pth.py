"""Ways to spoil a PyTorch file: pickles that are bombs or programs, storages that lie, tensors that
are no views of them.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mutations import Mutation

END = b"."
GLOBAL_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def of_pth(content: bytes) -> Iterator[Mutation]:
    """Of a file of :func:`torch.save`: {"model": tensors, "args": values, ...}."""
    for name, spoiled in _pickles():
        yield Mutation(
            f"pickle: {name}", lambda path, spoiled=spoiled: _put(path, _archive(spoiled())), True
        )
        yield Mutation(
            f"old pickle: {name}", lambda path, spoiled=spoiled: _put(path, _old(spoiled())), True
        )
    for name, change in _archives():
        yield Mutation(
            f"archive: {name}", lambda path, change=change: _put(path, change(content)), True
        )
    for name, refuse, alter in _contents():

        def save(
            path: Path, alter: Callable[[dict[str, Any]], Any] = alter, old: bool = False
        ) -> None:
            loaded = torch.load(io.BytesIO(content), weights_only=False)  # written by seeds.py
            torch.save(alter(loaded), path, _use_new_zipfile_serialization=not old)

        yield Mutation(f"content: {name}", save, refuse)
        yield Mutation(f"old file: {name}", lambda path, save=save: save(path, old=True), refuse)


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _archive(
    data: bytes, compression: int = zipfile.ZIP_STORED, storages: dict[str, bytes] | None = None
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, value in (storages or {"0": bytes(64)}).items():
            archive.writestr(f"archive/data/{key}", value, zipfile.ZIP_STORED)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _old(data: bytes) -> bytes:
    start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in start) + data + pickle.dumps([], 2)


def _tensor(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    numbers = [pickle.dumps(value, 2)[2:-1] for value in (numel, offset, size, stride)]
    storage = STORAGE + numbers[0] + b"tQ"
    return (
        GLOBAL_TENSOR
        + b"("
        + storage
        + numbers[1]
        + numbers[2]
        + numbers[3]
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def _named(value: bytes) -> bytes:
    """{"model": {"transformer.decoder.norm.weight": value}}"""
    names = [pickle.dumps(name, 2)[2:-3] for name in ("model", "transformer.decoder.norm.weight")]
    return b"\x80\x02}" + names[0] + b"}" + names[1] + value + b"ss" + END


def _doubled(depth: int, opening: bytes, closing: bytes) -> bytes:
    """Two of the value before, ``depth`` times."""
    numbers = [struct.pack("<I", number) for number in range(depth)]
    return b"]" + b"".join(
        b"r" + number + opening + b"j" + number + b"j" + number + closing for number in numbers
    )


def _pickles() -> Iterator[tuple[str, Callable[[], bytes]]]:
    called = (
        "os system,posix system,builtins eval,builtins exec,subprocess Popen,builtins "
        "getattr,torch load,numpy load"
    )
    for module, name in (pair.split() for pair in called.split(",")):
        yield f"{module}.{name}", lambda m=module, n=name: f"c{m}\n{n}\n(S'echo x'\ntR.".encode()
    yield "a memo of 2^31 places", lambda: b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + END
    yield "a memo of 2^28 places", lambda: b"\x80\x02}r" + struct.pack("<I", 2**28) + END
    yield "text of 2^62 bytes", lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x" + END
    yield "bytes of 2^62 bytes", lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x" + END
    yield "a frame of 2^62 bytes", lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}" + END
    yield "a buffer of 2^40 bytes", lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"}" + END
    yield (
        "a number of 2^31 bytes",
        lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1" + END,
    )
    yield "digits", lambda: b"I" + b"9" * 200_000 + b"\n."
    yield "deep lists", lambda: b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + END
    yield "deep tuples", lambda: b"\x80\x02)" + b"\x85" * 50_000 + END
    yield "marks", lambda: b"\x80\x02" + b"(" * 300_000 + END
    yield (
        "memory of a long chain",
        lambda: b"\x80\x02}" + b"".join(b"r" + struct.pack("<I", n) for n in range(100_000)) + END,
    )
    yield (
        "lists of two lists",
        lambda: b"\x80\x02}" + pickle.dumps("args", 2)[2:-3] + _doubled(60, b"](", b"e") + b"s.",
    )
    yield (
        "text of lists of two lists",
        lambda: b"\x80\x02cbuiltins\nstr\n" + _doubled(40, b"](", b"e") + b"\x85R.",
    )
    yield (
        "keys of tuples of two tuples",
        lambda: b"\x80\x02}" + _doubled(60, b"", b"\x86").replace(b"]", b")", 1) + b"K\x01s.",
    )
    yield (
        "sets of tuples",
        lambda: b"\x80\x04\x8f(" + _doubled(60, b"", b"\x86").replace(b"]", b")", 1) + b"\x90.",
    )
    long_list = b"\x80\x02](" + b"N" * 500_000 + b"eq\x01"
    yield (
        "copies of a list",
        lambda: long_list + b"](" + b"cbuiltins\ntuple\nh\x01\x85R" * 5000 + b"e.",
    )
    yield "a dictionary of itself", lambda: b"\x80\x02}q\x01X\x05\x00\x00\x00modelh\x01s."
    yield "a list of itself", lambda: b"\x80\x02]q\x01h\x01a."
    yield "reserved bytes", lambda: b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    yield "a changed type", lambda: b"\x80\x02cargparse\nNamespace\n}X\x08\x00\x00\x00__init__Nsb."
    state = b"(" + STORAGE + b"K\x10tQK\x00\x8a\x05\0\0\0\0\x02\x85K\x01\x85t"
    yield "a tensor that is set", lambda: _named(_tensor(16, 0, (4,), (1,)) + state + b"b")
    for name, numbers in {
        "beyond its storage": (16, 0, (5, 5), (5, 1)),
        "behind its storage": (16, 2**40, (4,), (1,)),
        "an offset below 0": (16, -1, (4,), (1,)),
        "a size below 0": (16, 0, (-4,), (1,)),
        "a stride below 0": (16, 8, (4,), (-1,)),
        "a stride of 0": (16, 0, (2**33,), (0,)),
        "strides of 0": (16, 0, (2**31, 2**31, 2**31), (0, 0, 0)),
        "a size of 2^62": (16, 0, (2**62,), (1,)),
        "a size of 10^30": (16, 0, (10**30,), (1,)),
        "nothing of 2^62": (16, 0, (2**62, 0), (1, 1)),
        "a hundred dimensions": (16, 0, (1,) * 100, (1,) * 100),
        "more strides than sizes": (16, 0, (4,), (1, 1)),
        "a storage of 2^40": (2**40, 0, (4,), (1,)),
        "a storage of 2^62": (2**62, 0, (4,), (1,)),
        "a storage below 0": (-1, 0, (4,), (1,)),
    }.items():
        yield f"a tensor: {name}", lambda numbers=numbers: _named(_tensor(*numbers))
    yield "nothing", lambda: b""
    yield "None", lambda: b"N."
    yield "no end", lambda: b"\x80\x02}"
    yield "unknown instruction", lambda: b"\x80\x02\xff."
    yield "protocol 99", lambda: b"\x80\x63}."
    yield "an extension", lambda: b"\x80\x02\x82\x01."
    yield "an object of protocol 1", lambda: b"(cargparse\nNamespace\no."
    yield "another persistent id", lambda: b"Pnowhere\n."
    yield "an unknown encoding", lambda: b"\x80\x04cbuiltins\nstr\nC\x01aX\x03\x00\x00\x00nop\x86R."


def _archives() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    bomb = b"\x80\x02X" + struct.pack("<I", 2**27) + bytes(2**27)
    for method, name in (
        (zipfile.ZIP_DEFLATED, "deflate"),
        (zipfile.ZIP_BZIP2, "bzip2"),
        (zipfile.ZIP_LZMA, "lzma"),
    ):
        yield f"a pickle of 128 MiB in {name}", lambda _, method=method: _archive(bomb, method)

    def compressed(content: bytes) -> bytes:
        return _repacked(content, lambda name, data: (name, data, zipfile.ZIP_DEFLATED))

    def big(content: bytes) -> bytes:
        return _repacked(
            content,
            lambda name, data: (
                name,
                b"big" if name.endswith("byteorder") else data,
                zipfile.ZIP_STORED,
            ),
        )

    def without(content: bytes) -> bytes:
        return _repacked(
            content,
            lambda name, data: (
                (name, data, zipfile.ZIP_STORED) if not name.endswith("data/3") else None
            ),
        )

    def short(content: bytes) -> bytes:
        return _repacked(
            content,
            lambda name, data: (name, data[:4] if "/data/" in name else data, zipfile.ZIP_STORED),
        )

    yield "compressed storages", compressed
    yield "big-endian", big
    yield "a missing storage", without
    yield "short storages", short
    yield "two pickles", lambda content: _repacked(content, _same, {"other/data.pkl": b"}."})
    yield (
        "no pickle",
        lambda content: _repacked(
            content, lambda n, d: None if n.endswith("data.pkl") else _same(n, d)
        ),
    )
    for size in (2**31, 2**40):
        yield (
            f"storages said to be of {size} bytes",
            lambda content, size=size: _lying(content, size),
        )


def _same(name: str, data: bytes) -> tuple[str, bytes, int]:
    return name, data, zipfile.ZIP_STORED


def _repacked(
    content: bytes, change: Callable[[str, bytes], Any], more: dict[str, bytes] | None = None
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            if (entry := change(name, old.read(name))) is not None:
                new.writestr(entry[0], entry[1], entry[2])
        for name, data in (more or {}).items():
            new.writestr(name, data)
    return stream.getvalue()


def _lying(content: bytes, size: int) -> bytes:
    """The central directory gives every storage this size, as far as its 32 bits go."""
    changed = bytearray(content)
    place = 0
    while (place := changed.find(b"PK\x01\x02", place)) >= 0:
        if b"/data/" in changed[place + 46 : place + 120]:
            changed[place + 20 : place + 28] = struct.pack("<II", *([min(size, 2**32 - 2)] * 2))
        place += 4
    return bytes(changed)


def _contents() -> Iterator[tuple[str, bool, Callable[[dict[str, Any]], Any]]]:
    def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], Any]:
        return lambda content: {
            **content,
            "model": {name: change(value) for name, value in content["model"].items()},
        }

    def one(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], Any]:
        def alter(content: dict[str, Any]) -> Any:
            name = "transformer.decoder.norm.weight"
            return {**content, "model": {**content["model"], name: change(content["model"][name])}}

        return alter

    for kind in (
        torch.int8,
        torch.bool,
        torch.int64,
        torch.complex64,
        torch.uint8,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ):
        yield f"weights of {kind}", True, weights(lambda value, kind=kind: value.to(kind))
        yield f"one weight of {kind}", True, one(lambda value, kind=kind: value.to(kind))
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        yield f"weights of {kind}", False, weights(lambda value, kind=kind: value.to(kind))
    for number in (float("nan"), float("inf"), 1e38):
        yield (
            f"weights of {number}",
            True,
            weights(lambda value, number=number: torch.full_like(value, number)),
        )
    yield "one NaN", True, one(lambda value: value.index_fill(0, torch.tensor([1]), float("nan")))
    yield (
        "float64 beyond float32",
        True,
        one(lambda value: torch.full_like(value, 1e300, dtype=torch.float64)),
    )
    yield "an expanded weight", False, one(lambda value: value[:1].expand(len(value)))
    yield "a strided weight", False, one(lambda value: value.repeat_interleave(2)[::2])
    yield "a sparse weight", True, one(lambda value: value.to_sparse())
    yield "text as a weight", True, one(lambda value: "x")
    yield "None as a weight", True, one(lambda value: None)
    yield "a scalar as a weight", True, one(lambda value: torch.tensor(1.0))
    yield "an empty weight", True, one(lambda value: torch.empty(0))
    yield "a longer weight", True, one(lambda value: torch.zeros(len(value) + 1))
    far = {"transformer.decoder.layers.99999999.norm1.weight": torch.ones(16)}
    yield (
        "a layer of a large number",
        True,
        lambda content: {**content, "model": {**content["model"], **far}},
    )
    yield "a list", True, lambda content: list(content["model"].values())
    yield "no weights", True, lambda content: {"args": content["args"]}
    yield (
        "weights in a list",
        True,
        lambda content: {**content, "model": list(content["model"].items())},
    )
    yield "flat", False, lambda content: content["model"]
    yield "state_dict", False, lambda content: {"state_dict": OrderedDict(content["model"])}
    yield (
        "numbers as names",
        True,
        lambda content: {**content, "model": dict(enumerate(content["model"].values()))},
    )
    yield from _settings()


def _settings() -> Iterator[tuple[str, bool, Callable[[dict[str, Any]], Any]]]:
    numbers = (None, True, -1, 0, 10**9, 2**70, 1.5, float("nan"), float("inf"))
    values: tuple[Any, ...] = (*numbers, "x", "y" * 5000, [], [1], [-1], {}, {"a": 1})
    keys = (
        "resolution num_windows out_feature_indexes input_hw class_names num_classes sa_nheads "
        "ca_nheads dec_n_points vit_heads num_queries proposal_side category_ids added_logits "
        "encoder label_convention resize_rule feature_stages global_blocks mask_stride "
        "window_block_indexes num_keypoints_per_class segmentation_head dim_feedforward levels"
    )
    for key in keys.split():
        for value in values:

            def said(content: dict[str, Any], key: str = key, value: Any = value) -> Any:
                setattr(content["args"], key, value)
                return content

            yield f"args.{key} = {str(value)[:20]}", False, said
    for value in values:
        yield (
            f"model_config = {str(value)[:20]}",
            False,
            lambda content, value=value: {**content, "model_config": value},
        )
        yield (
            f"args = {str(value)[:20]}",
            False,
            lambda content, value=value: {**content, "args": value},
        )
