"""Data-parallel ranks: each processes its part of every micro-batch, sums are exchanged, and all
hold the same weights.

Loss denominators, gradients and logged losses are exchanged as sums, so training with N processes
performs the same optimizer step as one process on the whole batch, up to the order of additions.
Needs only ``torch.distributed``'s default group, with a backend for tensors on the CPU
(``cpu:gloo,cuda:nccl``); without a group this process is rank 0 of 1, and every call here is free.
Numbers that a program knows without the GPU are exchanged by the hosts
(gloo), so that no step waits for the GPU to learn them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from rfdetr_repro.ops.device import choose_device
from rfdetr_repro.spec.errors import InputError

# other ranks wait while rank 0 evaluates; NCCL's default of 10 minutes would end them
PATIENCE = timedelta(days=1)
ON_HOSTS = "gloo"
ON_GPUS = "cpu:gloo,cuda:nccl"  # each for the tensors that lie there


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The place in the default process group; (0, 1) without a group. Raises
        :class:`InputError` for a group that cannot exchange tensors on the CPU.
        """
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        found = cls(dist.get_rank(), dist.get_world_size())
        backends = dist.get_backend_config()  # like "cpu:gloo,cuda:nccl"
        on_cpu = any(pair.startswith("cpu:") for pair in backends.split(","))
        if found.size > 1 and not on_cpu:
            raise InputError(
                f"the torch.distributed group has no backend for tensors on the CPU ({backends}), "
                f"which the processes exchange too",
                hint=f'call init_process_group("{ON_GPUS}")',
            )
        return found

    def part(self, count: int) -> slice:
        """This rank's consecutive share of ``count`` items; the first ranks get one item more where
        ``count`` is not divisible.
        """
        share, more = divmod(count, self.size)
        start = self.rank * share + min(self.rank, more)
        return slice(start, start + share + (self.rank < more))

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums numbers of this process over all ranks, element by element, in float64; does not
        wait for a GPU.
        """
        if self.size == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    @torch.no_grad()
    def total(self, values: Tensor, device: torch.device) -> Tensor:
        """Sums over all ranks, element by element, in float64, which stay on ``device``."""
        if self.size == 1:
            return values
        total = values.to(device, torch.float64)
        dist.all_reduce(total)
        return total

    def agree(self, what: str) -> bool:
        """Whether all ranks have the same text ``what``."""
        if self.size == 1:
            return True
        texts: list[str | None] = [None] * self.size
        dist.all_gather_object(texts, what)
        return len(set(texts)) == 1

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Adds every ``.grad`` over all ranks, in one exchange of the devices; does not wait for a
        GPU.

        A parameter without gradient on every rank keeps no gradient.
        """
        if self.size == 1:
            return
        users = self.sum([parameter.grad is not None for parameter in parameters])
        pieces = [
            (torch.zeros_like(one) if one.grad is None else one.grad).flatten()
            for one in parameters
        ]
        flat = torch.cat(pieces)
        dist.all_reduce(flat)
        summed = flat.split([piece.numel() for piece in pieces])
        for parameter, gradient, used in zip(parameters, summed, users, strict=True):
            if used:
                parameter.grad = gradient.view_as(parameter).to(parameter.dtype)


def join_torchrun(name: str | None) -> tuple[torch.device, Ranks]:
    """This process's device and place, after joining the group if ``torchrun`` started this
    process.

    ``name`` is "cpu", "cuda" or None (see :func:`choose_device`); several processes of one machine
    use one GPU each. Raises :class:`InputError` for more processes than GPUs, and for an incomplete
    environment.
    """
    device = choose_device(name)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs",
                hint="start fewer processes",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        # Checked first, because after a failed init PyTorch would count its groups differently from
        # the other processes.
        if missing := [
            name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
        ]:
            raise InputError(
                f"WORLD_SIZE is set, but not {', '.join(missing)}",
                hint="start the processes by torchrun, or unset WORLD_SIZE",
            )
        backend = ON_GPUS if device.type == "cuda" else ON_HOSTS
        dist.init_process_group(backend, timeout=PATIENCE)
    return device, Ranks.current()
