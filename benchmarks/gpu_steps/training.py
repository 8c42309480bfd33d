"""Training throughput of Nano at batch 16: by precision, by loader workers (processes on a
GPU, threads elsewhere), and where a step waits
for the GPU (:mod:`benchmarks.pace`).

One batch that stays on the device shows what the GPU can do, JPEG files through the loader what a
run gets. "auto, exact products" is what training computed before TF32 became its default on GPUs.
Options of the recipe are measured beside the same training without them: ``channels_last=true``,
and ``resize_on=device``, whose resize is also timed alone and compared with the loader's pixels.
Without a GPU, TF32 is refused, and that must be so; any other refusal fails the step.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import pace
from benchmarks.gpu_steps.step import TOY, Step
from rfdetr_repro.bench.machine import usable_cores
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.device_input import filters_of, joined_pixels
from rfdetr_repro.data.network_input import View, network_input
from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.records.record import Latency, ModelId
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import preset
from rfdetr_repro.spec.protocol import Protocol

BATCH = 16
STEPS = 20  # that are timed
WARM = 5  # before them
WITHOUT_GPU = re.compile(r"needs a (CUDA )?GPU")  # in the message of a refusal for want of one


def tell(step: Step, name: str, found: Any, batch: int) -> None:
    """The time of a step as a Record and as a line."""
    steps = 1 if step.toy else STEPS
    step.record(
        ModelId("training", name, weights="random"),
        Latency(found.step_ms, num_samples=steps, images_per_s=found.images_per_s),
        Protocol("sustained", "host", 0.0, min_samples=steps, max_samples=steps, batch=batch),
    )
    memory = f", {found.peak_bytes / 2**30:.2f} GiB" if found.peak_bytes else ""
    waits = "" if found.waits is None else f", {len(found.waits)} waits {list(found.waits)}"
    step.say(
        f"{name:<48} {found.step_ms:8.2f} ms a step, {found.images_per_s:7.1f} images/s{memory}"
        f"{waits}"
    )


def measured(
    step: Step,
    split: CocoSplit,
    name: str,
    precision: str,
    source: str,
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
    needs_gpu: bool = False,
) -> None:
    """One measurement with a trainer of its own; after a failure the next one runs, and the step
    fails at its end. ``settings``: other fields of the recipe. ``needs_gpu``: a CPU must refuse it,
    for want of a GPU.
    """
    if step.left_s < 4:
        step.say(f"{name}: left out, the step's time is over")
        return
    batch = 2 if step.toy else BATCH
    with tempfile.TemporaryDirectory() as folder:
        size = TOY if step.toy else preset("nano")
        try:
            trainer = pace.trainer_for(
                split,
                Path(folder) / "run",
                step.device,
                size=size,
                batch=batch,
                precision=precision.split(",")[0],
                threads=threads,
                settings=settings,
            )
            if "exact" in precision:
                trainer.precision = trainer.precision._replace(tf32=False)
            steps, warm = (1, 1) if step.toy else (STEPS, WARM)
            found = pace.measure(trainer, source, steps=steps, warm=warm)
        except (RuntimeError, InputError) as error:
            reason = str(error).splitlines()[0][:160]
            wanted = needs_gpu and not step.on_gpu and isinstance(error, InputError)
            if wanted and WITHOUT_GPU.search(reason):
                step.say(f"{name}: refused, as it must be without a GPU: {reason}")
            else:
                step.wrong(f"{name}: failed: {reason}")
            return
    if needs_gpu and not step.on_gpu:
        step.wrong(f"{name}: it needs a GPU, and was not refused without one")
    tell(step, name, found, batch)
    del trainer
    if step.on_gpu:
        torch.cuda.empty_cache()


def resizing(step: Step) -> None:
    """The time of the resize of a batch on the device, copies included, and how many numbers of its
    images are not the loader's. The step fails where there are any.
    """
    count, side, rounds = (2, 64, 2) if step.toy else (BATCH, 384, 20)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(count)]
    views = [View((17 * i, 9 * i, 640 - i, 480), i % 2 == 1) for i in range(count)]
    pixels = joined_pixels(pictures, pinned=step.on_gpu)
    batch = Batch(pixels, [], filters_of(pictures, views, (side, side)))
    made = batch.to(step.device).images.cpu().numpy()
    expected = network_input(pictures, (side, side), normalised=True, views=views)
    wrong = int((made != expected).sum())
    if wrong:
        step.wrong(f"the device resized {wrong} of {made.size} numbers unlike the loader")
    start = time.perf_counter()
    for _ in range(rounds):
        batch.to(step.device)
    if step.on_gpu:
        torch.cuda.synchronize()
    ms = 1e3 * (time.perf_counter() - start) / rounds
    name = f"resize of {count} pictures of 640 x 480 to {side} x {side} px on the device"
    step.record(
        ModelId("training", name, weights="random"),
        Latency(ms, num_samples=rounds, images_per_s=1e3 * count / ms),
        Protocol("sustained", "host", 0.0, min_samples=rounds, max_samples=rounds, batch=count),
    )
    step.say(f"{name}: {ms:.2f} ms, {made.size - wrong} of {made.size} numbers are the loader's")


def main() -> None:
    """Precisions on a batch in memory, then the loader's workers, with options beside them."""
    step = Step.of("training", __doc__)
    torch.set_num_threads(1 if step.toy else 4)
    with tempfile.TemporaryDirectory() as temporary:
        split = pace.write_pictures(Path(temporary) / "data", images=8 if step.toy else 256)
        step.say(f"{len(split)} pictures written, {step.left_s:.0f} s left")
        precisions = ["auto", "float32", "bf16", "tf32", "auto, exact products"]
        for precision in ("auto", "tf32") if step.toy else precisions:
            name = f"{precision}, one batch on the device"
            measured(step, split, name, precision, pace.MADE_UP, needs_gpu=precision == "tf32")
        name = "auto, channels last, one batch on the device"
        measured(step, split, name, "auto", pace.MADE_UP, settings={"channels_last": True})
        resizing(step)
        for threads in sorted({2, usable_cores()}, reverse=True):
            name = f"auto, from files, {threads} loader workers"
            measured(step, split, name, "auto", pace.JPEG, threads)
            name += ", resized on the device"
            resized = {"resize_on": "device"}
            measured(step, split, name, "auto", pace.JPEG, threads, resized)
    step.end()


if __name__ == "__main__":
    main()
