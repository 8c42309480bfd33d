"""How many images a second a training takes in, by precision and by loader threads.

    python -m benchmarks.pace [--size nano] [--batch 16] [--steps 20] [--device cuda]

Three sources of batches: one made-up batch that is on the device already (no loader), pictures that
are decoded and in memory (resizing only), and a folder of JPEGs of 640 x 480 px. Rates are over all
timed steps, from a synchronisation to a synchronisation, after some steps to warm up. ``waits``
names the lines of one step at which PyTorch reports that the program waits for the GPU; None on the
CPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.ops.device import choose_device, named, peak_bytes, products
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.presets import Preset, preset
from rfdetr_repro.spec.train_config import PRECISIONS, TrainConfig
from rfdetr_repro.train.losses import detection_losses
from rfdetr_repro.train.mask_points import PointDraws
from rfdetr_repro.train.matcher import match
from rfdetr_repro.train.plan import _batch
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer

MADE_UP = "made up"
MEMORY = "memory"
JPEG = "jpeg"
SOURCES = (MADE_UP, MEMORY, JPEG)
OBJECTS = 7  # of an image, COCO's mean
CLASSES = 80
WARM = 5  # steps that are not timed


@dataclass(frozen=True)
class Pace:
    """Figures of one training."""

    source: str
    precision: str  # as asked
    words: str  # as the device computes it, and the options of the recipe
    threads: int | None  # of the loader; None: no loader, or one per core
    batch: int
    steps: int
    images_per_s: float
    step_ms: float  # mean
    peak_bytes: int  # of PyTorch on a GPU, of the process on a CPU
    waits: tuple[str, ...] | None  # "file:line", once for each time
    loss: float  # of the last step


def write_pictures(
    folder: Path, images: int = 128, height: int = 480, width: int = 640, seed: int = 0
) -> CocoSplit:
    """A train split of JPEGs of smooth noise with grain, and seven boxes each."""
    rng = np.random.default_rng(seed)
    train = folder / "train"
    train.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)],
    }
    for number in range(images):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
        name = f"{number:06d}.jpg"
        Image.fromarray(pixels).save(train / name, quality=90)
        document["images"].append(
            {"id": number, "file_name": name, "width": width, "height": height}
        )
        for _ in range(OBJECTS):
            w, h = rng.uniform(0.05, 0.4, 2) * (width, height)
            x, y = rng.uniform(0, 1, 2) * (width - w, height - h)
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": int(rng.integers(1, CLASSES + 1)),
                    "bbox": [float(value) for value in (x, y, w, h)],
                    "area": float(w * h),
                    "iscrowd": 0,
                }
            )
    (train / "_annotations.coco.json").write_text(json.dumps(document))
    return read_split(folder, "train")


def trainer_for(
    split: CocoSplit,
    folder: Path,
    device: torch.device,
    *,
    size: str | Preset = "nano",
    batch: int = 16,
    precision: str = "auto",
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Trainer:
    """A trainer of a fixed size with random weights and without masks, which has not begun.
    ``settings``: other fields of its recipe.
    """
    row = preset(size) if isinstance(size, str) else size
    row = replace(row, model=replace(row.model, masks=False))
    # as many steps as nobody takes here
    config = TrainConfig(steps=10**6, batch_size=batch, precision=precision, **dict(settings or {}))
    return Trainer(Recipe(row, config), split, folder, device=device, loader_threads=threads)


def batches_of(trainer: Trainer, source: str) -> Iterator[list[Batch]]:
    """Batches of the steps to come."""
    if source == MADE_UP:
        made = _batch(trainer, trainer.recipe.preset.arch, trainer.recipe.train.batch_size, OBJECTS)
        step = [made.to(trainer.device)]
        while True:
            yield step
    if source == MEMORY:
        trainer.split.cache_images(trainer.split.decoded_bytes)
        for index in range(len(trainer.split)):
            trainer.split.load_image(index)
    yield from trainer._batches(evaluated=False)


def measure(trainer: Trainer, source: str, steps: int = 20, warm: int = WARM) -> Pace:
    """Takes ``warm`` + ``steps`` steps, and one more whose waits are counted."""
    stream = batches_of(trainer, source)
    device = trainer.device
    try:
        for batches in islice(stream, warm):
            trainer.train_step(batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        for batches in islice(stream, steps):
            parts = trainer.train_step(batches)
        loss = parts["loss"]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        peak = peak_bytes(device)
        waits = waits_of(trainer, next(stream)) if device.type == "cuda" else None
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
        trainer.split.decoded = None
    config = trainer.recipe.train
    return Pace(
        source,
        config.precision,
        trainer.words,
        None if source == MADE_UP else trainer.loader_threads,
        config.batch_size,
        steps,
        steps * config.batch_size / seconds,
        1e3 * seconds / steps,
        peak,
        waits,
        loss,
    )


def waits_of(trainer: Trainer, batches: list[Batch]) -> tuple[str, ...]:
    """Lines of one step at which the program waits for the GPU, by PyTorch's own warnings."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train_step(batches)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return tuple(
        f"{Path(one.filename).name}:{one.lineno}"
        for one in caught
        if "synchroniz" in str(one.message)
    )


