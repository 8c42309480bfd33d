"""Training throughput of Nano at batch 16: by precision, and with the loader.

Batches that are already in memory show what the GPU can do; the loader alone, with few threads and
with one for every core, what the processor can deliver; both together what a run gets. Pictures are
seeded noise of 640 x 480 px in JPEG files, with about seven objects each, as in COCO.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_steps.step import Step
from rfdetr_repro.bench.machine import usable_cores
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.loader import training_batches
from rfdetr_repro.records.record import Latency, ModelId
from rfdetr_repro.spec.presets import PICO, PRESETS, Preset
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer

PRECISIONS = ("float32", "tf32", "auto", "bf16")
OBJECTS = 7
BATCH = 16


def preset(step: Step) -> Preset:
    """Nano without masks; pico in the toy run."""
    return PICO if step.toy else PRESETS["nano"]


def config(step: Step, steps: int, precision: str) -> TrainConfig:
    """The default recipe with these settings."""
    return TrainConfig(
        steps=steps,
        batch_size=2 if step.toy else BATCH,
        precision=precision,
        checkpoint_every=10**6,
        evaluate_every=0,
    )


def pictures(folder: Path, count: int, classes: int) -> CocoSplit:
    """A COCO folder of noise pictures with boxes and box-shaped masks."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()

    def write(index: int) -> None:
        noise = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
        picture.save(folder / "train" / f"{index:06d}.jpg", quality=90)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, range(count)))
    annotations = []
    for image in range(count):
        for _ in range(OBJECTS):
            width, height = (int(side) for side in rng.integers(20, 200, 2))
            x, y = int(rng.integers(0, 640 - width)), int(rng.integers(0, 480 - height))
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, classes + 1)),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
    document = {
        "images": [
            {"id": image, "file_name": f"{image:06d}.jpg", "width": 640, "height": 480}
            for image in range(count)
        ],
        "annotations": annotations,
        "categories": [{"id": one + 1, "name": f"class {one}"} for one in range(classes)],
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return read_split(folder, "train")


@contextmanager
def peak_memory(step: Step) -> Iterator[list[float]]:
    """Fills a list with the GiB that PyTorch's tensors took at most in the block."""
    found: list[float] = []
    if step.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    yield found
    found.append(torch.cuda.max_memory_allocated() / 2**30 if step.on_gpu else 0.0)


def tell(step: Step, name: str, seconds: list[float], batch: int, memory_gib: float) -> None:
    """The median time of a step as a Record and as a line."""
    ms = 1e3 * statistics.median(seconds)
    step.record(
        ModelId("training", name, weights="random"),
        Latency(ms, num_samples=len(seconds), images_per_s=1e3 * batch / ms),
        Protocol(
            "sustained",
            "host",
            0.0,
            min_samples=len(seconds),
            max_samples=len(seconds),
            batch=batch,
        ),
    )
    step.say(
        f"{name:<44} {ms:8.2f} ms a step, {1e3 * batch / ms:7.1f} images/s, "
        f"{memory_gib:.2f} GiB, n {len(seconds)}"
    )


def trainer(step: Step, split: CocoSplit, folder: Path, precision: str, steps: int) -> Trainer:
    """A trainer on the step's device."""
    row = preset(step)
    row = replace(row, model=replace(row.model, num_classes=len(split.classes)))
    recipe = Recipe(row, config(step, steps, precision))
    return Trainer(recipe, split, folder, device=step.device)


def synced(step: Step) -> float:
    """The clock after all work on the device."""
    if step.on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def in_memory(step: Step, split: CocoSplit, folder: Path) -> None:
    """Each precision on batches that were made before; precisions take turns."""
    warm, timed = (1, 2) if step.toy else (5, 20)
    precisions = PRECISIONS[:2] if step.toy else PRECISIONS
    for precision in precisions:
        run = trainer(step, split, folder / precision, precision, 10**6)
        batches = _some_batches(run, split, 2 if step.toy else 4)
        seconds = []
        with peak_memory(step) as memory:
            for number in range(warm + timed):
                started = synced(step)
                run.train_step([batch.to(step.device) for batch in batches[number % len(batches)]])
                if number >= warm:
                    seconds.append(synced(step) - started)
        batch = run.recipe.train.batch_size
        tell(step, f"{_name(step)} {precision}, batches in memory", seconds, batch, memory[0])
        del run


def _some_batches(run: Trainer, split: CocoSplit, count: int) -> list[Any]:
    stream = training_batches(
        split,
        run.recipe.train,
        lambda step: [arch.input_hw for arch in run.recipe.archs_of_step(step)],
        start_step=0,
        stop_step=count,
        masks=run.recipe.masks,
    )
    return list(stream)


def loader_alone(step: Step, split: CocoSplit) -> None:
    """Batches per second without training, by threads."""
    recipe = Recipe(preset(step), config(step, 10**6, "auto"))
    steps = 2 if step.toy else 30
    for threads in sorted({2, usable_cores()}):
        stream = training_batches(
            split,
            recipe.train,
            lambda number: [arch.input_hw for arch in recipe.archs_of_step(number)],
            start_step=0,
            stop_step=steps + 4,
            masks=recipe.masks,
            threads=threads,
        )
        for _ in range(4):  # threads start, files enter the page cache
            next(stream)
        started = time.perf_counter()
        for _ in range(steps):
            next(stream)
        seconds = (time.perf_counter() - started) / steps
        stream.close()
        tell(
            step,
            f"loader alone, {threads} threads",
            [seconds],
            recipe.train.batch_size,
            0.0,
        )


def with_loader(step: Step, split: CocoSplit, folder: Path) -> None:
    """A whole run from files, by the loader's threads."""
    steps = 3 if step.toy else 60
    for threads in sorted({2, usable_cores()}):
        run = trainer(step, split, folder / f"threads {threads}", "auto", steps)
        run.loader_threads = threads
        ends: list[float] = []
        with peak_memory(step) as memory:
            run.run(lambda number, parts, ends=ends: ends.append(time.perf_counter()))
        first = len(ends) // 3
        seconds = [(ends[-1] - ends[first]) / (len(ends) - 1 - first)]
        name = f"{_name(step)} auto, from files, {threads} loader threads"
        tell(step, name, seconds, run.recipe.train.batch_size, memory[0])


def _name(step: Step) -> str:
    return "pico" if step.toy else "nano"


def main() -> None:
    """All parts."""
    step = Step.of("training", __doc__)
    torch.set_num_threads(1 if step.toy else 4)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        split = pictures(folder / "data", 8 if step.toy else 512, preset(step).model.num_classes)
        step.say(f"{len(split)} pictures written, {step.left_s:.0f} s left")
        in_memory(step, split, folder)
        loader_alone(step, split)
        with_loader(step, split, folder)


if __name__ == "__main__":
    main()
