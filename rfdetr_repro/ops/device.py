"""The device that a command uses: stated, never guessed silently."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from rfdetr_repro.spec.errors import InputError

from . import build_info

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=torch.nn.Module)


def choose_device(name: str | None = None) -> torch.device:
    """The device called "cpu", "cuda" or "cuda:N". None chooses the GPU if there is one with
    operators built for it, else the CPU.

    Raises :class:`InputError` for an unknown or absent device, and for a GPU without operators.
    """
    built = build_info()
    kernels = built["cuda"]
    log.debug(
        f"device {name or 'not given'}: operators of {built['compiler']}, instruction set "
        f"{built['isa']}, {'with' if kernels else 'without'} CUDA kernels; "
        f"{'a' if torch.cuda.is_available() else 'no'} GPU; {torch.get_num_threads()} threads"
    )
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() and kernels else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}", hint="choose cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"no device {name!r} on this machine", hint="choose cpu, or leave the device out"
        )
    if device.type == "cuda" and not kernels:
        raise InputError(
            "the operators were built for the CPU only",
            hint="build the operators on a machine with nvcc, or choose cpu",
        )
    return device


def to_device(module: Module, name: str | None) -> Module:
    """The module on the device that :func:`choose_device` returns for ``name``.

    On a GPU this switches TF32 off for the whole process: convolutions round to TF32 by default,
    and the search's shared passes would differ from stand-alone passes.
    """
    device = choose_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return module.to(device)


@contextmanager
def products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Makes float32 products and convolutions on a GPU round to TF32, or keeps them exact, while
    the block runs; the previous settings are restored, whichever of PyTorch's two interfaces made
    them. On the CPU nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    before = _Products.now()
    # The older interface keeps all settings consistent; where they disagree, torch.compile and
    # torch.get_float32_matmul_precision raise.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        before.restore()


_BACKENDS: Any = torch.backends  # whose newer settings have no types


class _Products(NamedTuple):
    """Settings of float32 products: by the older interface, then by the newer one."""

    word: str  # of torch.get_float32_matmul_precision
    convolution_allowed: bool
    matmul: str  # "tf32", "ieee" or "none", which inherits
    convolution: str
    recurrent: str
    on_cpu: str

    @classmethod
    def now(cls) -> _Products:
        """The settings of this process. The getters of the older interface raise where the newer
        one was set to something else; the older value is then the opposite of the newer one.
        """
        backends = _BACKENDS
        matmul = backends.cuda.matmul.fp32_precision
        convolution = backends.cudnn.conv.fp32_precision
        word = "highest" if matmul == "tf32" else "high"
        convolution_allowed = convolution != "tf32"
        with suppress(RuntimeError):
            word = torch.get_float32_matmul_precision()
        with suppress(RuntimeError):
            convolution_allowed = backends.cudnn.allow_tf32
        recurrent = backends.cudnn.rnn.fp32_precision
        on_cpu = backends.mkldnn.matmul.fp32_precision
        return cls(word, convolution_allowed, matmul, convolution, recurrent, on_cpu)

    def restore(self) -> None:
        """Makes these the settings of this process again."""
        backends = _BACKENDS
        torch.set_float32_matmul_precision(self.word)
        backends.cudnn.allow_tf32 = self.convolution_allowed
        backends.cuda.matmul.fp32_precision = self.matmul
        backends.cudnn.conv.fp32_precision = self.convolution
        backends.cudnn.rnn.fp32_precision = self.recurrent
        backends.mkldnn.matmul.fp32_precision = self.on_cpu


def has_tf32(device: torch.device) -> bool:
    """Whether the device has tensor cores for TF32: GPUs of compute capability 8.0 or more."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Lets PyTorch's operators use ``count`` threads while the block runs, then restores the
    previous number. Setting the number takes less than a microsecond.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the CPU did not have the memory that PyTorch asked for; the error of a
    CPU has no type of its own.
    """
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def named(device: torch.device) -> str:
    """The name of the device, to print."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )


def peak_bytes(device: torch.device) -> int:
    """Largest amount of memory in bytes that PyTorch has used on a GPU, or that this process has
    used, so far.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def available_bytes(device: torch.device, cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Memory that this process can still take: on a GPU its free memory and what PyTorch keeps in
    reserve there, on the CPU what Linux counts as available, within the limit of ``cgroup``.

    Raises :class:`InputError` where the operating system does not state it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError) as error:
        raise InputError("this system does not state its available memory") from error
    available = int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):  # no cgroup of version 2, or "max": no limit
        limit = int(Path(cgroup, "memory.max").read_text(encoding="ascii"))
        used = int(Path(cgroup, "memory.current").read_text(encoding="ascii"))
        available = min(available, max(0, limit - used))
    return available
