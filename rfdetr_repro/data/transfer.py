"""Batches on their way to a GPU: the next batches are copied while the GPU computes.

On the CPU nothing is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Protocol, TypeVar

import torch

from rfdetr_repro.ops.device import ran_out_of_memory
from rfdetr_repro.spec.errors import InputError

from .transforms import Batch

log = logging.getLogger(__name__)
MOST_AHEAD = 1 << 30  # bytes of images that wait on the GPU; those beyond are copied when used

Begun = TypeVar("Begun")


class Copies(Protocol[Begun]):
    """How batches get to a device."""

    def begin(self, batches: list[Batch]) -> Begun:
        """Begins to copy, without waiting."""

    def end(self, begun: Begun) -> list[Batch]:
        """The batches, whose copies are complete for what the GPU is told from now on."""


class CudaCopies:
    """Copies in a stream of their own, from pinned memory."""

    def __init__(self, device: torch.device, most: int = MOST_AHEAD) -> None:
        """To ``device``; ``most``: bytes of images that are copied ahead of their use."""
        self.device = device
        self.most = most
        self._stream = torch.cuda.Stream(device)

    def begin(self, batches: list[Batch]) -> tuple[list[Batch], torch.cuda.Event]:
        """Begins to copy the first batches of the list, up to ``most`` bytes and as long as the
        memory of the device suffices; a batch that the list holds twice is copied once. The other
        batches stay as they are, and whoever uses them copies them.
        """
        moved: dict[int, Batch] = {}
        free = self.most
        with torch.cuda.stream(self._stream):
            for batch in batches:
                if id(batch) in moved:
                    continue
                free -= batch.nbytes
                ahead = self._copy(batch) if free >= 0 else None
                free = -1 if ahead is None else free
                moved[id(batch)] = batch if ahead is None else ahead
        return [moved[id(batch)] for batch in batches], self._stream.record_event()

    def _copy(self, batch: Batch) -> Batch | None:
        """The batch on the device; None without memory for it, because a step that still runs may
        hold the memory that is free when the batch is used.
        """
        try:
            return batch.to(self.device)
        except (RuntimeError, InputError) as error:
            if not ran_out_of_memory(error.__cause__ or error):
                raise
        log.debug("a batch is copied when it is used, for lack of memory to copy it earlier")
        return None

    def end(self, begun: tuple[list[Batch], torch.cuda.Event]) -> list[Batch]:
        """Makes the current stream wait for the copies, and keeps their memory until that stream
        has used it.
        """
        batches, copied = begun
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(copied)
        for batch in batches:
            for tensor in batch.tensors():
                if tensor.device.type == "cuda":
                    tensor.record_stream(stream)
        return batches


def copied_ahead(
    steps: Generator[list[Batch], None, None], copies: Copies[Begun]
) -> Generator[list[Batch], None, None]:
    """The batches of each step by way of ``copies``; those of the next step have begun to be copied
    when a step is yielded.
    """
    waiting: list[Begun] = []
    try:
        for batches in steps:
            waiting.append(copies.begin(batches))
            if len(waiting) > 1:
                yield copies.end(waiting.pop(0))
        while waiting:
            yield copies.end(waiting.pop(0))
    finally:
        steps.close()


def steps_on(
    device: torch.device, steps: Generator[list[Batch], None, None]
) -> Generator[list[Batch], None, None]:
    """The batches of each step on ``device``."""
    return copied_ahead(steps, CudaCopies(device)) if device.type == "cuda" else steps


def batches_on(
    device: torch.device, batches: Generator[Batch, None, None]
) -> Generator[Batch, None, None]:
    """The batches on ``device``."""
    if device.type != "cuda":
        return batches
    return _single(steps_on(device, _as_steps(batches)))


def _as_steps(batches: Generator[Batch, None, None]) -> Generator[list[Batch], None, None]:
    try:
        for batch in batches:
            yield [batch]
    finally:
        batches.close()


def _single(steps: Generator[list[Batch], None, None]) -> Generator[Batch, None, None]:
    try:
        for (batch,) in steps:
            yield batch
    finally:
        steps.close()
