"""Loads the compiled library and says what it was built with."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError

LIBRARY = Path(__file__).resolve().parents[1] / "librfdetr_ops.so"


class LibraryNotBuilt(InputError, ImportError):
    """The compiled library is missing or cannot be loaded."""


def load(path: Path) -> ctypes.CDLL:
    mend = "build it from the repository with: pip install --no-build-isolation -e ."
    if not path.is_file():
        raise LibraryNotBuilt("the compiled operators are not built", path, mend)
    try:
        torch.ops.load_library(str(path))
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryNotBuilt(f"the compiled operators do not load ({error})", path, mend) from error


HANDLE = load(LIBRARY)


def build_info() -> dict[str, Any]:
    """What the loaded library was built with: ``torch`` (version), ``cuda`` (bool), ``cuda_archs`` (list), ``compiler``.

    And ``isa``: the instruction set its attention kernels use on this processor; ``RFDETR_ISA`` in the environment at the first
    call chooses another.
    """
    for name in ("rfdetr_build_info", "rfdetr_isa"):
        getattr(HANDLE, name).restype = ctypes.c_char_p
    torch_version, archs, compiler = HANDLE.rfdetr_build_info().decode().split("|")
    isa = HANDLE.rfdetr_isa().decode() or "unknown"
    return {"torch": torch_version, "cuda": bool(archs), "cuda_archs": archs.split(), "compiler": compiler, "isa": isa}
