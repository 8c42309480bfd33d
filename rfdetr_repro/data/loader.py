"""Batches in the order that a training run needs. The images and the augmentation of a batch are a
pure function of (seed, step, micro-batch).

So a resumed run gets exactly the batches of an uninterrupted run, with any number of threads.
Threads suffice because Pillow decodes and this package resizes outside Python's lock. The unit of
work is a picture: a thread decodes it once and writes it into the batches of all sizes of its step.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED
from rfdetr_repro.spec.train_config import TrainConfig

from .coco import CocoSplit, Sample
from .device_input import filters_of, joined_pixels
from .hooks import NO_HOOKS, Hooks
from .network_input import View
from .transforms import Batch, Target, drawn_view, empty_images, target_of, write_sample

if TYPE_CHECKING:
    from torch import Tensor

STEPS_AHEAD = 2  # batches or steps that are made before they are asked for, at least
PICTURES_EACH = 2  # pictures that wait for each thread, at least
MOST_THREADS = 32  # by default
MOST_WHOLE = 1 << 30  # bytes of the pictures of a micro-batch that a device resizes
_AUGMENT = 1  # separates the random numbers of the augmentation from the order of images

Item = TypeVar("Item", covariant=True)


def default_threads(processes: int = 1) -> int:
    """Threads that make batches where no number is given: this process's share of the cores that it
    may use, of which ``processes`` of this machine train together (``torchrun`` states their
    number); at most MOST_THREADS.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 1) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", processes)))
    return max(1, min(share, MOST_THREADS))


