"""Reads the pickle of a PyTorch file without running anything that the file names.

A pickle is a small program: it may look up any importable name and call it. Here a name is looked
up in :func:`inert_names` and nowhere else. What stands there is plain data (paths, dates, NumPy
scalars and arrays, namespaces, tensors) or makes plain data; whatever else a file names is refused
by its name, before it is imported. Each file gets fresh types, so that no file can alter what the
next one sees. Tensors are views of storages that are read here from the archive, with their bounds
checked.
"""

from __future__ import annotations

import collections
import datetime
import io
import math
import pathlib
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from rfdetr_repro.spec.errors import InputError

RESAVE = 'save it again as {"model": state_dict, "args": dict of plain values}'
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_DTYPES = {
    name: value for name in dir(torch) if isinstance(value := getattr(torch, name), torch.dtype)
}
_PLAIN_DTYPE = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|[SU]\d{1,6}|[mM]8(?:\[\w+\])?|\?)")
MOST_PICKLE_BYTES = 2**26  # of the description of tensors and values, which holds no weights
MOST_WRITTEN = 2**22  # values, where each counts as often as it is part of another
MOST_COPIED = 2**25  # bytes and elements that calls in a pickle may copy, all together
_PLAIN_BUILTINS: tuple[type, ...] = (
    list,
    dict,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    bytearray,
    int,
    float,
    bool,
    complex,
    slice,
)
# Python 2's names of modules, which pickle protocols below 3 use, and where NumPy and pathlib
# moved.
_MOVED = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "pathlib._local": "pathlib",
}


_MAGIC = 0x1950A86A20F9469CFC6C  # of the files before the zip archives
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


class _NotOurs(Exception):
    """The file is no PyTorch file."""


class Foreign(Exception):
    """A pickle names something outside :func:`inert_names`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Fields:
    """Attributes without behaviour: stands for ``argparse.Namespace``, ``types.SimpleNamespace``
    and configuration objects.
    """

    def __init__(self, *_: Any, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            self.__dict__.update(
                {str(name): value for name, value in part.items()} if isinstance(part, dict) else {}
            )


class _Dtype:
    """A NumPy dtype in the making; :attr:`value` is None for one that holds objects or fields."""

    def __init__(self, text: Any = "", *_: Any) -> None:
        self.text, self.order = (text if isinstance(text, str) else ""), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if len(state) > 1 and state[1] in ("<", ">", "=", "|") else "|"

    @property
    def value(self) -> np.dtype[Any] | None:
        text = self.order.replace("|", "") + self.text.lstrip("<>|=")
        return np.dtype(text) if _PLAIN_DTYPE.fullmatch(text) else None


class _Array:
    """A NumPy array in the making; :func:`plain` turns it into one."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        kind = dtype.value if isinstance(dtype, _Dtype) else None
        if kind is None or not isinstance(data, (bytes, bytearray)):
            self.value = data  # an array of objects: its elements are as inert as everything here
            return
        flat = np.frombuffer(bytes(data), dtype=kind)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Marker:
    """A name that is mentioned but never used as anything, such as ``numpy.float64`` as a type."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class _Storage:
    """Type of a storage by name: what a persistent id refers to."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Call:
    """A function that a pickle may call and may not change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Foreign("a change of a function")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    kind = dtype.value if isinstance(dtype, _Dtype) else None
    if kind is None or not isinstance(data, (bytes, bytearray)):
        raise Foreign("numpy scalar of objects")
    return np.frombuffer(bytes(data), dtype=kind)[0]


def _encode(text: str, encoding: str = "utf-8", *_: Any) -> bytes:
    """``_codecs.encode``: how protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise Foreign(f"_codecs.encode to {encoding}")
    return str(text).encode(encoding)


def _reconstructor(cls: Any, *_: Any) -> Any:
    """``copyreg._reconstructor``: how protocols 0 and 1 make an object."""
    if not isinstance(cls, type) or not issubclass(cls, Fields):
        raise Foreign("copyreg._reconstructor")
    return cls()


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """``torch._utils._rebuild_tensor_v2``: a view of a storage, its bounds checked."""
    if not isinstance(storage, Tensor):
        raise ValueError("a tensor without a storage")
    sides = [int(side) for side in size]
    steps = [int(step) for step in stride]
    if math.prod(sides) > storage.numel():  # weights share no numbers among themselves
        raise ValueError("a tensor is larger than its storage")
    last = int(offset) + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
    if min([int(offset), *sides, *steps]) < 0 or (0 not in sides and last >= storage.numel()):
        raise ValueError("a tensor lies outside its storage")
    return storage.as_strided(sides, steps, int(offset))


