"""Data-parallel ranks: each takes its part of every micro-batch, sums are exchanged, all hold the same weights.

What is exchanged are sums (loss denominators, gradients, logged losses), so a step over N ranks is the step one process would
take on the whole batch, up to the order of additions. Needs nothing but ``torch.distributed``'s default group; without one it is
rank 0 of 1 and every call here is free.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError


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
        """This rank's consecutive share of ``count`` items; the first ranks take one more where it does not divide."""
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

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Adds every ``.grad`` over all ranks, in one exchange. A parameter without gradient on every rank keeps none."""
        if self.size == 1:
            return
        present = torch.tensor([parameter.grad is not None for parameter in parameters])
        pieces = [(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in parameters]
        flat = torch.cat([*pieces, present.to(pieces[0])])
        dist.all_reduce(flat)
        *summed, users = flat.split([piece.numel() for piece in pieces] + [len(parameters)])
        for parameter, gradient, used in zip(parameters, summed, users.tolist(), strict=True):
            if used:
                parameter.grad = gradient.view_as(parameter).to(parameter.dtype)


def join_torchrun(device: str) -> tuple[torch.device, Ranks]:
    """(this process's device, its place), after joining the group that ``torchrun`` started this process for, if it did.

    ``device`` "cpu" or "cuda"; several processes of one machine take one GPU each. No GPU: :class:`InputError`.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} of this machine finds {torch.cuda.device_count()} GPUs", mend="use --device cpu")
        torch.cuda.set_device(local)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return torch.device(device, local) if device == "cuda" else torch.device(device), Ranks.current()