def batch_indices(
    num_images: int, batch_size: int, step: int, seed: int, micro: int = 0, accumulate: int = 1
) -> np.ndarray:
    """Image indices int64 (batch_size,) of one micro-batch; an optimizer step takes ``accumulate``
    micro-batches.

    Each epoch is a new permutation, whose incomplete last step is dropped. A set smaller than one
    step is sampled with replacement.
    """
    per_step = batch_size * accumulate
    if num_images < per_step:
        chosen = np.random.default_rng((seed, step)).integers(0, num_images, per_step)
    else:
        epoch, position = divmod(step, num_images // per_step)
        chosen = _permutation(num_images, seed, epoch)[
            position * per_step : (position + 1) * per_step
        ]
    return chosen[micro * batch_size : (micro + 1) * batch_size]


def chosen_indices(
    num_images: int, config: TrainConfig, step: int, micro: int, hooks: Hooks = NO_HOOKS
) -> np.ndarray:
    """Image indices int64 (batch_size,) of one micro-batch of a run: what its sampler chooses, else
    :func:`batch_indices`.
    """
    size = config.batch_size
    if hooks.sampler is None:
        return batch_indices(num_images, size, step, config.seed, micro, config.accumulate)
    chosen = hooks.indices(step, size * config.accumulate, num_images, config.seed)
    return chosen[micro * size : (micro + 1) * size]


@lru_cache(maxsize=2)
def _permutation(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_images)


@dataclass(frozen=True)
class Making:
    """How batches are made; no setting changes what a picture of a batch contains."""

    threads: int | None = None  # None: :func:`default_threads`
    pinned: bool = False  # in memory that a GPU copies from without the CPU's help
    # (batch size) -> the samples of each training batch to make, augmented as in the whole batch
    part: Callable[[int], slice] = slice


def training_batches(
    split: CocoSplit,
    config: TrainConfig,
    sizes_of_step: Callable[[int], Sequence[tuple[int, int]]],
    start_step: int,
    stop_step: int,
    masks: bool,
    hooks: Hooks = NO_HOOKS,
    making: Making = Making(),
) -> Generator[list[Batch], None, None]:
    """Yields, for each optimizer step in [start_step, stop_step), its ``config.accumulate``
    micro-batches, each at every size; passes of one size share a batch.

    ``sizes_of_step(step)``: input (height, width) of each pass over a micro-batch; the passes use
    the same images with the same augmentation, and follow each other.
    ``masks`` adds mask targets. ``hooks``: own code, see :mod:`.hooks`. Works at
    least ``STEPS_AHEAD`` steps ahead, and far enough to keep all threads busy; an error in a thread
    is raised here. Close the generator (or exhaust it) to end the threads.
    """
    source = training_source(split, config, masks, hooks, making.part)
    jobs = (
        partial(source.begin_step, step, sizes_of_step(step), making)
        for step in range(start_step, stop_step)
    )
    return _ahead(jobs, making.threads, config.accumulate * len(source.places))


def training_source(
    split: CocoSplit,
    config: TrainConfig,
    masks: bool,
    hooks: Hooks = NO_HOOKS,
    part: Callable[[int], slice] = slice,
) -> TrainingSource:
    """The source of the batches of :func:`training_batches`. Raises :class:`InputError` for
    settings out of range, for masks that the split does not have, and for pictures too large to be
    resized by the device.
    """
    if config.seed < 0 or config.batch_size < 1 or config.accumulate < 1:
        raise InputError("seed must be >= 0, batch size and accumulation >= 1", config)
    if masks and not split.has_masks:
        raise InputError(
            f"the {split.split} split has annotations without a segmentation",
            split.name,
            "train without masks",
        )
    places = range(config.batch_size)[part(config.batch_size)]
    source = TrainingSource(split, config, masks, places, hooks)
    if source.whole and source.most_whole_bytes > MOST_WHOLE:
        largest = max(split.images, key=lambda info: info.width * info.height)
        raise InputError(
            f"resize_on=device keeps whole pictures, and {len(places)} pictures of "
            f"{largest.width} x {largest.height} px take more than {MOST_WHOLE >> 20} MiB",
            largest.path,
            "leave resize_on out, or lower batch_size and raise accumulate",
        )
    return source


@dataclass(frozen=True)
class TrainingSource:
    """The source of a run's batches."""

    split: CocoSplit
    config: TrainConfig
    masks: bool
    places: range  # of the samples that are made, in the whole micro-batch
    hooks: Hooks

    @property
    def whole(self) -> bool:
        """Whether batches hold whole pictures, which the device resizes."""
        return self.config.resize_on == "device"

    @property
    def most_whole_bytes(self) -> int:
        """Bytes of the largest micro-batch of whole pictures."""
        most = max((info.width * info.height for info in self.split.images), default=0)
        return 3 * most * len(self.places)

    def make_micro(self, step: int, micro: int, sizes: Sequence[tuple[int, int]]) -> list[Batch]:
        """A micro-batch at each size, made by this thread."""
        chosen = Future[np.ndarray]()
        chosen.set_result(chosen_indices(len(self.split), self.config, step, micro, self.hooks))
        if self.whole:
            keys = [(step, micro, place) for place in self.places]
            return whole_batches([self._whole(key, chosen, sizes, False) for key in keys], sizes)
        images = [empty_images(len(self.places), size) for size in sizes]
        targets = [
            self._make((step, micro, place), chosen, [one[row].numpy() for one in images], False)
            for row, place in enumerate(self.places)
        ]
        return written_batches(images, targets)

    def begin_step(
        self, step: int, sizes: Sequence[tuple[int, int]], making: Making, pool: Executor
    ) -> _Step:
        """Gives the pictures of a step to the threads."""
        return _Step(
            [
                self._begin(step, micro, sizes, making, pool)
                for micro in range(self.config.accumulate)
            ]
        )

    def _begin(
        self,
        step: int,
        micro: int,
        sizes: Sequence[tuple[int, int]],
        making: Making,
        pool: Executor,
    ) -> _Making[list[Batch]]:
        chosen = pool.submit(chosen_indices, len(self.split), self.config, step, micro, self.hooks)
        keys = [(step, micro, place) for place in self.places]
        if self.whole:
            return self._begin_whole(keys, chosen, sizes, making, pool)
        canvases = {size: empty_images(len(self.places), size, making.pinned) for size in sizes}
        targets = [
            pool.submit(
                self._make,
                key,
                chosen,
                [canvas[row].numpy() for canvas in canvases.values()],
                making.pinned,
            )
            for row, key in enumerate(keys)
        ]
        return _Micro(
            sizes,
            lambda: written_batches(list(canvases.values()), [one.result() for one in targets]),
        )

    def _make(
        self,
        key: tuple[int, int, int],
        chosen: Future[np.ndarray],
        rows: Sequence[np.ndarray],
        pinned: bool,
    ) -> list[Target]:
        """Writes one picture to its place in the batch of each size; returns its targets."""
        sample, view = self._seen(key, chosen)
        targets = [write_sample(sample, row, view) for row in rows]
        return [_with_pinned_masks(target) for target in targets] if pinned else targets

    def _begin_whole(
        self,
        keys: Sequence[tuple[int, int, int]],
        chosen: Future[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        making: Making,
        pool: Executor,
    ) -> _Micro:
        once = list(dict.fromkeys(sizes))
        pictures = [pool.submit(self._whole, key, chosen, once, making.pinned) for key in keys]
        # behind its pictures in the threads' queue, so that it waits for work that is begun
        joined = pool.submit(
            lambda: whole_batches([one.result() for one in pictures], once, making.pinned)
        )
        return _Micro(sizes, joined.result)

    def _whole(
        self,
        key: tuple[int, int, int],
        chosen: Future[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        pinned: bool,
    ) -> _Whole:
        """A picture as it was decoded and augmented, with its targets at each size."""
        sample, view = self._seen(key, chosen)
        targets = [target_of(sample, size, view) for size in sizes]
        targets = [_with_pinned_masks(target) for target in targets] if pinned else targets
        return _Whole(sample.image, view, targets)

    def _seen(self, key: tuple[int, int, int], chosen: Future[np.ndarray]) -> tuple[Sample, View]:
        """A sample, decoded and augmented by the user's code, and the part of it that is used."""
        step, micro, place = key
        config = self.config
        later = self.hooks.augment is None  # an augmentation changes masks as arrays
        sample = self.hooks.augmented(
            # begun before this task, so that some thread is at work on it or done
            self.split.sample(int(chosen.result()[place]), self.masks, masks_later=later),
            len(self.split.classes),
            (config.seed, step, micro, place),
        )
        view = drawn_view(
            np.random.default_rng((config.seed, step, micro, _AUGMENT)),
            place,
            sample.image.shape[:2],
            config.flip_probability,
            config.crop_probability,
        )
        return sample, view


def _with_pinned_masks(target: Target) -> Target:
    if target.masks is None:
        return target
    return replace(target, masks=target.masks.pin_memory())


class _Whole(NamedTuple):
    """A picture that the device will resize."""

    image: np.ndarray  # uint8 (H, W, 3)
    view: View
    targets: list[Target]  # at each size


def whole_batches(
    pictures: Sequence[_Whole], sizes: Sequence[tuple[int, int]], pinned: bool = False
) -> list[Batch]:
    """The batch of whole pictures at each size; they share the pixels."""
    images = [one.image for one in pictures]
    pixels = joined_pixels(images, pinned)
    views = [one.view for one in pictures]
    batches = []
    for index, size in enumerate(sizes):
        filters = filters_of(images, views, size)
        filters = filters.pin_memory() if pinned else filters
        batches.append(Batch(pixels, [one.targets[index] for one in pictures], filters))
    return batches


def written_batches(images: Sequence[Tensor], targets: Sequence[list[Target]]) -> list[Batch]:
    """The batch at each size of images that all pictures were written to; ``targets``: of each
    picture, at each size.
    """
    return [
        Batch(canvas, [of_picture[index] for of_picture in targets])
        for index, canvas in enumerate(images)
    ]


@dataclass(frozen=True)
class _Micro:
    """A micro-batch in the making."""

    sizes: Sequence[tuple[int, int]]  # of each pass
    batches: Callable[[], list[Batch]]  # waits for its pictures; at each size once

    def result(self) -> list[Batch]:
        """The batch of each pass, when its pictures are made."""
        batches = dict(zip(dict.fromkeys(self.sizes), self.batches(), strict=True))
        return [batches[size] for size in self.sizes]


@dataclass(frozen=True)
class _Step:
    """The micro-batches of an optimizer step in the making."""

    micros: list[_Making[list[Batch]]]

    def result(self) -> list[Batch]:
        """The batch of each pass of the step."""
        return [batch for micro in self.micros for batch in micro.result()]


def evaluation_batches(
    split: CocoSplit,
    size_hw: tuple[int, int],
    batch_size: int,
    indices: Sequence[int] | None = None,
    resize: str = ANTIALIASED,
    making: Making = Making(),
) -> Generator[Batch, None, None]:
    """All images in order, or those at ``indices``, without augmentation and masks; the last batch
    may be smaller.

    ``resize``: the model's rule, see :mod:`rfdetr_repro.spec.resize_rules`.
    """
    chosen = range(len(split)) if indices is None else indices

    def one(index: int, to: np.ndarray) -> list[Target]:
        return [write_sample(split.sample(index), to, None, resize)]

    def begin(start: int, pool: Executor) -> _Evaluated:
        part = chosen[start : start + batch_size]
        canvas = empty_images(len(part), size_hw, making.pinned)
        targets = [
            pool.submit(one, index, to) for index, to in zip(part, canvas.numpy(), strict=True)
        ]
        return _Evaluated(canvas, targets)

    jobs = (partial(begin, start) for start in range(0, len(chosen), batch_size))
    return _ahead(jobs, making.threads, batch_size)


@dataclass(frozen=True)
class _Evaluated:
    """A batch of an evaluation in the making."""

    canvas: Tensor
    targets: list[Future[list[Target]]]  # of each picture, at the one size

    def result(self) -> Batch:
        """The batch, when its pictures are made."""
        (batch,) = written_batches([self.canvas], [one.result() for one in self.targets])
        return batch


class _Making(Protocol[Item]):
    """What threads are at work on."""

    def result(self) -> Item:
        """Waits for it."""


def _ahead(
    jobs: Iterable[Callable[[Executor], _Making[Item]]], threads: int | None, pictures: int
) -> Generator[Item, None, None]:
    """Results of jobs of so many ``pictures`` each, in order, computed by threads some jobs
    ahead.
    """
    threads = threads or default_threads()
    depth = max(STEPS_AHEAD, -(-PICTURES_EACH * threads // max(1, pictures)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    pending = deque[_Making[Item]]()
    try:
        for job in jobs:
            pending.append(job(pool))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
