"""What a training run would take, from a few steps timed here, before anything is spent.

Three architectures of the run (cheapest, middle, dearest) are timed on made-up images; the time of the others is read off a line
through these over their operations. On a CPU fewer images than a micro-batch are timed and the time scaled up; that is said.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..config import Arch
from ..data.coco import ClassMap
from ..data.transforms import Batch, Target
from ..errors import InputError
from ..flops import total_flops
from .engine import Trainer
from .recipe import Recipe

DRAWS = 2000  # steps looked at for the mix of architectures
REPEATS = 2
OBJECTS = 7  # per image, COCO's mean
PATIENT_S = 1.0  # a CPU pass over one image that takes longer is not repeated with more


@dataclass(frozen=True)
class Imagined:
    """Stands in for a data set: what a trainer asks of one before it reads images."""

    classes: ClassMap
    sha256: str = ""
    name: str = "made-up images"


@dataclass(frozen=True)
class Timed:
    arch: Arch
    gflops: float  # forward pass, one image
    seconds: float  # forward and backward pass of one micro-batch
    update_seconds: float  # clipping and the optimizer's step


@dataclass(frozen=True)
class Plan:
    """All of it an estimate but ``timed`` and ``peak_bytes``."""

    recipe: Recipe
    device: str
    images: int | None
    timed: tuple[Timed, ...]
    timed_images: int
    step_seconds: float
    peak_bytes: int
    state_bytes: int

    @property
    def hours(self) -> float:
        return self.recipe.train.steps * self.step_seconds / 3600

    def lines(self) -> list[str]:
        config = self.recipe.train
        per_step = config.batch_size * config.accumulate
        seen = config.steps * per_step
        epochs = "" if self.images is None else f", {seen / max(1, self.images):.1f} epochs of {self.images}"
        space = "one architecture" if self.recipe.space is None else f"{len(self.recipe.space.training_archs())} architectures"
        scaled = "" if self.timed_images == config.batch_size else f", timed with {self.timed_images} and scaled"
        rows = [f"  {one.arch.key}: {one.gflops:.1f} GFLOP, {one.seconds:.3g} s per micro-batch" for one in self.timed]
        return [
            f"on {self.device}; {space}, sampling {self.recipe.train.sampling}",
            f"{config.steps} steps of {per_step} images = {seen} images{epochs}",
            f"micro-batches of {config.batch_size} images{scaled}:",
            *rows,
            f"one step: {self.step_seconds:.3g} s (estimate: the mix of the first {DRAWS} steps)",
            f"whole run: {self.hours:.3g} hours, evaluations and data not counted",
            f"peak memory while timing: {self.peak_bytes / 2**30:.2f} GiB; training state: {self.state_bytes / 1e6:.0f} MB",
        ]


def plan(recipe: Recipe, device: torch.device, images: int | None = None) -> Plan:
    """Times a few passes of ``recipe`` on ``device``; ``images``: of the data set, if known. Writes nothing.

    An architecture that does not fit into memory is an :class:`InputError` that names it.
    """
    classes = recipe.preset.model.num_classes
    made_up = Imagined(ClassMap(tuple(range(1, classes + 1)), tuple(f"class {index}" for index in range(classes))))
    single = replace(recipe, train=replace(recipe.train, patience=0))
    with tempfile.TemporaryDirectory(prefix="rfdetr_repro_") as folder:
        trainer = Trainer(single, made_up, Path(folder), device=device)  # type: ignore[arg-type]
        drawn = [recipe.archs_of_step(step) for step in range(min(DRAWS, recipe.train.steps))]
        costs = {arch: total_flops(recipe.preset.model, arch, "eager") / 1e9 for archs in drawn for arch in archs}
        count = _images_to_time(trainer, min(costs, key=lambda arch: costs[arch]))
        timed = tuple(_time(trainer, arch, costs[arch], count) for arch in _spread(costs))
        state = sum(parameter.numel() * parameter.element_size() for parameter in trainer.detector.parameters())
    update = float(np.median([one.update_seconds for one in timed]))
    passes = np.mean([sum(_seconds(timed, costs[arch]) for arch in archs) for archs in drawn])
    step_seconds = float(passes) * recipe.train.accumulate + update
    return Plan(recipe, _named(device), images, timed, count, step_seconds, _peak_bytes(device), 4 * state)


def _spread(costs: dict[Arch, float]) -> list[Arch]:
    """Cheapest, middle and dearest, without repetition."""
    ordered = sorted(costs, key=lambda arch: (costs[arch], arch))
    return list(dict.fromkeys([ordered[0], ordered[len(ordered) // 2], ordered[-1]]))


def _seconds(timed: tuple[Timed, ...], gflops: float) -> float:
    return float(np.interp(gflops, [one.gflops for one in timed], [one.seconds for one in timed]))


def _images_to_time(trainer: Trainer, arch: Arch) -> int:
    """A micro-batch; on a CPU at most 4 images, or 1 where that is slow already."""
    batch_size = trainer.recipe.train.batch_size
    if trainer.device.type == "cuda":
        return batch_size
    return min(batch_size, 4) if _time(trainer, arch, 0.0, 1, repeats=1).seconds / batch_size < PATIENT_S else 1


def _time(trainer: Trainer, arch: Arch, gflops: float, count: int, repeats: int = REPEATS) -> Timed:
    passes, updates = [], []
    batch = _batch(trainer, arch, count)
    try:
        for _ in range(1 + repeats):
            passes.append(_clocked(trainer.device, lambda: trainer._pass(batch, arch, 0, 1)))
            updates.append(_clocked(trainer.device, trainer._update))
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        mend = "lower the batch size and raise accumulate, set checkpoint_activations=true, or take a smaller space"
        raise InputError(f"out of memory with {arch.key} and {count} images", trainer.device, mend) from error
    scale = trainer.recipe.train.batch_size / count
    return Timed(arch, gflops, min(passes[1:]) * scale, min(updates[1:]))


def _clocked(device: torch.device, work: object) -> float:
    assert callable(work)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _batch(trainer: Trainer, arch: Arch, count: int) -> Batch:
    """Noise with OBJECTS boxes per image, and their areas as masks where the model has masks."""
    height, width = arch.input_hw
    generator = torch.Generator().manual_seed(0)
    targets = []
    for image in range(count):
        boxes = torch.rand(OBJECTS, 4, generator=generator) * 0.3 + 0.2
        labels = torch.randint(trainer.detector.config.num_classes, (OBJECTS,), generator=generator)
        masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool) if trainer.detector.config.masks else None
        if masks is not None:
            masks[:, height // 4 : height // 2, width // 4 : width // 2] = True
        targets.append(Target(boxes, labels, masks, image))
    return Batch(torch.randn(count, 3, height, width, generator=generator), targets)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
