"""Estimates the time and memory of a training run from a few steps timed on this machine, before
anything is spent.

Three architectures of the run (cheapest, middle, most expensive) are timed on random images; the
times of the other architectures are interpolated over their operations. On a CPU fewer images than
a micro-batch are timed, and their time and memory are scaled up, which the output states.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from rfdetr_repro.data.coco import ClassMap
from rfdetr_repro.data.transforms import Batch, Target
from rfdetr_repro.ops.device import named, peak_bytes, ran_out_of_memory
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.unfinished import temporary_folder

from .parallel import Ranks
from .recipe import Recipe
from .trainer import Trainer

DRAWS = 2000  # steps that determine the mix of architectures
REPEATS = 2
OBJECTS = 7  # of an image, COCO's mean
# s: CPU passes over one image that take longer are not timed with more images, or not a second time
PATIENT_S = 1.0
ONCE_S = 20.0
MOST_ON_CPU = 4  # images


@dataclass(frozen=True)
class Imagined:
    """Stands in for a data set: what a trainer needs of a data set before it reads images."""

    classes: ClassMap
    sha256: str = ""
    name: str = "made-up images"


@dataclass(frozen=True)
class Timed:
    """Times and memory of one architecture."""

    arch: Arch
    gflops: float  # forward pass, one image
    seconds: float  # forward and backward pass of one micro-batch
    update_seconds: float  # clipping and the optimizer's step
    images: int  # images in the timed pass
    bytes: int  # bytes that one micro-batch keeps for its backward pass


@dataclass(frozen=True)
class Plan:
    """An estimate for a run, except ``timed``, which is measured; on a GPU ``memory_bytes`` is
    measured too.
    """

    recipe: Recipe
    device: str
    images: int | None
    timed: tuple[Timed, ...]
    step_seconds: float
    memory_bytes: int
    state_bytes: int

    @property
    def hours(self) -> float:
        """Estimated hours of the whole run."""
        return self.recipe.train.steps * self.step_seconds / 3600

    def lines(self) -> list[str]:
        """The lines to print."""
        config = self.recipe.train
        per_step = config.batch_size * config.accumulate
        seen = config.steps * per_step
        epochs = (
            ""
            if self.images is None
            else f", {seen / max(1, self.images):.1f} epochs of {self.images}"
        )
        space = (
            "one architecture"
            if self.recipe.space is None
            else f"{len(self.recipe.space.training_archs())} architectures"
        )
        counted = self.recipe.space.counted() if self.recipe.space is not None else ""
        return [
            f"on {self.device}; {space}, sampling {self.recipe.train.sampling}",
            *([counted] if counted else []),
            f"{config.steps} steps of {per_step} images = {seen} images{epochs}",
            f"micro-batches of {config.batch_size} images:",
            *(_row(one, config.batch_size) for one in self.timed),
            f"one step: {self.step_seconds:.3g} s (estimate: the mix of the first {DRAWS} steps)",
            f"whole run: {self.hours:.3g} hours, evaluations and data not counted",
            f"memory: {self.memory_bytes / 2**30:.1f} GiB at most; training state on disk: "
            f"{self.state_bytes / 1e6:.0f} MB",
        ]


def _row(one: Timed, batch_size: int) -> str:
    scaled = "" if one.images == batch_size else f" (timed with {one.images}, scaled)"
    spent = f"{one.seconds:.3g} s and {one.bytes / 2**30:.2f} GiB per micro-batch{scaled}"
    return f"  {one.arch.key}: {one.gflops:.1f} GFLOP, {spent}"


def plan(
    recipe: Recipe,
    device: torch.device,
    images: int | None = None,
    objects: int = OBJECTS,
    processes: int = 1,
) -> Plan:
    """Times a few passes of ``recipe`` on ``device``; ``images`` is the size of the data set, if
    known, and ``objects`` the number of objects of an image. Writes nothing.

    With several ``processes`` this process times the share of one of them, on its share of the
    threads; the others are assumed to take as long.

    Raises :class:`InputError`, which names the architecture, where an architecture does not fit
    into memory.
    """
    classes = recipe.preset.model.num_classes
    made_up = Imagined(
        ClassMap(tuple(range(1, classes + 1)), tuple(f"class {index}" for index in range(classes)))
    )
    single = replace(recipe, train=replace(recipe.train, patience=0))
    with temporary_folder() as folder:
        trainer = Trainer(single, made_up, folder, device=device)  # type: ignore[arg-type]
        trainer.ranks = Ranks()  # this process times alone; others of a group would be waited for
        drawn = [recipe.archs_of_step(step) for step in range(min(DRAWS, recipe.train.steps))]
        costs = {
            arch: total_flops(recipe.preset.model, arch, "eager") / 1e9
            for archs in drawn
            for arch in archs
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        share = -(-recipe.train.batch_size // processes)
        with _threads(processes):
            timed = tuple(
                _time(trainer, arch, costs[arch], objects, share) for arch in _spread(costs)
            )
        weights = sum(
            parameter.numel() * parameter.element_size()
            for parameter in trainer.state.detector.parameters()
        )
    update = float(np.median([one.update_seconds for one in timed]))
    passes = np.mean([sum(_seconds(timed, costs[arch]) for arch in archs) for archs in drawn])
    step_seconds = float(passes) * recipe.train.accumulate + update
    # weights with their average and the optimizer's two moments; in memory also their gradients
    state = 4 * weights
    memory = (
        peak_bytes(device)
        if device.type == "cuda"
        else state + weights + max(one.bytes for one in timed)
    )
    return Plan(recipe, named(device), images, timed, step_seconds, memory, state)


def _spread(costs: dict[Arch, float]) -> list[Arch]:
    """The cheapest, the middle and the most expensive architecture, without repetition."""
    ordered = sorted(costs, key=lambda arch: (costs[arch], arch))
    return list(dict.fromkeys([ordered[0], ordered[len(ordered) // 2], ordered[-1]]))


def _seconds(timed: tuple[Timed, ...], gflops: float) -> float:
    return float(np.interp(gflops, [one.gflops for one in timed], [one.seconds for one in timed]))


@contextmanager
def _threads(processes: int) -> Iterator[None]:
    """Gives this process its share of the threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _time(trainer: Trainer, arch: Arch, gflops: float, objects: int, share: int) -> Timed:
    """Times ``share`` images of a micro-batch after a first pass to warm up; on a CPU one image, or
    a few where one image is fast.
    """
    whole = trainer.recipe.train.batch_size
    count = share if trainer.device.type == "cuda" else 1
    kept = Kept(trainer)
    try:
        with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
            passes, updates = run_passes(trainer, arch, count, 1, objects)
        if trainer.device.type == "cuda" or passes[0] < ONCE_S:
            passes, updates = run_passes(trainer, arch, count, REPEATS, objects)
        more = min(share, MOST_ON_CPU)
        if count < more and min(passes) < PATIENT_S:
            passes, updates = run_passes(trainer, arch, more, REPEATS, objects)
            kept.bytes, count = kept.bytes * more // count, more
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        hint = (
            "lower the batch size and raise accumulate, set checkpoint_activations=true, or choose "
            "a smaller space"
        )
        raise InputError(
            f"out of memory with {arch.key} and {count} images", trainer.device, hint
        ) from error
    seconds = min(passes) * share / count
    return Timed(arch, gflops, seconds, min(updates), count, int(kept.bytes * whole / count))