def _tensor_v3(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """The same over an untyped storage; the type follows."""
    dtype = next((one for one in rest if isinstance(one, torch.dtype)), None)
    if not isinstance(storage, Tensor) or dtype is None:
        raise ValueError("a tensor without a storage or type")
    return _tensor(storage.view(dtype), offset, size, stride)


def inert_names() -> dict[str, Any]:
    """Dotted name in a pickle -> what stands for it; made anew for each file."""
    namespace, settings, dictionary = (
        type(name, (Fields,), {}) for name in ("Namespace", "Settings", "Object")
    )
    attributes = type("AttributeDict", (dict,), {})
    dtype = type("dtype", (_Dtype,), {})
    array = type("ndarray", (_Array,), {})
    names: dict[str, Any] = {
        "argparse.Namespace": namespace,
        "types.SimpleNamespace": settings,
        "builtins.object": dictionary,
        "collections.OrderedDict": type("OrderedDict", (collections.OrderedDict,), {}),
        "collections.defaultdict": type(
            "defaultdict", (dict,), {"__init__": lambda self, *_: None}
        ),
        "collections.Counter": type("Counter", (dict,), {}),
        "numpy.dtype": dtype,
        "numpy.ndarray": array,
        "torch.storage.UntypedStorage": _Storage(torch.uint8),
        "torch.Tensor": _Marker("torch.Tensor"),
        "torch.nn.parameter.Parameter": _Marker("torch.nn.Parameter"),
        # Configuration objects of Lightning: dictionaries.
        "pytorch_lightning.utilities.parsing.AttributeDict": attributes,
        "lightning.pytorch.utilities.parsing.AttributeDict": attributes,
        "lightning.fabric.utilities.data.AttributeDict": attributes,
        "lightning_fabric.utilities.data.AttributeDict": attributes,
    }
    calls: dict[str, Callable[..., Any]] = {
        "copyreg._reconstructor": _reconstructor,
        "_codecs.encode": _encode,
        "collections.deque": lambda values=(), *_: list(values),
        "pathlib.Path": pathlib.PurePosixPath,
        "pathlib.PurePath": pathlib.PurePosixPath,
        "pathlib.PosixPath": pathlib.PurePosixPath,
        "pathlib.WindowsPath": pathlib.PureWindowsPath,
        "pathlib.PurePosixPath": pathlib.PurePosixPath,
        "pathlib.PureWindowsPath": pathlib.PureWindowsPath,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy._core.multiarray._reconstruct": lambda *_: array(),
        "numpy._core.numeric._frombuffer": _frombuffer,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _tensor_v3,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch._tensor._rebuild_from_type_v2": lambda make, kind, arguments, state: _tensor_of_type(
            make, arguments
        ),
        "torch.Size": lambda sides=(): tuple(sides),
        "torch.device": torch.device,
        "rfdetr.config.MultiScale": lambda value: value,  # upstream's enumerations: their values
        "rfdetr.config.AugmentationBackend": lambda value: value,
    }
    for dated in (
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
    ):
        calls[f"datetime.{dated.__name__}"] = dated
    for builtin in _PLAIN_BUILTINS:
        calls[f"builtins.{builtin.__name__}"] = partial(_builtin, builtin)
    names |= {name: _Call(function) for name, function in calls.items()}
    names |= {f"torch.{name}": _Storage(kind) for name, kind in _STORAGES.items()}
    names |= {f"torch.{name}": kind for name, kind in _DTYPES.items()}
    names |= {
        f"numpy.{kind.__name__}": _Marker(f"numpy.{kind.__name__}")
        for kind in set(np.sctypeDict.values())
    }
    return names


def _tensor_of_type(make: Any, arguments: tuple[Any, ...]) -> Tensor:
    if not isinstance(make, _Call) or make.function not in (_tensor, _tensor_v3):
        raise Foreign("torch._tensor._rebuild_from_type_v2")
    return make(*arguments)


