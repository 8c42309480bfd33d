"""Loads the compiled library and reports how it was built."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from .distribution import NAMESPACE, LibraryNotBuilt

# beside this package, or inside it where the operators are a distribution of their own
_FOLDER = Path(__file__).resolve().parent
_NAME = "librfdetr_ops.so"
LIBRARY = (_FOLDER if (_FOLDER / _NAME).is_file() else _FOLDER.parent) / _NAME


def load(path: Path) -> ctypes.CDLL:
    """Registers the operators of the library at ``path`` with PyTorch, and returns the handle with
    its plain C functions.

    Raises :class:`LibraryNotBuilt` where the file is missing or does not load.
    """
    if not path.is_file():
        raise LibraryNotBuilt("the compiled operators are not built", path)
    try:
        torch.ops.load_library(str(path))
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryNotBuilt(f"the compiled operators do not load ({error})", path) from error


HANDLE = load(LIBRARY)
OPERATORS: Any = getattr(torch.ops, NAMESPACE)


def build_info() -> dict[str, Any]:
    """How the loaded library was built: ``torch`` (version), ``cuda`` (bool), ``cuda_archs``
    (list), ``compiler``.

    ``isa`` is the instruction set that the attention kernels use on this processor; ``RFDETR_ISA``
    in the environment at the first call chooses another.
    """
    for name in ("rfdetr_build_info", "rfdetr_isa"):
        getattr(HANDLE, name).restype = ctypes.c_char_p
    torch_version, archs, compiler = HANDLE.rfdetr_build_info().decode().split("|")
    isa = HANDLE.rfdetr_isa().decode() or "unknown"
    return {
        "torch": torch_version,
        "cuda": bool(archs),
        "cuda_archs": archs.split(),
        "compiler": compiler,
        "isa": isa,
    }
