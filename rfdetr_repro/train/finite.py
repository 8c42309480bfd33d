"""Whether the losses and the gradient of a step are finite: computed on the device, known to the
program one step later, so that no step waits for the answer.

Until the answer is known nothing is saved or evaluated, and the optimizer has left the weights as
they were where the answer is no.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .parts import LossParts
from .recipe import Pass


@dataclass(frozen=True)
class Passed:
    """A pass of a step: its losses, its architecture and the number of its micro-batch."""

    parts: LossParts
    arch: Pass
    micro: int


@dataclass(frozen=True)
class Unread:
    """The losses of the passes of a step and the norm of its gradient, on their way to this
    process.
    """

    step: int
    passes: Sequence[Passed]
    _numbers: Tensor
    _copied: torch.cuda.Event | None

    @classmethod
    def of(cls, step: int, passes: Sequence[Passed], norm: Tensor) -> tuple[Unread, Tensor]:
        """The numbers of a step, and whether one of them is not finite: 1 or 0, as a scalar float32
        on the device of ``norm``.
        """
        losses = [one.parts.values_on_device[0] for one in passes]  # "loss" is the first
        numbers = torch.stack([*losses, norm.detach()]).float()
        broken = (~numbers.isfinite()).any().float()
        if numbers.device.type != "cuda":
            return cls(step, passes, numbers, None), broken
        here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        here.copy_(numbers, non_blocking=True)
        copied = torch.cuda.current_stream(numbers.device).record_event()
        return cls(step, passes, here, copied), broken

    def fault(self) -> tuple[str, list[Passed]] | None:
        """What is not finite, "loss" or "gradient", and in which passes; None if all is finite."""
        if self._copied is not None:
            self._copied.synchronize()
        *losses, norm = self._numbers.tolist()
        for loss, one in zip(losses, self.passes, strict=True):
            if not math.isfinite(loss):
                return "loss", [one]
        return None if math.isfinite(norm) else ("gradient", list(self.passes))
