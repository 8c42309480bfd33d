"""Runs a pickle with inert names only: nothing that the pickle names is imported, and calls are
bounded.

A name outside :func:`.inert_values.inert_names` is refused before anything is imported.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from .inert_values import (
    Fields,
    Foreign,
    InertArray,
    InertCall,
    InertDtype,
    StorageType,
    check_keys,
    inert_names,
)

MOST_PICKLE_BYTES = 2**26  # limit of the description of tensors and values, which holds no weights
MOST_COPIED = 2**25  # bytes and elements that all calls in a pickle together may copy
# Python 2's names of modules, which pickle protocols below 3 use, and where NumPy and pathlib
# moved.
_MOVED = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "pathlib._local": "pathlib",
}

if TYPE_CHECKING:

    class _PythonUnpickler:
        """The part of the standard library's unpickler in Python that is used here; the library
        publishes no types.
        """

        dispatch: ClassVar[dict[int, Callable[[Any], None]]]
        stack: list[Any]

        def __init__(self, stream: BinaryIO | Bounded) -> None: ...
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
    """``load_storage(key, dtype, numel)`` returns a flat tensor of the storage that a persistent id
    names.

    The base is the standard library's unpickler in Python, because its unpickler in C can neither
    bound what a pickle makes of itself (a memo table as large as any number in the pickle, a list
    copied a million times, keys that take for ever to hash) nor refuse a change of a tensor.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, stream: BinaryIO | Bounded, load_storage: Callable[[str, torch.dtype, int], Tensor]
    ) -> None:
        """Reads the pickle in ``stream``."""
        super().__init__(stream)
        self.names = inert_names()
        self.load_storage = load_storage
        self.copied = 0

    def find_class(self, module: str, name: str) -> Any:
        """The inert value for a name. Raises :class:`Foreign` for any other name."""
        full = f"{_MOVED.get(module, module)}.{name}"
        if full not in self.names:
            raise Foreign(f"{module}.{name}")
        return self.names[full]

    def persistent_load(self, reference: Any) -> Tensor:
        """The storage that ("storage", type, key, device, number of elements) refers to."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise ValueError("an unknown kind of persistent id")
        _, kind, key, _, numel = reference[:5]
        if not isinstance(kind, StorageType) or not isinstance(numel, int) or numel < 0:
            raise ValueError("a storage of an unknown type")
        return self.load_storage(str(key), kind.dtype, numel)

    def load_reduce(self) -> None:
        """A call: counts what the call may copy, and refuses anything that is not an inert
        function.
        """
        function, arguments = self.stack[-2:]
        if not isinstance(function, (InertCall, type)) or not isinstance(arguments, tuple):
            raise Foreign(f"a call of {type(function).__name__}")
        self._count(arguments)
        super().load_reduce()

    def load_newobj(self) -> None:
        """A new object: counts what its arguments may copy."""
        self._count(self.stack[-1])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        """A new object with keyword arguments: counts what the arguments may copy."""
        self._count([*self.stack[-2], *self.stack[-1].values()])
        super().load_newobj_ex()

    def load_obj(self) -> None:
        """Refuses objects of pickle protocol 1."""
        raise Foreign("an object of pickle protocol 1")

    load_inst = load_obj

    def load_build(self) -> None:
        """A state for an object: only values of :func:`inert_names` have a state."""
        if not isinstance(self.stack[-2], (Fields, InertArray, InertDtype, InertCall, dict)):
            raise Foreign(f"a change of {type(self.stack[-2]).__name__}")
        if isinstance(self.stack[-2], dict):  # attributes of a dictionary, which are not used here
            self.stack.pop()
            return
        state = self.stack[-1]
        self._count(state if isinstance(state, (tuple, list)) else [state])
        super().load_build()

    def load_setitem(self) -> None:
        """An entry of a dictionary, whose key is checked."""
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Entries of a dictionary, whose keys are checked."""
        check_keys(self.stack[0::2])  # everything since the mark
        super().load_setitems()

    def load_additems(self) -> None:
        """Members of a set, which are checked like keys."""
        check_keys(self.stack)
        super().load_additems()

    def load_dict(self) -> None:
        """A dictionary, whose keys are checked."""
        check_keys(self.stack[0::2])
        super().load_dict()

    def load_frozenset(self) -> None:
        """A frozen set, whose members are checked like keys."""
        check_keys(self.stack)
        super().load_frozenset()

    def _count(self, parts: Any) -> None:
        """Bounds what calls copy: each call may copy all of its arguments, and many calls may get
        the same long value.
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


class Bounded:
    """A file from which one pickle of at most MOST_PICKLE_BYTES is read."""

    def __init__(self, stream: BinaryIO) -> None:
        """Reads from ``stream`` at its position."""
        self.stream = stream
        self.left = MOST_PICKLE_BYTES

    def _taken(self, found: bytes) -> bytes:
        self.left -= len(found)
        if self.left < 0:
            raise ValueError("the description of its tensors is too long")
        return found

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes. Raises ValueError beyond the limit."""
        return self._taken(self.stream.read(min(count, self.left + 1)))

    def readline(self) -> bytes:
        """One line. Raises ValueError beyond the limit."""
        return self._taken(self.stream.readline(self.left + 1))