def _builtin(kind: type, *parts: Any) -> Any:
    """A value of a plain builtin type; a number of bytes to reserve is not a value, and text is not
    made of other values.
    """
    if kind in (bytes, bytearray) and parts and isinstance(parts[0], int):
        raise Foreign(f"builtins.{kind.__name__} of a size")
    if kind is str and parts and not isinstance(parts[0], (str, bytes)):
        raise Foreign(f"builtins.str of {type(parts[0]).__name__}")
    if kind in (set, frozenset, dict) and parts:
        members = list(parts[0])
        _check_keys(
            members
            if kind is not dict or isinstance(parts[0], dict)
            else [key for key, _ in members]
        )
        return kind(members if not isinstance(parts[0], dict) else parts[0])
    return kind(*parts)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    """``numpy._core.numeric._frombuffer``: how protocol 5 writes an array."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array.value


if TYPE_CHECKING:

    class _PythonUnpickler:
        """What is used here of the standard library's unpickler in Python, which has no published
        types.
        """

        dispatch: ClassVar[dict[int, Callable[[Any], None]]]
        stack: list[Any]

        def __init__(self, stream: BinaryIO | _Bounded) -> None: ...
        def load(self) -> Any: ...
        def load_reduce(self) -> None: ...
        def load_newobj(self) -> None: ...
        def load_newobj_ex(self) -> None: ...
        def load_build(self) -> None: ...
        def load_setitem(self) -> None: ...
        def load_setitems(self) -> None: ...
        def load_additems(self) -> None: ...
        def load_dict(self) -> None: ...
        def load_frozenset(self) -> None: ...

else:
    _PythonUnpickler = pickle._Unpickler


class InertUnpickler(_PythonUnpickler):
    """``load_storage(key, dtype, numel)`` gives a flat tensor of the storage that a persistent id
    names.

    The standard library's unpickler in Python, because the one in C can neither bound what a pickle
    makes of itself (a table of memory as large as any number it names, a list copied a million
    times, keys that take for ever to hash) nor refuse a change of a tensor.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, stream: BinaryIO | _Bounded, load_storage: Callable[[str, torch.dtype, int], Tensor]
    ) -> None:
        super().__init__(stream)
        self.names = inert_names()
        self.load_storage = load_storage
        self.copied = 0

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; any other name raises :class:`Foreign`."""
        full = f"{_MOVED.get(module, module)}.{name}"
        if full not in self.names:
            raise Foreign(f"{module}.{name}")
        return self.names[full]

    def persistent_load(self, reference: Any) -> Tensor:
        """A storage: ("storage", type, key, device, number of elements)."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise ValueError("an unknown kind of persistent id")
        _, kind, key, _, numel = reference[:5]
        if not isinstance(kind, _Storage) or not isinstance(numel, int) or numel < 0:
            raise ValueError("a storage of an unknown type")
        return self.load_storage(str(key), kind.dtype, numel)

    def load_reduce(self) -> None:
        """A call: what it may copy is counted, and values that would be keys are looked at."""
        function, arguments = self.stack[-2:]
        if not isinstance(function, (_Call, type)) or not isinstance(arguments, tuple):
            raise Foreign(f"a call of {type(function).__name__}")
        self._count(arguments)
        super().load_reduce()

    def load_newobj(self) -> None:
        self._count(self.stack[-1])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        self._count([*self.stack[-2], *self.stack[-1].values()])
        super().load_newobj_ex()

    def load_obj(self) -> None:
        raise Foreign("an object of pickle protocol 1")

    load_inst = load_obj

    def load_build(self) -> None:
        """A state for an object: only those of :func:`inert_names` have one."""
        if not isinstance(self.stack[-2], (Fields, _Array, _Dtype, _Call, dict)):
            raise Foreign(f"a change of {type(self.stack[-2]).__name__}")
        if isinstance(self.stack[-2], dict):  # attributes of a dictionary, which nothing here reads
            self.stack.pop()
            return
        state = self.stack[-1]
        self._count(state if isinstance(state, (tuple, list)) else [state])
        super().load_build()

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[0::2])  # what stands since the mark
        super().load_setitems()

    def load_additems(self) -> None:
        _check_keys(self.stack)
        super().load_additems()

    def load_dict(self) -> None:
        _check_keys(self.stack[0::2])
        super().load_dict()

    def load_frozenset(self) -> None:
        _check_keys(self.stack)
        super().load_frozenset()

    def _count(self, parts: Any) -> None:
        """Bounds what calls copy: each may copy all of its arguments, and the same long value may
        be given to many.
        """
        self.copied += sum(
            len(part) for part in parts if hasattr(part, "__len__") and not isinstance(part, Tensor)
        )
        if self.copied > MOST_COPIED:
            raise ValueError("its values copy each other without end")

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.OBJ[0]: load_obj,
        pickle.INST[0]: load_inst,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.DICT[0]: load_dict,
        pickle.FROZENSET[0]: load_frozenset,
    }


def _check_keys(keys: Any) -> None:
    """Keys and members of sets: values that hash at once.

    A tuple of tuples of tuples may take for ever.
    """
    for key in keys:
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, (tuple, frozenset)):
                raise Foreign("a key that is nested")


