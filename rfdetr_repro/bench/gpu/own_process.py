"""Which of the process ids that NVML lists on a GPU is this process.

NVML names processes as the machine's first pid namespace does. A process in a container with a pid
namespace of its own has another id there, and its number inside can be that of a stranger outside.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# inode of the namespace in which Linux starts (PROC_PID_INIT_INO)
FIRST_NAMESPACE = 0xEFFFFFFC
APPEARS_S = 1.0  # time within which NVML lists a process that has opened a context
LOOK_S = 0.02


def own_pids(
    listed: Callable[[], set[int]],
    *,
    namespace: str | Path = "/proc/self/ns/pid",
    library: Any = None,
    index: int = 0,
) -> frozenset[int] | None:
    """This process among those that ``listed`` returns; None where that cannot be told.

    In another pid namespace than the first, a CUDA context is opened for a moment: the process id
    that appears is our own. That needs a process without a context, and no other process that
    opens its first context in the same moment. ``index``: of the device, among those that CUDA
    shows.
    """
    pid = os.getpid()
    before = listed()
    if _in_first_namespace(namespace):
        return frozenset({pid})
    appeared = _appearing(listed, before, library, index)
    return frozenset(appeared) if len(appeared) == 1 else None


def _in_first_namespace(namespace: str | Path) -> bool:
    try:
        return Path(namespace).stat().st_ino == FIRST_NAMESPACE
    except OSError:
        return False


def _appearing(
    listed: Callable[[], set[int]], before: set[int], library: Any, index: int
) -> set[int]:
    """The processes that NVML lists in addition once a context of device ``index`` is open."""
    try:
        cuda = library or ctypes.CDLL("libcuda.so.1")
    except OSError:
        return set()
    device = ctypes.c_int()
    context = ctypes.c_void_p()
    if (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    ):
        return set()
    try:
        until = time.monotonic() + APPEARS_S
        while not (appeared := listed() - before) and time.monotonic() < until:
            time.sleep(LOOK_S)
        return appeared
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)
