"""Which device a command uses: said, never guessed in silence."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from rfdetr_repro.spec.errors import InputError

from . import build_info

Module = TypeVar("Module", bound=torch.nn.Module)


def choose_device(name: str | None = None) -> torch.device:
    """The device called "cpu", "cuda" or "cuda:N"; None: the GPU if there is one and the operators
    know it, else the CPU.

    An unknown or absent device, and a GPU without operators for it, are :class:`InputError`.
    """
    kernels = build_info()["cuda"]
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() and kernels else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}", hint="choose cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(f"no device {name!r} on this machine", hint="choose cpu, or leave it out")
    if device.type == "cuda" and not kernels:
        raise InputError(
            "the operators were built for the CPU only",
            hint="build them where nvcc is, or choose cpu",
        )
    return device


def to_device(module: Module, name: str | None) -> Module:
    """The module on :func:`choose_device` of ``name``, to be evaluated there.

    On a GPU float32 stays float32 from here on: by default convolutions round to TF32, and the
    search's shared passes would differ from stand-alone ones.
    """
    device = choose_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return module.to(device)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, PyTorch's operators use ``count`` threads; afterwards as many as before.

    Setting takes less than a microsecond.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def named(device: torch.device) -> str:
    """The device in words, for people."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )


def peak_bytes(device: torch.device) -> int:
    """Most memory that PyTorch has had on a GPU, or that this process has had, so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