def read_pickle(path: str | Path) -> Any:
    """What a PyTorch file holds, a zip archive or the sequence of pickles that came before (until
    PyTorch 1.5).

    A foreign name raises :class:`InputError` that names it; a damaged file, or another kind of
    file, too.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _finished(_read_archive(archive, path))
        with Path(path).open("rb") as stream:
            if stream.peek(2)[:2] == b"PK":
                raise ValueError("a zip archive without its end")
            return _finished(_read_sequence(stream, Path(path).stat().st_size))
    except Foreign as error:
        raise InputError(
            f"the file wants to load {error.name}, which is refused", path, RESAVE
        ) from None
    except _NotOurs as error:
        raise InputError(
            "not a checkpoint of tensors and plain values",
            path,
            "give a PyTorch or safetensors file",
        ) from error
    except _DAMAGED as error:
        raise InputError(
            f"corrupt checkpoint: {_first_line(error)}", path, "copy or download it again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


class _Bounded:
    """A file of which one pickle is read: at most MOST_PICKLE_BYTES."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.left = MOST_PICKLE_BYTES

    def _taken(self, found: bytes) -> bytes:
        self.left -= len(found)
        if self.left < 0:
            raise ValueError("the description of its tensors is too long")
        return found

    def read(self, count: int) -> bytes:
        return self._taken(self.stream.read(min(count, self.left + 1)))

    def readline(self) -> bytes:
        return self._taken(self.stream.readline(self.left + 1))


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
        return InertUnpickler(_Bounded(stream), load_storage).load()

    try:
        magic = load()
    except (*_DAMAGED, pickle.UnpicklingError) as error:
        raise _NotOurs from error
    if magic != _MAGIC:
        raise _NotOurs
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
    members = {member.filename: member for member in archive.infolist()}
    roots = [
        name[: -len("data.pkl")]
        for name in members
        if name == "data.pkl" or name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise _NotOurs
    root = roots[0]
    if (order := members.get(f"{root}byteorder")) is not None and _small(
        archive, order
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
        io.BytesIO(_small(archive, members[f"{root}data.pkl"])), load_storage
    ).load()


def _small(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Content of a member that holds no weights; one that is long once it is inflated is refused
    before that.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in an unusual way")
    with archive.open(member) as stream:
        content = stream.read(MOST_PICKLE_BYTES + 1)
    if len(content) > MOST_PICKLE_BYTES:
        raise ValueError("the description of its tensors is too long")
    return content


def _bytes_of(path: str | Path, member: zipfile.ZipInfo) -> Tensor:
    """Content of a stored member, uint8 (n,); its checksum is not looked at, because PyTorch may
    leave it out.
    """
    buffer = np.empty(member.file_size, dtype=np.uint8)
    with Path(path).open("rb") as stream:
        stream.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
        stream.seek(member.header_offset + 30 + name + extra)
        if stream.readinto(buffer.data) != member.file_size:
            raise ValueError("the file is cut short")
    return torch.from_numpy(buffer)


def _finished(value: Any) -> Any:
    """:func:`plain` of a value that is not larger written out than MOST_WRITTEN, and not part of
    itself.
    """
    _written(value, {})
    return plain(value)


def _written(value: Any, sizes: dict[int, int]) -> int:
    """Number of values in ``value`` written out: what is part of many others counts in each.
    ``sizes``: by identity.

    A few hundred bytes of pickle may hold a list of two lists of two lists, and so on: nobody could
    print or search that.
    """
    if isinstance(value, (str, bytes, bytearray)):
        return 1 + len(value) // 16
    if isinstance(value, Mapping):
        parts: Any = [*value.keys(), *value.values()]
    elif isinstance(value, Fields):
        parts = list(value.__dict__.values())
    elif isinstance(value, _Array):
        parts = [value.value]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    else:
        return 1
    if id(value) not in sizes:
        # until the size is known: of a value that is part of itself
        sizes[id(value)] = MOST_WRITTEN + 1
        sizes[id(value)] = 1 + sum(_written(part, sizes) for part in parts)
    if sizes[id(value)] > MOST_WRITTEN:
        raise ValueError("its values contain each other without end")
    return sizes[id(value)]


def plain(value: Any, known: dict[int, Any] | None = None) -> Any:
    """``value`` with finished NumPy arrays and dtypes in place of those in the making, at every
    depth of plain containers.

    ``known``: by identity what was visited already, for a value may be part of many others, and of
    itself.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)][1]
    if isinstance(value, _Dtype):
        return value.value
    if isinstance(value, _Array) and not isinstance(value.value, list):
        return value.value
    # the value itself is kept, so that its identity is not given to another one
    known[id(value)] = value, value
    if isinstance(value, _Array):
        known[id(value)] = value, plain(value.value, known)
    elif isinstance(value, Mapping):
        for key in list(value):
            value[key] = plain(value[key], known)  # type: ignore[index]
    elif isinstance(value, Fields):
        value.__dict__.update(
            {name: plain(one, known) for name, one in list(value.__dict__.items())}
        )
    elif isinstance(value, list):
        value[:] = [plain(one, known) for one in value]
    elif type(value) in (tuple, set, frozenset):
        known[id(value)] = value, type(value)(plain(one, known) for one in value)
    return known[id(value)][1]
