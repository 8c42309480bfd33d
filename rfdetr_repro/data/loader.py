"""Batches in the order that a training run needs. The images and the augmentation of a batch are a
pure function of (seed, step, micro-batch).

So a resumed run gets exactly the batches of an uninterrupted run, with any number of threads.
Threads suffice because Pillow decodes and resizes outside Python's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED
from rfdetr_repro.spec.train_config import TrainConfig

from .coco import CocoSplit
from .hooks import NO_HOOKS, Hooks
from .transforms import Batch, make_batch

STEPS_AHEAD = 2
THREADS = 2
_AUGMENT = 1  # separates the random numbers of the augmentation from the order of images

Item = TypeVar("Item")


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


def training_batches(
    split: CocoSplit,
    config: TrainConfig,
    sizes_of_step: Callable[[int], Sequence[tuple[int, int]]],
    start_step: int,
    stop_step: int,
    masks: bool,
    part: Callable[[int], slice] = slice,
    hooks: Hooks = NO_HOOKS,
) -> Generator[list[Batch], None, None]:
    """Yields, for each optimizer step in [start_step, stop_step), its ``config.accumulate``
    micro-batches, each at every size.

    ``sizes_of_step(step)``: input (height, width) of each pass over a micro-batch, the same number
    in every step; the passes use the same images with the same augmentation, and follow each other.
    ``masks`` adds mask targets. ``part(batch_size)``: the samples of each micro-batch to make,
    augmented as in the whole batch (default: all). ``hooks``: own code, see :mod:`.hooks`. Works
    ``STEPS_AHEAD`` steps ahead; an error in a thread is raised here. Close the generator (or
    exhaust it) to end the threads.
    """
    if config.seed < 0 or config.batch_size < 1 or config.accumulate < 1:
        raise InputError("seed must be >= 0, batch size and accumulation >= 1", config)
    if masks and not split.has_masks:
        raise InputError(
            f"the {split.split} split has annotations without a segmentation",
            split.name,
            "train without masks",
        )

    def micro_batch(step: int, micro: int, size_hw: tuple[int, int]) -> Batch:
        chosen = chosen_indices(len(split), config, step, micro, hooks)
        chosen_part = part(len(chosen))
        later = hooks.augment is None  # an augmentation changes masks as arrays
        samples = [
            hooks.augmented(
                split.sample(index, masks, masks_later=later),
                len(split.classes),
                (config.seed, step, micro, place),
            )
            for place, index in enumerate(chosen[chosen_part].tolist(), chosen_part.start or 0)
        ]
        rng = np.random.default_rng((config.seed, step, micro, _AUGMENT))
        return make_batch(
            samples,
            size_hw,
            rng,
            config.flip_probability,
            config.crop_probability,
            chosen_part.start or 0,
        )

    count = config.accumulate * (len(sizes_of_step(start_step)) if start_step < stop_step else 1)
    tasks = (
        (step, micro, size_hw)
        for step in range(start_step, stop_step)
        for micro in range(config.accumulate)
        for size_hw in sizes_of_step(step)
    )
    return _in_steps(_ahead(micro_batch, tasks, STEPS_AHEAD * count), count)


def evaluation_batches(
    split: CocoSplit,
    size_hw: tuple[int, int],
    batch_size: int,
    indices: Sequence[int] | None = None,
    resize: str = ANTIALIASED,
) -> Generator[Batch, None, None]:
    """All images in order, or those at ``indices``, without augmentation and masks; the last batch
    may be smaller.

    ``resize``: the model's rule, see :mod:`rfdetr_repro.spec.resize_rules`.
    """
    chosen = range(len(split)) if indices is None else indices

    def batch(start: int) -> Batch:
        return make_batch(
            [split.sample(index) for index in chosen[start : start + batch_size]],
            size_hw,
            resize=resize,
        )

    return _ahead(batch, ((start,) for start in range(0, len(chosen), batch_size)), STEPS_AHEAD)


def _in_steps(
    batches: Generator[Batch, None, None], count: int
) -> Generator[list[Batch], None, None]:
    try:
        step: list[Batch] = []
        for batch in batches:
            step.append(batch)
            if len(step) == count:
                yield step
                step = []
    finally:
        batches.close()


def _ahead(
    work: Callable[..., Item], tasks: Iterator[tuple[Any, ...]], depth: int
) -> Generator[Item, None, None]:
    """Results of ``work(*task)`` in order, computed by threads up to ``depth`` tasks ahead."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="batches")
    pending = deque[Future[Item]]()
    try:
        for task in tasks:
            pending.append(pool.submit(work, *task))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
