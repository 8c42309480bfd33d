"""Inert values for the names in the pickle of a PyTorch file: plain data, and nothing that runs.

A pickle is a small program: it may look up any importable name and call it. Here a name is looked
up in :func:`inert_names` and nowhere else. The values there are plain data (paths, dates, NumPy
scalars and arrays, namespaces, tensors) or make plain data. Each file gets new types, so that no
file can alter what the next file gets.
"""

from __future__ import annotations

import collections
import datetime
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
MOST_WRITTEN = 2**22  # limit of values; a value counts once for every value that contains it
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


class Foreign(Exception):
    """A pickle names something outside :func:`inert_names`."""

    def __init__(self, name: str) -> None:
        """``name`` is the refused name."""
        super().__init__(name)
        self.name = name


class Fields:
    """Attributes without behaviour, in place of ``argparse.Namespace``, ``types.SimpleNamespace``
    and configuration objects.
    """

    def __init__(self, *_: Any, **fields: Any) -> None:
        """An object with these attributes."""
        self.__dict__.update(fields)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            self.__dict__.update(
                {str(name): value for name, value in part.items()} if isinstance(part, dict) else {}
            )


class InertDtype:
    """A NumPy dtype under construction; :attr:`value` is None for a dtype of objects or fields."""

    def __init__(self, text: Any = "", *_: Any) -> None:
        """``text`` is NumPy's short name of the type, like "f4"."""
        self.text = text if isinstance(text, str) else ""
        self.order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if len(state) > 1 and state[1] in ("<", ">", "=", "|") else "|"

    @property
    def value(self) -> np.dtype[Any] | None:
        """The dtype, or None if it is not plain."""
        text = self.order.replace("|", "") + self.text.lstrip("<>|=")
        return np.dtype(text) if _PLAIN_DTYPE.fullmatch(text) else None


class InertArray:
    """A NumPy array under construction; :func:`plain` replaces it with its array."""

    def __init__(self, *_: Any) -> None:
        """An array whose content follows as its state."""
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        kind = dtype.value if isinstance(dtype, InertDtype) else None
        if kind is None or not isinstance(data, (bytes, bytearray)):
            self.value = data  # an array of objects, whose elements are inert too
            return
        flat = np.frombuffer(bytes(data), dtype=kind)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Marker:
    """A name that is mentioned but never used, such as ``numpy.float64`` as a type."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class StorageType:
    """Type of a storage, which a persistent id refers to by name."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Storages with elements of ``dtype``."""
        self.dtype = dtype


class InertCall:
    """A function that a pickle may call and may not change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        """Calls ``function``."""
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function with ``arguments``."""
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Foreign("a change of a function")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    kind = dtype.value if isinstance(dtype, InertDtype) else None
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
    """``torch._utils._rebuild_tensor_v2``: a view of a storage, with checked bounds."""
    if not isinstance(storage, Tensor):
        raise ValueError("a tensor without a storage")
    sides = [int(side) for side in size]
    steps = [int(step) for step in stride]
    if math.prod(sides) > storage.numel():  # tensors of weights do not share elements
        raise ValueError("a tensor is larger than its storage")
    last = int(offset) + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
    if min([int(offset), *sides, *steps]) < 0 or (0 not in sides and last >= storage.numel()):
        raise ValueError("a tensor lies outside its storage")
    return storage.as_strided(sides, steps, int(offset))


