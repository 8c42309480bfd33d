"""Latency of whole models on PyTorch's backends, by this project's own protocol.

Six sizes with random weights (a static graph takes the same time whatever its weights), as one CUDA
graph in float32, bfloat16 and float16; sustained for 3 s and, as in the paper, 24 samples with 200
ms of rest before each. Rows that are measured together are interleaved: float32, and at the end the
two halves. Between them float32 without a graph, sustained for 1 s, and three of the sustained CUDA
graphs a second time without the watch on the GPU: its polling must not show. What no longer fits
into the step's time is left out; a row that fails fails the step at its end. Without a GPU the same
is measured on PyTorch without graphs.
"""

from __future__ import annotations

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

from benchmarks.gpu_steps.step import SOURCE, TOY, Step
from benchmarks.subjects import random_meta
from rfdetr_repro.bench.cells import Context, Row
from rfdetr_repro.bench.confirm import confirm_all
from rfdetr_repro.bench.gpu.device import Watched, watching
from rfdetr_repro.bench.watching import Silent
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.export.torch import export_torch
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import Latency
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.bfloat16 import computed_in
from rfdetr_repro.spec.presets import PRESETS
from rfdetr_repro.spec.protocol import Protocol

SIZES = ("nano", "small", "medium", "large", "seg-nano", "seg-medium")
FEW = ("nano", "medium", "seg-medium")  # without the watch
PRECISIONS = ("fp32", "bf16", "fp16")
SUSTAINED = Protocol("sustained", warmup=5, min_time_s=3.0, timeout_s=10.0)
EAGER = Protocol("sustained", warmup=5, min_time_s=1.0, timeout_s=10.0)
RESTED = Protocol("buffered", warmup=3, min_samples=24, max_samples=24, timeout_s=20.0)
UNWATCHED = "without the watch"
OPENING_S = 1.5  # of a session: the model is put together, moved and captured


def exported(name: str, folder: str) -> str:
    """Exports a size with seeded random weights; returns the file's path."""
    row = TOY if name == "toy" else PRESETS[name]
    torch.manual_seed(0)
    torch.set_num_threads(1 if name == "toy" else 2)
    model = replace(row.model, groups=1)
    detector = Detector(model, row.arch).eval().slice(row.arch)
    meta = random_meta(name, model.num_classes)
    return str(export_torch(detector, Path(folder) / f"{name}.safetensors", meta=meta).path)


def artifacts(step: Step, folder: str) -> dict[tuple[str, str], Artifact]:
    """(size, precision) -> file; the files are made by several processes at once. A session
    computes its float32 file in the precision.
    """
    sizes = ("toy",) if step.toy else SIZES
    precisions = PRECISIONS[:2] if step.toy else PRECISIONS
    with ProcessPoolExecutor(len(sizes), mp_context=get_context("spawn")) as pool:
        paths = list(pool.map(exported, sizes, [folder] * len(sizes)))
    files = {name: load_artifact(Path(path)) for name, path in zip(sizes, paths, strict=True)}
    return {
        (name, precision): file if precision == "fp32" else computed_in(file, precision)
        for precision in precisions
        for name, file in files.items()
    }


def rows_of(
    files: Mapping[tuple[str, str], Artifact], backend: str, threads: int
) -> dict[str, Row]:
    """A row for each file."""

    def opened(artifact: Artifact, build: int) -> Any:
        return open_session(artifact, backend, threads=threads)

    return {
        f"{name} {precision} {backend}": Row(artifact, partial(opened, artifact))
        for (name, precision), artifact in files.items()
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
    protocols: Sequence[Protocol],
    there: Watched | None,
    *,
    twin: str = "never",
    note: str = "",
) -> None:
    """Measures rows by each protocol for which there is time, all on the same sessions, and prints
    each. Rows without the watch go into a store of their own, because their requests are the same.
    """
    fitting = fits(step.left_s, len(rows), protocols)
    for protocol in protocols[len(fitting) :]:
        names = f"{', '.join(rows)} {protocol.rhythm} {note}"
        step.say(f"{names}: left out, {step.left_s:.0f} s are left")
    if not fitting:
        return
    context = Context(
        campaign=f"{SOURCE}, {note}" if note else SOURCE,
        command=f"python -m benchmarks.gpu_steps.{step.name}",
        machine=there.machine if there is not None else None,
    )
    path = step.store.path
    store = Store(path.with_name("latency-unwatched.jsonl") if note else path)
    watch = there.watch if there is not None and not note else None
    outcome = confirm_all(
        rows, fitting, store, context=context, watch=watch, twin=twin, report=Told(step, note)
    )
    for name, error in outcome.failures.items():
        step.wrong(f"{name} {note}: failed: {error}")


def fits(left_s: float, rows: int, protocols: Sequence[Protocol]) -> list[Protocol]:
    """The first protocols that so many rows can be measured by in the time that is left."""
    needed_s = rows * OPENING_S
    found = []
    for protocol in protocols:
        rest_s = protocol.buffer_ms / 1e3 if protocol.mode == "buffered" else 0.0
        needed_s += rows * (protocol.min_time_s or protocol.max_samples * rest_s)
        if needed_s > left_s:
            break
        found.append(protocol)
    return found


class Told(Silent):
    """Prints each latency as soon as it is stored."""

    def __init__(self, step: Step, note: str) -> None:
        """Prints by ``step``; ``note`` ends each line."""
        self.step = step
        self.note = note

    def finished(self, name: str, protocol: Protocol, latency: Latency) -> None:
        """The median with its interval, the device's own time, and whether the clock fell."""
        low, high = latency.ci_low_ms, latency.ci_high_ms
        interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        device = f", device {latency.gpu_median_ms:.3f}" if latency.gpu_median_ms else ""
        itself = f", A/A {latency.itself.told}" if latency.itself else ""
        self.step.say(
            f"{name:<30} {protocol.rhythm:<16} {latency.median_ms:8.3f} ms{interval}{device}, n "
            f"{latency.num_samples}, throttled {latency.throttled}{itself} {self.note}"
        )


def brief(protocol: Protocol) -> Protocol:
    """The protocol with as few samples as it can have, to try the step."""
    few = replace(protocol, warmup=1, min_samples=2, max_samples=2, threads=1)
    return replace(few, buffer_ms=1.0, min_time_s=protocol.min_time_s / 100)


def main() -> None:
    """Measures by every protocol, the most wanted first."""
    step = Step.of("latency", __doc__)
    sustained, rested, eager = (
        brief(protocol) if step.toy else protocol for protocol in (SUSTAINED, RESTED, EAGER)
    )
    graph = "torch-graph" if step.on_gpu else "torch"
    with tempfile.TemporaryDirectory() as folder, watched(step) as there:
        files = artifacts(step, folder)
        step.say(f"{len(files)} files, {step.left_s:.0f} s left")
        plain = {key: file for key, file in files.items() if key[1] == "fp32"}
        halves = {key: file for key, file in files.items() if key[1] != "fp32"}
        few = {key: file for key, file in plain.items() if step.toy or key[0] in FEW}
        measure(
            step,
            rows_of(plain, graph, sustained.threads),
            [sustained, rested],
            there,
            twin="always",
        )
        measure(step, rows_of(plain, "torch", sustained.threads), [eager], there)
        measure(step, rows_of(few, graph, sustained.threads), [sustained], there, note=UNWATCHED)
        measure(step, rows_of(halves, graph, sustained.threads), [sustained, rested], there)
    step.end()


if __name__ == "__main__":
    main()