def run_passes(
    trainer: Trainer, arch: Arch, count: int, repeats: int, objects: int = OBJECTS
) -> tuple[list[float], list[float]]:
    """Seconds of passes over ``count`` images with so many ``objects`` each, and of updates."""
    batch = _batch(trainer, arch, count, objects)
    spent = []
    for _ in range(repeats):
        passed = _clocked(
            trainer.device, lambda: trainer.add_gradients(batch.to(trainer.device), arch, 0, 1)
        )
        spent.append((passed, _clocked(trainer.device, trainer.update)))
    return [passed for passed, _ in spent], [updated for _, updated in spent]


class Kept:
    """Adds up what a forward pass keeps for its backward pass: each storage once, without
    weights.
    """

    def __init__(self, trainer: Trainer) -> None:
        """Nothing is kept yet; the weights of ``trainer`` never count."""
        self.seen = {
            parameter.untyped_storage().data_ptr()
            for parameter in trainer.state.detector.parameters()
        }
        self.bytes = 0

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        """Counts a tensor that is kept, and returns it."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _clocked(device: torch.device, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _batch(trainer: Trainer, arch: Arch, count: int, objects: int) -> Batch:
    """Noise with ``objects`` boxes per image, and masks where the model has masks."""
    height, width = arch.input_hw
    generator = torch.Generator().manual_seed(0)
    targets = []
    for image in range(count):
        boxes = torch.rand(objects, 4, generator=generator) * 0.3 + 0.2
        labels = torch.randint(
            trainer.state.detector.config.num_classes, (objects,), generator=generator
        )
        masks = (
            torch.zeros(objects, height, width, dtype=torch.bool)
            if trainer.state.detector.config.masks
            else None
        )
        if masks is not None:
            masks[:, height // 4 : height // 2, width // 4 : width // 2] = True
        targets.append(Target(boxes, labels, masks, image))
    return Batch(torch.randn(count, 3, height, width, generator=generator), targets)
