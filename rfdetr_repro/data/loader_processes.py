"""The batches of a run, made by processes: the same as of :func:`.loader.training_batches`.

A program that tells a GPU what to do holds Python's lock nearly all the time, and threads that make
batches need that lock for two fifths of their work. So they slow each other down (measured on an
H200: 102 ms a step of Nano without a loader, 164 ms with 2 threads, 183 ms with 16). Processes do
not share the lock. Each makes whole micro-batches; PyTorch's loader passes them on in order.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import get_all_start_methods
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from rfdetr_repro.spec.errors import StatedFailure, first_line

from .loader import TrainingSource
from .transforms import Batch, PackedBatch

SHARED = "/dev/shm"  # where processes share memory on Linux
_PIXEL = 3 * 4  # bytes of the three numbers of a pixel

Sizes = Sequence[tuple[int, int]]


class Key(NamedTuple):
    """What a process is asked for."""

    step: int
    micro: int
    sizes: tuple[tuple[int, int], ...]  # each once


class _Failed(NamedTuple):
    """An error of a process, to be raised by the program."""

    error: Exception


class _MicroBatches(Dataset[Any]):
    """Makes what a key names."""

    def __init__(self, source: TrainingSource) -> None:
        self.source = source

    def __getitem__(self, key: Key) -> list[PackedBatch] | _Failed:
        try:
            return [batch.packed() for batch in self.source.make_micro(*key)]
        except Exception as error:
            return _Failed(error)


def fitting_processes(asked: int, batch_bytes: int, free: int | None = None) -> int:
    """How many processes the shared memory allows, of those ``asked`` for: each has one micro-batch
    of ``batch_bytes`` in work and one waiting. ``free``: bytes of shared memory (None: as the
    system states). 0: not even one.
    """
    if free is None:
        try:
            found = os.statvfs(SHARED)
        except OSError:  # not Linux: there is no such limit
            return asked
        free = found.f_bavail * found.f_frsize
    return max(0, min(asked, free // max(1, 2 * batch_bytes)))


def batch_bytes(source: TrainingSource, sizes: Sizes) -> int:
    """Bytes of the images of a micro-batch at all sizes, or of its whole pictures."""
    if source.whole:
        return source.most_whole_bytes
    return (
        len(source.places) * _PIXEL * sum(height * width for height, width in dict.fromkeys(sizes))
    )


def batches_by_processes(
    source: TrainingSource,
    sizes_of_step: Callable[[int], Sizes],
    steps: range,
    processes: int,
    pinned: bool,
) -> Generator[list[Batch], None, None]:
    """Yields what :func:`.loader.training_batches` yields for ``steps``. ``pinned``: in memory that
    a GPU copies from by itself.

    An error in a process is raised here; a process that ended raises :class:`StatedFailure`. Close
    the generator (or exhaust it) to end the processes.
    """
    loader = DataLoader(
        _MicroBatches(source),
        batch_size=None,
        sampler=_Keys(source, sizes_of_step, steps),
        num_workers=processes,
        prefetch_factor=1,
        pin_memory=pinned,
        collate_fn=_as_it_is,
        worker_init_fn=_prepare,
        # a copy of this process: nothing has to be sent, and hooks of any kind are there
        multiprocessing_context="fork" if "fork" in get_all_start_methods() else None,
    )
    made: Any = iter(loader)
    try:
        for step in steps:
            sizes = sizes_of_step(step)
            yield [
                batch
                for _ in range(source.config.accumulate)
                for batch in _at_sizes(_next(made), sizes)
            ]
    finally:
        # the public way, to forget the iterator, fails where an error remembers it
        made._shutdown_workers()


class _Keys:
    """The keys of all steps, in order."""

    def __init__(
        self, source: TrainingSource, sizes_of_step: Callable[[int], Sizes], steps: range
    ) -> None:
        self.source = source
        self.sizes_of_step = sizes_of_step
        self.steps = steps

    def __iter__(self) -> Iterator[Key]:
        for step in self.steps:
            sizes = tuple(dict.fromkeys(self.sizes_of_step(step)))
            for micro in range(self.source.config.accumulate):
                yield Key(step, micro, sizes)


def _next(made: Iterator[list[PackedBatch] | _Failed]) -> list[PackedBatch]:
    try:
        found = next(made)
    except RuntimeError as error:
        raise StatedFailure(
            f"a process that makes batches ended ({first_line(error)}); run the same command again "
            "to continue"
        ) from error
    if isinstance(found, _Failed):
        raise found.error
    return found


def _at_sizes(packed: list[PackedBatch], sizes: Sizes) -> list[Batch]:
    """The batch of each pass; passes of one size share a batch."""
    batches = dict(zip(dict.fromkeys(sizes), (one.unpacked() for one in packed), strict=True))
    return [batches[size] for size in sizes]


def _as_it_is(made: Any) -> Any:
    return made


def _prepare(number: int) -> None:
    """Signals may reach all processes of a job: the program saves, then ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
