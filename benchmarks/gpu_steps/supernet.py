"""The pico supernet trained on the GPU: its first losses equal the CPU's, its AP the CPU's within
the noise of seeds.

400 steps on the embedded data from the weights that come with the package, in float32 without TF32,
as the CPU computes; the first steps are taken on the CPU too, on the same batches, and their losses
are compared. Losses that differ fail the step at its end.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps.step import Step
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.evaluation.predict_split import base_accuracies
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.records.record import Latency, ModelId
from rfdetr_repro.spec.presets import PICO, PICO_SPACE, PICO_TUNE, PICO_WEIGHTS
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer

STEPS = 400
COMPARED = 10  # steps taken on the CPU too
# Relative difference of the loss of the first step, and of later ones: rounding may match other
# pairs of predictions and objects, from where the trainings part.
ALLOWED = (1e-3, 5e-2)
LOADER_THREADS = 4  # more of them contend with the training for the interpreter
IMAGES = 3200
MOST_SEEDS = 3  # as many as the step's time allows


Losses = list[dict[str, float]]


def trained(
    split: CocoSplit,
    folder: Path,
    device: torch.device,
    steps: int,
    planned: int,
    seed: int = 0,
    noted: Callable[[Losses], None] = lambda losses: None,
    batch: int = PICO_TUNE.batch_size,
) -> tuple[Trainer, Losses, list[float]]:
    """The trainer after ``steps`` of ``planned`` steps, the losses of each and the times of their
    ends. ``noted`` is given the losses so far after every step.
    """
    train = replace(
        PICO_TUNE,
        steps=planned,
        seed=seed,
        batch_size=batch,
        precision="float32",
        evaluate_every=0,
        checkpoint_every=10**6,
    )
    detector, _, _ = load_supernet(PICO_WEIGHTS)
    recipe = Recipe(PICO, train, PICO_SPACE)
    trainer = Trainer(
        recipe,
        split,
        folder,
        detector.state_dict(),
        device=device,
        loader_threads=LOADER_THREADS,
    )
    losses: Losses = []
    ends: list[float] = []

    class Enough(Exception):
        """The wanted steps are taken."""

    def note(step: int, parts: dict[str, float]) -> None:
        losses.append({name: float(value) for name, value in parts.items()})
        ends.append(time.perf_counter())
        noted(losses)
        if step == steps < planned:
            raise Enough

    with contextlib.suppress(Enough):
        trainer.run(note)
    return trainer, losses, ends


def compare(step: Step, there: Losses, here: Losses) -> str:
    """Prints the largest relative difference of the losses, step by step; returns that of all steps
    in words. The sum of the losses must agree.
    """
    largest = 0.0
    for number, (left, right) in enumerate(zip(there, here, strict=False), 1):
        worst = max(right, key=lambda name: abs(left[name] - right[name]) / abs(right[name] or 1))
        difference = abs(left[worst] - right[worst]) / abs(right[worst] or 1)
        step.say(
            f"step {number}: loss {left['loss']:.5f} on {step.device.type}, {right['loss']:.5f} on "
            f"the CPU; largest difference {difference:.1e} ({worst})"
        )
        gap = abs(left["loss"] - right["loss"]) / abs(right["loss"] or 1)
        largest = max(largest, gap) if gap == gap else float("inf")
        if not gap <= ALLOWED[number > 1]:
            step.wrong(f"step {number}: the loss differs from the CPU's by {gap:.1e} of it")
    steps = min(len(there), len(here))
    return f"relative difference of the first {steps} losses from the CPU's {largest:.1e}"


def main() -> None:
    """Composes the data, trains, compares and evaluates."""
    step = Step.of("supernet", __doc__)
    steps = 3 if step.toy else STEPS
    images = 4 if step.toy else IMAGES
    batch = 2 if step.toy else PICO_TUNE.batch_size
    held_out = 2 if step.toy else 150
    torch.set_num_threads(1 if step.toy else 8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = EmbeddedConfig(train_images=images, val_images=held_out, test_images=held_out)
        write_embedded(folder / "data", config, workers=1 if step.toy else 16)
        step.say(f"{images} pictures composed, {step.left_s:.0f} s left")
        split = read_split(folder / "data", "train")
        compared = 1 if step.toy else COMPARED
        _, here, _ = trained(
            split, folder / "cpu", torch.device("cpu"), compared, steps, batch=batch
        )
        splits = {
            name: read_split(folder / "data", name, split.classes) for name in ("val", "test")
        }
        for seed in range(1 if step.toy else MOST_SEEDS):
            before = step.left_s
            run = folder / f"seed {seed}"
            agreement: list[str] = []

            def noted(
                there: Losses, first: bool = seed == 0, agreement: list[str] = agreement
            ) -> None:
                if first and len(there) == compared:  # at once: the step may be cut off later
                    agreement.append(compare(step, there, here))

            trainer, _, ends = trained(split, run, step.device, steps, steps, seed, noted, batch)
            tell(step, ends, batch, seed, *agreement)
            rows = base_accuracies(trainer.state.averaged_detector(), splits)
            say_accuracies(step, rows, f"seed {seed}, after {steps} steps")
            if step.left_s < 1.2 * (before - step.left_s):
                break
    step.end()


def say_accuracies(step: Step, rows: list[dict[str, Any]], what: str) -> None:
    """Prints the APs of each split in points."""
    for row in rows:
        values = {key: row[key] for key in ("ap", "ap50", "mask_ap")}
        step.say(
            f"{what}, {row['split']}: "
            + ", ".join(f"{key} {100 * (value or 0):.2f}" for key, value in values.items())
        )


def tell(
    step: Step, ends: list[float], batch: int, seed: int, agreement: str | None = None
) -> None:
    """The rate of the second half of the steps, as a Record."""
    later = ends[len(ends) // 2 :]
    if len(later) < 2:
        return
    ms = 1e3 * (later[-1] - later[0]) / (len(later) - 1)
    protocol = Protocol(
        "sustained", "host", 0.0, min_samples=len(later), max_samples=len(later), batch=batch
    )
    latency = Latency(ms, num_samples=len(later), images_per_s=1e3 * batch / ms)
    model = ModelId("training", f"pico supernet, float32, seed {seed}", weights="random")
    step.record(model, latency, protocol, agreement=agreement)
    step.say(f"training: {ms:.2f} ms a step, {1e3 * batch / ms:.0f} images/s")


if __name__ == "__main__":
    main()
