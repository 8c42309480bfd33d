"""Which device a command uses: said, never guessed in silence."""

from __future__ import annotations

import torch

from .errors import InputError
from .ops import build_info


def choose_device(name: str | None = None) -> torch.device:
    """The device called "cpu", "cuda" or "cuda:N"; None: the GPU if there is one and the operators know it, else the CPU.

    An unknown or absent device, and a GPU without operators for it, are :class:`InputError`.
    """
    kernels = build_info()["cuda"]
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() and kernels else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}", mend="choose cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"no device {name!r} on this machine", mend="choose cpu, or leave it out")
    if device.type == "cuda" and not kernels:
        raise InputError("the operators were built for the CPU only", mend="build them where nvcc is, or choose cpu")
    return device
