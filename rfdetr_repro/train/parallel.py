"""Data-parallel ranks: each takes its part of every micro-batch, sums are exchanged, all hold the
same weights.

What is exchanged are sums (loss denominators, gradients, logged losses), so a step over N ranks is
the step one process would take on the whole batch, up to the order of additions. Needs nothing but
``torch.distributed``'s default group; without one it is rank 0 of 1 and every call here is free.
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

# the others wait while rank 0 evaluates; NCCL's own 10 minutes would end them
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Of the default process group; (0, 1) without one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def part(self, count: int) -> slice:
        """This rank's consecutive share of ``count`` items; the first ranks take one more where it
        does not divide.
        """
        share, more = divmod(count, self.size)
        start = self.rank * share + min(self.rank, more)
        return slice(start, start + share + (self.rank < more))

    def sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Element by element over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def agree(self, what: str) -> bool:
        """Whether all ranks hold the same text."""
        if self.size == 1:
            return True
        texts: list[str | None] = [None] * self.size
        dist.all_gather_object(texts, what)
        return len(set(texts)) == 1

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Adds every ``.grad`` over all ranks, in one exchange.

        A parameter without gradient on every rank keeps none.
        """
        if self.size == 1:
            return
        present = torch.tensor([parameter.grad is not None for parameter in parameters])
        pieces = [
            (torch.zeros_like(one) if one.grad is None else one.grad).flatten()
            for one in parameters
        ]
        flat = torch.cat([*pieces, present.to(pieces[0])])
        dist.all_reduce(flat)
        *summed, users = flat.split([piece.numel() for piece in pieces] + [len(parameters)])
        for parameter, gradient, used in zip(parameters, summed, users.tolist(), strict=True):
            if used:
                parameter.grad = gradient.view_as(parameter).to(parameter.dtype)


def join_torchrun(name: str | None) -> tuple[torch.device, Ranks]:
    """(this process's device, its place), after joining the group that ``torchrun`` started this
    process for, if it did.

    ``name`` "cpu", "cuda" or None (see :func:`choose_device`); several processes of one machine
    take one GPU each.
    """
    device = choose_device(name)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs",
                hint="start fewer",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        # Asked before, because a failed init would leave PyTorch counting its groups differently
        # from the other processes.
        if missing := [
            name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
        ]:
            raise InputError(
                f"WORLD_SIZE is set, but not {', '.join(missing)}",
                hint="start by torchrun, or unset it",
            )
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device, Ranks.current()