def profile(trainer: Trainer, batches: list[Batch], rows: int = 15) -> list[str]:
    """Lines about one step on a GPU by PyTorch's profiler: the device's busy time against the wall
    time, and the kernels that take most. The profiler itself slows the host down.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    torch.cuda.synchronize(trainer.device)
    start = time.perf_counter()
    with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        trainer.train_step(batches)
        torch.cuda.synchronize(trainer.device)
    wall_ms = 1e3 * (time.perf_counter() - start)
    averages = found.key_averages()
    kernels = [one for one in averages if one.device_type != torch.profiler.DeviceType.CPU]
    busy_ms = sum(one.self_device_time_total for one in kernels) / 1e3
    launches = sum(one.count for one in kernels)
    told = [f"{launches} kernels and copies, {busy_ms:.1f} ms of {wall_ms:.1f} ms"]
    for one in sorted(kernels, key=lambda one: -one.self_device_time_total)[:rows]:
        told.append(f"{one.self_device_time_total / 1e3:8.2f} ms {one.count:5} x {one.key[:90]}")
    host = sorted(averages, key=lambda one: -one.self_cpu_time_total)[:rows]
    told += [
        f"{one.self_cpu_time_total / 1e3:8.2f} ms host {one.count:5} x {one.key}" for one in host
    ]
    return told


def parts_of_a_step(trainer: Trainer, batches: list[Batch]) -> dict[str, float]:
    """Milliseconds of the parts of one step, with a synchronisation after each part: what the host
    and the device need when neither may run ahead.
    """
    device = trainer.device
    config = trainer.recipe.train
    arch = trainer.recipe.preset.arch
    detector = trainer.state.detector
    spent: dict[str, float] = {}

    def clock(name: str, work: Any) -> Any:
        start = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent[name] = 1e3 * (time.perf_counter() - start)
        return result

    batch = clock("copy", lambda: batches[0].to(device))
    targets = batch.targets
    draws = PointDraws(0)
    groups = detector.config.groups
    with products(device, trainer.precision.tf32):
        with trainer._autocast(trainer.precision.dtype):
            maps = clock(
                "backbone", lambda: detector.features(batch.images, arch.patch, arch.windows)
            )
        maps = [one.float() for one in maps]
        with trainer._autocast(trainer.precision.decoder):
            made = clock(
                "decoder", lambda: detector.training_outputs(maps, arch.input_hw, arch).float()
            )
        stages = [*made.layers, made.encoder]
        clock("matching", lambda: match(stages, targets, groups, config, draws))
        total = clock(
            "matching and losses", lambda: detection_losses(made, targets, groups, config)[0]
        )
        clock("backward", lambda: total.backward())
    clock("update", trainer.update)
    return spent


def plan(threads: Sequence[int], precisions: Sequence[str]) -> list[tuple[str, str, int | None]]:
    """(source, precision, loader threads) in the order of their worth: each precision without a
    loader, then the loader at the default precision.
    """
    alone = [(MADE_UP, precision, None) for precision in precisions]
    return [*alone, *((JPEG, "auto", count) for count in threads), (MEMORY, "auto", max(threads))]


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = arguments.add_argument
    add("--size", default="nano", help="name of a size (default: nano)")
    add("--batch", type=int, default=16, help="images per step (default: 16)")
    add("--steps", type=int, default=20, help="timed steps (default: 20)")
    add("--images", type=int, default=128, help="pictures to write (default: 128)")
    add("--device", help="cpu or cuda (default: a GPU if there is one)")
    add("--threads", type=int, nargs="+", default=[2, 16], help="loader threads (default: 2 16)")
    add("--precisions", nargs="+", choices=PRECISIONS, help="default: all that the device has")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line of JSON per measurement."""
    args = parser().parse_args(argv)
    device = choose_device(args.device)
    on_gpu = device.type == "cuda"
    precisions = args.precisions or (PRECISIONS if on_gpu else ("float32", "bf16"))
    print(f"on {named(device)}")
    with tempfile.TemporaryDirectory() as place:
        split = write_pictures(Path(place) / "data", args.images)
        for source, precision, threads in plan(args.threads, precisions):
            trainer = trainer_for(
                split,
                Path(place) / "run",
                device,
                size=args.size,
                batch=args.batch,
                precision=precision,
                threads=threads,
            )
            found = measure(trainer, source, args.steps, min(WARM, args.steps))
            print(json.dumps(asdict(replace(found, images_per_s=round(found.images_per_s, 2)))))
            del trainer


if __name__ == "__main__":
    raise SystemExit(run_main(main))
