"""Chooses the batch size of a run by memory: the largest micro-batch that fits, with the images per
optimizer step of the recipe, so that its learning rates stay right.

On a GPU each candidate is tried, with the most expensive architecture of the run and as many
objects as the fullest image has. On a CPU, where a trial that fails would end the process, one
image is measured and the rest is computed. A resumed run keeps what it was started with.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rfdetr_repro.data.coco import ClassMap
from rfdetr_repro.model.checkpoints.tensor_files import read_metadata
from rfdetr_repro.ops.device import available_bytes, named, ran_out_of_memory
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.unfinished import temporary_folder

from .plan import Imagined, Kept, run_passes
from .processes import default_processes
from .recipe import MOST_UNITS, Recipe
from .state import STATE
from .trainer import Trainer

log = logging.getLogger(__name__)

# share of the available memory that a batch may take: fragmentation, evaluations and other programs
# need the rest
SHARE = 0.85
LEAST_OBJECTS = 7  # COCO's mean
_GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes that training takes on a CPU."""

    state: int  # of each process: weights, gradients, moving average and moments
    per_image: int  # kept for the backward pass

    def of(self, batch_size: int, processes: int) -> int:
        """Bytes of a micro-batch that so many processes share."""
        return processes * self.state + batch_size * self.per_image


def fitted(
    recipe: Recipe,
    device: torch.device,
    folder: Path | None = None,
    objects: int = LEAST_OBJECTS,
    processes: int | None = None,
) -> tuple[Recipe, str]:
    """The recipe with the batch size that fits on ``device``, and a line that says why.

    ``folder``: of the run, whose stored batch size is kept; ``objects``: of the fullest image;
    ``processes``: as in a :class:`.run.TrainRequest`. Raises :class:`InputError` where not even one
    image fits.
    """
    images = recipe.train.batch_size * recipe.train.accumulate
    if folder is not None and (size := stored_batch_size(folder, images)):
        return _split(recipe, size), f"batch size {_words(size, images)}: as the run was started"
    arch = most_expensive(recipe)
    sizes = divisors(images)
    with temporary_folder() as place:
        trainer = _trainer(recipe, place, device)
        objects = max(LEAST_OBJECTS, objects)
        if device.type == "cuda":
            size, measured = _by_trial(trainer, arch, sizes, objects)
        else:
            need = measured_need(trainer, arch, objects)
            size, measured = by_need(need, sizes, available_bytes(device), processes)
    if size is None:
        raise InputError(
            f"not even one image at {arch.key} fits into memory ({named(device)}; {measured})",
            hint="set checkpoint_activations=true, or choose a smaller size or space",
        )
    why = "all images of a step fit" if size == images else f"{_next(sizes, size)} do not fit"
    return (
        _split(recipe, size),
        f"batch size {_words(size, images)}, chosen for {named(device)}: {why} at {arch.key} "
        f"({measured})",
    )


def divisors(count: int) -> list[int]:
    """The divisors of ``count``, largest first."""
    return [size for size in range(count, 0, -1) if count % size == 0]


def most_expensive(recipe: Recipe) -> Arch:
    """The architecture of the run with the most operations; with ``multi_scale`` at the largest
    size that a step may draw.
    """
    arch = max(
        recipe.possible_archs(), key=lambda one: total_flops(recipe.preset.model, one, "eager")
    )
    if not recipe.train.multi_scale:
        return arch
    more = MOST_UNITS * arch.patch * arch.windows
    height, width = (side + more for side in arch.input_hw)
    return replace(arch, resolution=height, width=width)


def stored_batch_size(folder: Path, images: int) -> int | None:
    """The batch size of the unfinished run in ``folder``; None without such a run, and for a run
    with another number of images per step, which cannot be resumed.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        train = json.loads(
            read_metadata(path, "copy the file again, or train again").get("recipe", "")
        )["train"]
        size, accumulate = int(train["batch_size"]), int(train["accumulate"])
    except (ValueError, KeyError, TypeError):
        return None
    return size if size * accumulate == images else None


def measured_need(trainer: Trainer, arch: Arch, objects: int) -> Need:
    """What one image at ``arch`` takes on the CPU, measured."""
    kept = Kept(trainer)
    with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
        run_passes(trainer, arch, 1, 1, objects)
    weights = sum(
        parameter.numel() * parameter.element_size()
        for parameter in trainer.state.detector.parameters()
    )
    return Need(state=5 * weights, per_image=kept.bytes)


def by_need(
    need: Need, sizes: list[int], available: int, processes: int | None
) -> tuple[int | None, str]:
    """The first of ``sizes`` that needs at most SHARE of ``available`` bytes, and what was
    compared.
    """
    measured = (
        f"{need.per_image / _GIB:.2f} GiB per image and {need.state / _GIB:.2f} GiB of state, "
        f"{available / _GIB:.1f} GiB available"
    )
    for size in sizes:
        count = min(size, default_processes(size) if processes is None else processes)
        if need.of(size, count) <= SHARE * available:
            return size, measured
    return None, measured


def first_that_fits(sizes: list[int], attempt: Callable[[int], int], limit: int) -> int | None:
    """The first of ``sizes`` that ``attempt`` can run with at most ``limit`` bytes.

    ``attempt(size)``: the most bytes that were in use; raises an error of memory where it fails.
    """
    for size in sizes:
        try:
            used = attempt(size)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            log.debug(f"batch size {size}: out of memory")
            continue
        log.debug(f"batch size {size}: {used / _GIB:.2f} GiB of {limit / _GIB:.2f} GiB")
        if used <= limit:
            return size
    return None


def _by_trial(
    trainer: Trainer, arch: Arch, sizes: list[int], objects: int
) -> tuple[int | None, str]:
    device = trainer.device
    in_use = torch.cuda.memory_allocated(device)
    limit = int(SHARE * (available_bytes(device) + in_use))
    used: list[int] = []

    def attempt(size: int) -> int:
        trainer.state.optimizer.zero_grad(set_to_none=True)
        gc.collect()  # tensors of a trial that failed
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        run_passes(trainer, arch, size, 1, objects)
        torch.cuda.synchronize(device)
        used.append(torch.cuda.max_memory_allocated(device))
        return used[-1]

    size = first_that_fits(sizes, attempt, limit)
    gc.collect()
    torch.cuda.empty_cache()
    told = f"{used[-1] / _GIB:.1f} GiB used of " if size is not None else ""
    return size, f"{told}{limit / SHARE / _GIB:.1f} GiB available"


def _trainer(recipe: Recipe, folder: Path, device: torch.device) -> Trainer:
    classes = recipe.preset.model.num_classes
    made_up = Imagined(
        ClassMap(tuple(range(1, classes + 1)), tuple(f"class {index}" for index in range(classes)))
    )
    alone = replace(recipe, train=replace(recipe.train, patience=0))
    return Trainer(alone, made_up, folder, device=device)  # type: ignore[arg-type]


def _split(recipe: Recipe, size: int) -> Recipe:
    images = recipe.train.batch_size * recipe.train.accumulate
    return replace(recipe, train=replace(recipe.train, batch_size=size, accumulate=images // size))


def _words(size: int, images: int) -> str:
    times = images // size
    return f"{size}" if times == 1 else f"{size} x {times} micro-batches"


def _next(sizes: list[int], size: int) -> str:
    return f"{sizes[sizes.index(size) - 1]} images"
