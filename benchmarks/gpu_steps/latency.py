"""Latency of whole models on PyTorch's backends, by this project's own protocol.

Six sizes with random weights (a static graph takes the same time whatever its weights), eager and
as one CUDA graph, in float32, bfloat16 and float16; sustained and, as in the paper, with 200 ms of
rest before each sample. All rows of a protocol are interleaved. The sustained CUDA graphs are
measured a second time without the watch on the GPU: its polling must not show.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps.step import SOURCE, Step
from benchmarks.subjects import random_meta
from rfdetr_repro.bench.confirm import Context, Row, confirm_all
from rfdetr_repro.bench.gpu.device import Watched, watching
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.export.torch import export_torch
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.spec.presets import PICO, PRESETS, Preset
from rfdetr_repro.spec.protocol import Protocol

SIZES = ("nano", "small", "medium", "large", "seg-nano", "seg-medium")
PRECISIONS = ("fp32", "bf16", "fp16")
SUSTAINED = Protocol("sustained", warmup=5, min_time_s=1.0, timeout_s=10.0, builds=1)
RESTED = Protocol("buffered", warmup=3, min_samples=24, max_samples=24, timeout_s=20.0, builds=1)
QUICK = ("sustained", 0.1)


def exported(name: str, folder: str, precision: str) -> str:
    """Exports a size with seeded random weights; returns the file's path."""
    row = subject(name)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    detector = Detector(row.model, row.arch).eval().slice(row.arch)
    path = Path(folder) / f"{name}-{precision}.safetensors"
    meta = random_meta(name, row.model.num_classes)
    return str(export_torch(detector, path, meta=meta, precision=precision).path)


def subject(name: str) -> Preset:
    """The preset of a size; pico is no released size."""
    return PICO if name == "pico" else PRESETS[name]


def artifacts(step: Step, folder: str) -> dict[tuple[str, str], Artifact]:
    """(size, precision) -> file, made by several processes at once."""
    sizes = ("pico",) if step.toy else SIZES
    precisions = PRECISIONS[:2] if step.toy else PRECISIONS
    wanted = list(itertools.product(sizes, precisions))
    with ProcessPoolExecutor(1 if step.toy else 8, mp_context=get_context("spawn")) as pool:
        paths = pool.map(exported, *zip(*((n, folder, p) for n, p in wanted), strict=True))
        return {key: load_artifact(Path(path)) for key, path in zip(wanted, paths, strict=True)}


def rows_of(files: Mapping[tuple[str, str], Artifact], backends: Sequence[str]) -> dict[str, Row]:
    """A row for each file and backend."""

    def opened(artifact: Artifact, backend: str, build: int) -> Any:
        return open_session(artifact, backend, threads=2)

    return {
        f"{name} {precision} {backend}": Row(artifact, partial(opened, artifact, backend))
        for (name, precision), artifact in files.items()
        for backend in backends
    }


@contextmanager
def watched(step: Step) -> Iterator[Watched | None]:
    """The watch on the GPU; None without a GPU."""
    if not step.on_gpu:
        yield None
        return
    with watching(force=True, say=step.say) as found:
        yield found


def measure(
    step: Step,
    rows: Mapping[str, Row],
    protocol: Protocol,
    there: Watched | None,
    *,
    note: str = "",
    twin: str = "never",
) -> dict[str, Record]:
    """Measures rows by one protocol into the step's store and prints each."""
    if step.left_s < 5:
        step.say(f"{protocol.rhythm} {note}: left out, the step's time is over")
        return {}
    context = Context(
        campaign=SOURCE + (f", {note}" if note else ""),
        command=f"python -m benchmarks.gpu_steps.{step.name}",
        machine=there.machine if there is not None else None,
    )
    store = Store(step.store.path)
    watch = there.watch if there is not None and note != UNWATCHED else None
    outcome = confirm_all(rows, [protocol], store, context=context, watch=watch, twin=twin)
    for name, error in outcome.failures.items():
        step.say(f"{name}: failed: {error}")
    found = {name: records[0] for name, records in outcome.records.items()}
    for name, record in found.items():
        step.say(f"{name:<32} {protocol.rhythm:<16} {told(record)} {note}")
    return found


UNWATCHED = "without the watch"


def told(record: Record) -> str:
    """Median with its interval, the GPU's own time, and whether the clock fell."""
    latency = record.latency
    if latency is None:
        return "no latency"
    low, high = latency.ci_low_ms, latency.ci_high_ms
    interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    device = f", device {latency.gpu_median_ms:.3f}" if latency.gpu_median_ms else ""
    return (
        f"{latency.median_ms:8.3f} ms{interval}{device}, n {latency.num_samples}, throttled "
        f"{latency.throttled}"
    )


def main() -> None:
    """Measures by every protocol."""
    step = Step.of("latency", __doc__)
    sustained = replace(SUSTAINED, min_time_s=0.1) if step.toy else SUSTAINED
    rested = replace(RESTED, min_samples=2, max_samples=2) if step.toy else RESTED
    graphs = ("torch-graph",) if step.on_gpu else ("torch",)
    with tempfile.TemporaryDirectory() as folder, watched(step) as there:
        files = artifacts(step, folder)
        step.say(f"{len(files)} files exported, {step.left_s:.0f} s left")
        plain = {key: file for key, file in files.items() if key[1] == "fp32"}
        measure(step, rows_of(files, graphs), sustained, there, twin="always")
        measure(step, rows_of(plain, graphs), rested, there)
        if step.on_gpu:
            measure(step, rows_of(plain, ("torch",)), sustained, there)
            halves = {key: file for key, file in files.items() if key[1] == "fp16"}
            measure(step, rows_of(halves, graphs), rested, there)
            few = {key: file for key, file in plain.items() if key[0] in ("nano", "medium")}
            measure(step, rows_of(few, graphs), sustained, there, note=UNWATCHED)


if __name__ == "__main__":
    main()