def _tensor_v3(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Like :func:`_tensor`, over an untyped storage; the type follows."""
    dtype = next((one for one in rest if isinstance(one, torch.dtype)), None)
    if not isinstance(storage, Tensor) or dtype is None:
        raise ValueError("a tensor without a storage or type")
    return _tensor(storage.view(dtype), offset, size, stride)


def inert_names() -> dict[str, Any]:
    """Dotted name in a pickle -> inert value; made anew for each file."""
    namespace, settings, dictionary = (
        type(name, (Fields,), {}) for name in ("Namespace", "Settings", "Object")
    )
    attributes = type("AttributeDict", (dict,), {})
    dtype = type("dtype", (InertDtype,), {})
    array = type("ndarray", (InertArray,), {})
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
        "torch.storage.UntypedStorage": StorageType(torch.uint8),
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
    names |= {name: InertCall(function) for name, function in calls.items()}
    names |= {f"torch.{name}": StorageType(kind) for name, kind in _STORAGES.items()}
    names |= {f"torch.{name}": kind for name, kind in _DTYPES.items()}
    names |= {
        f"numpy.{kind.__name__}": _Marker(f"numpy.{kind.__name__}")
        for kind in set(np.sctypeDict.values())
    }
    return names


def _tensor_of_type(make: Any, arguments: tuple[Any, ...]) -> Tensor:
    if not isinstance(make, InertCall) or make.function not in (_tensor, _tensor_v3):
        raise Foreign("torch._tensor._rebuild_from_type_v2")
    return make(*arguments)


def _builtin(kind: type, *parts: Any) -> Any:
    """A value of a plain builtin type. Raises :class:`Foreign` for bytes of a given length, and for
    text made from other values.
    """
    if kind in (bytes, bytearray) and parts and isinstance(parts[0], int):
        raise Foreign(f"builtins.{kind.__name__} of a size")
    if kind is str and parts and not isinstance(parts[0], (str, bytes)):
        raise Foreign(f"builtins.str of {type(parts[0]).__name__}")
    if kind in (set, frozenset, dict) and parts:
        members = list(parts[0])
        check_keys(
            members
            if kind is not dict or isinstance(parts[0], dict)
            else [key for key, _ in members]
        )
        return kind(members if not isinstance(parts[0], dict) else parts[0])
    return kind(*parts)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    """``numpy._core.numeric._frombuffer``: how protocol 5 writes an array."""
    array = InertArray()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array.value


def check_keys(keys: Any) -> None:
    """Raises :class:`Foreign` for keys, or members of sets, that may take long to hash, because a
    tuple of tuples of tuples may take for ever.
    """
    for key in keys:
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, (tuple, frozenset)):
                raise Foreign("a key that is nested")


def finished(value: Any) -> Any:
    """:func:`plain` of a value. Raises ValueError for a value that is part of itself, or has more
    than MOST_WRITTEN parts when written out.
    """
    _written(value, {})
    return plain(value)


def _written(value: Any, sizes: dict[int, int]) -> int:
    """Number of values in ``value`` written out; a value that is part of many others counts in
    each. ``sizes``: by identity.

    A few hundred bytes of pickle may hold a list of two lists of two lists, and so on, which could
    be neither printed nor searched.
    """
    if isinstance(value, (str, bytes, bytearray)):
        return 1 + len(value) // 16
    if isinstance(value, Mapping):
        parts: Any = [*value.keys(), *value.values()]
    elif isinstance(value, Fields):
        parts = list(value.__dict__.values())
    elif isinstance(value, InertArray):
        parts = [value.value]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    else:
        return 1
    if id(value) not in sizes:
        # until the size is known; stays for a value that is part of itself
        sizes[id(value)] = MOST_WRITTEN + 1
        sizes[id(value)] = 1 + sum(_written(part, sizes) for part in parts)
    if sizes[id(value)] > MOST_WRITTEN:
        raise ValueError("its values contain each other without end")
    return sizes[id(value)]


def plain(value: Any, known: dict[int, Any] | None = None) -> Any:
    """``value`` with NumPy arrays and dtypes in place of those under construction, at every depth
    of plain containers.

    ``known``: values visited already, by identity, since a value may be part of many others, and of
    itself.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)][1]
    if isinstance(value, InertDtype):
        return value.value
    if isinstance(value, InertArray) and not isinstance(value.value, list):
        return value.value
    # the value itself is kept, so that its identity is not reused for another value
    known[id(value)] = value, value
    if isinstance(value, InertArray):
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
