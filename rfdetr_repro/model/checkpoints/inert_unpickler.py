"""Runs a pickle with inert names only: nothing it names is imported, and calls are bounded.

Whatever a pickle names outside :func:`.inert_values.inert_names` is refused by its name, before
anything is imported.
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

MOST_PICKLE_BYTES = 2**26  # of the description of tensors and values, which holds no weights
MOST_COPIED = 2**25  # bytes and elements that calls in a pickle may copy, all together
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
        """What is used here of the standard library's unpickler in Python, which has no published
        types.
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
    """``load_storage(key, dtype, numel)`` gives a flat tensor of the storage that a persistent id
    names.

    The standard library's unpickler in Python, because the one in C can neither bound what a pickle
    makes of itself (a table of memory as large as any number it names, a list copied a million
    times, keys that take for ever to hash) nor refuse a change of a tensor.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, stream: BinaryIO | Bounded, load_storage: Callable[[str, torch.dtype, int], Tensor]
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
        if not isinstance(kind, StorageType) or not isinstance(numel, int) or numel < 0:
            raise ValueError("a storage of an unknown type")
        return self.load_storage(str(key), kind.dtype, numel)

    def load_reduce(self) -> None:
        """A call: what it may copy is counted, and values that would be keys are looked at."""
        function, arguments = self.stack[-2:]
        if not isinstance(function, (InertCall, type)) or not isinstance(arguments, tuple):
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
        if not isinstance(self.stack[-2], (Fields, InertArray, InertDtype, InertCall, dict)):
            raise Foreign(f"a change of {type(self.stack[-2]).__name__}")
        if isinstance(self.stack[-2], dict):  # attributes of a dictionary, which nothing here reads
            self.stack.pop()
            return
        state = self.stack[-1]
        self._count(state if isinstance(state, (tuple, list)) else [state])
        super().load_build()

    def load_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        check_keys(self.stack[0::2])  # what stands since the mark
        super().load_setitems()

    def load_additems(self) -> None:
        check_keys(self.stack)
        super().load_additems()

    def load_dict(self) -> None:
        check_keys(self.stack[0::2])
        super().load_dict()

    def load_frozenset(self) -> None:
        check_keys(self.stack)
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


class Bounded:
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
