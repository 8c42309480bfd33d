"""Estimates the duration of a search from a few passes timed on this machine.

Three backbone groups (least, median and most operations) are timed on a few images, and one engine
is exported; the times of the other groups are interpolated along a line through the three, over
operations. The only AP that is computed is of random matches, to time the decisions of a race.
Nothing is written.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rfdetr_repro.evaluation.matches import THRESHOLDS, Matches, Objects, Resamples
from rfdetr_repro.evaluation.predict_split import BATCH, device_of
from rfdetr_repro.export.artifact import ArtifactMeta
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.torch import export_torch
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops.device import named, peak_bytes
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.unfinished import temporary_folder

from .engines import Fit
from .evaluation import by_backbone
from .race import Rules, predictive_weights, stage_ends
from .rounds import short_form

REPEATS = 3
COLD_S = 30.0  # passes that take longer are not timed twice
TIMED_IMAGES = 400  # number of images of the resampled AP that is timed


@dataclass(frozen=True)
class Job:
    """The search to plan: a split of ``images`` images, a space, and the number of measurements."""

    space: SearchSpace
    images: int
    fit: Fit
    candidates: int
    # protocols of a confirmed file; engines are measured in the mode of the first
    protocols: tuple[Protocol, ...]
    rules: Rules | None = None  # rules of a race; None: exhaustive
    in_torch: bool = False  # whether a file for PyTorch is written in place of an ONNX file


@dataclass(frozen=True)
class Plan:
    """Estimates in seconds.

    ``timed``: seconds per image of the groups that were timed, by the key of their first member.
    """

    job: Job
    device: str
    groups: int
    timed: dict[str, float]
    passes_s: float  # passes of all groups over all images
    engine_s: float  # export of one engine
    measure_s: float  # longest measurement of one engine by the short protocol
    confirm_s: float  # all protocols of one candidate
    memory_bytes: int  # peak memory so far of this process, or of PyTorch on the GPU
    # decisions of a race: resampled AP of every configuration at every stage
    decisions_s: float = 0.0

    @property
    def latency_s(self) -> float:
        """Seconds for the latency model, at most."""
        return self.job.fit.sizes(len(self.job.space))[-1] * (self.engine_s + self.measure_s)

    @property
    def candidates_s(self) -> float:
        """Seconds for the full protocol of all candidates."""
        return self.job.candidates * (self.engine_s + self.confirm_s)

    @property
    def total_s(self) -> float:
        """Seconds for the whole search."""
        return self.latency_s + self.passes_s + self.decisions_s + self.candidates_s

    def lines(self) -> list[str]:
        """The lines to print."""
        job = self.job
        size = len(self.job.space)
        sizes = job.fit.sizes(size)
        least = 0.0 if job.rules is None else job.rules.first_images(job.images) / job.images
        counted = job.space.counted()
        race = (
            f"; a race does at least {least:.0%} of the passes, and all passes of the survivors"
            if least
            else ""
        )
        return [
            f"{size} configurations of {self.groups} backbones; {job.images} images; on "
            f"{self.device}",
            *([counted] if counted else []),
            *(
                f"  group of {key}: {1e3 * seconds:.3g} ms per image, shared"
                for key, seconds in self.timed.items()
            ),
            f"accuracy: {_hours(self.passes_s)} for all groups{race}",
            *(
                [
                    f"decisions of the race: {_hours(self.decisions_s)} at most, if no "
                    f"configuration is dropped"
                ]
                if job.rules
                else []
            ),
            f"latency model: at most {sizes[-1]} engines ({sizes[-1] / size:.1%}), "
            f"{_hours(self.latency_s)} at most",
            f"confirmation: {job.candidates} candidates, {_hours(self.candidates_s)} at most, AP "
            f"not counted",
            f"whole search: {_hours(self.total_s)} at most; memory so far "
            f"{self.memory_bytes / 2**30:.1f} GiB at its peak",
        ]


def plan(detector: Detector, job: Job) -> Plan:
    """Times passes of ``detector`` on its device and returns the estimates."""
    groups = list(by_backbone(job.space.check()))
    costs = [group_flops(detector.config, group) for group in groups]
    order = np.argsort(costs, kind="stable")
    chosen = list(
        dict.fromkeys(int(order[place]) for place in (0, len(order) // 2, len(order) - 1))
    )
    seconds = {index: _time_group(detector, groups[index]) for index in chosen}
    known = np.array([costs[index] for index in chosen])
    per_image = np.interp(costs, known, [seconds[index] for index in chosen])
    middle = groups[chosen[len(chosen) // 2]][0]
    return Plan(
        job=job,
        device=named(device_of(detector)),
        groups=len(groups),
        timed={groups[index][0].key: seconds[index] for index in chosen},
        passes_s=float(per_image.sum()) * job.images,
        engine_s=_time_export(detector, middle, in_torch=job.in_torch),
        measure_s=rounds_s(short_form(job.protocols[0])),
        confirm_s=sum(
            one.builds * max(one.timeout_s, one.max_samples * one.buffer_ms / 1e3)
            for one in job.protocols
        ),
        memory_bytes=peak_bytes(device_of(detector)),
        decisions_s=decisions_s(job, detector.config.num_classes),
    )


def rounds_s(engines: Protocol) -> float:
    """Longest measurement of an engine in s: its waits in all rounds and the same time for its
    runs, or its time limit.
    """
    waits = (
        engines.max_samples * engines.buffer_ms / 1e3
        if engines.mode == "buffered"
        else engines.timeout_s
    )
    return min(engines.timeout_s, 2 * waits)


def decisions_s(job: Job, classes: int) -> float:
    """Seconds of a race's decisions, if no configuration is dropped: resampled AP, timed on random
    matches, at every stage. An exhaustive search decides nothing.

    The result is CPU time, because one thread does the work.
    """
    if job.rules is None:
        return 0.0
    images = min(job.images, TIMED_IMAGES)
    queries = max(job.space.queries)
    found, objects = made_up_matches(images, queries, classes)
    resamples = Resamples.of(
        objects, predictive_weights(range(images // 2 or 1), images, job.rules)
    )
    started = time.process_time()
    resamples.average_precision(found, range(THRESHOLDS))
    per_image = (time.process_time() - started) / (images // 2 or 1)
    *stages, last = stage_ends(job.images, job.rules)
    # after the last stage all resamples are equal, so only one is computed
    whole = last / job.rules.resamples
    return len(list(job.space)) * per_image * (sum(stages) + whole)


def made_up_matches(images: int, queries: int, classes: int) -> tuple[Matches, Objects]:
    """Random matches with ``queries`` detections and seven objects per image, as in COCO; the cost
    depends on nothing else.
    """
    rng = np.random.default_rng(0)
    count = np.zeros((images, classes), dtype=np.int32)
    np.add.at(count, (np.repeat(np.arange(images), 7), rng.integers(0, classes, 7 * images)), 1)
    image = np.repeat(np.arange(images, dtype=np.int32), queries)
    label = rng.integers(0, classes, len(image)).astype(np.int16)
    score = rng.random(len(image)).astype(np.float32)
    hit = rng.random(len(image)) < min(1.0, 6 / queries)
    accepted = np.where(hit, (1 << rng.integers(1, THRESHOLDS + 1, len(image))) - 1, 0).astype(
        np.uint16
    )
    order = np.lexsort((-score, label, image))
    columns = [column[order] for column in (image, label, score, accepted, np.zeros_like(accepted))]
    return Matches(*columns), Objects(count)


def group_flops(config: ModelConfig, group: Sequence[Arch]) -> float:
    """Operations of a shared pass: the backbone once, and every query count through the deepest
    decoder of the group.
    """
    depth = max(arch.decoder_layers for arch in group)
    backbone = total_flops(
        config, min(group, key=lambda arch: (arch.decoder_layers, arch.queries)), "eager"
    )
    deepest = {
        arch.queries: total_flops(config, arch, "eager")
        for arch in group
        if arch.decoder_layers == depth
    }
    return float(backbone + sum(flops - backbone for flops in deepest.values()))


@torch.inference_mode()
def _time_group(detector: Detector, group: list[Arch]) -> float:
    """Seconds per image of the shared pass, with a batch of 1 on a slow CPU."""
    first = group[0]
    device = device_of(detector)
    depths = [arch.decoder_layers for arch in group]
    queries = [arch.queries for arch in group]

    def seconds(count: int) -> float:
        # of one thread the CPU time, which other programs of the machine do not lengthen
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        images = torch.rand(count, 3, *first.input_hw, device=device)
        started = clock()
        maps = detector.features(images, first.patch, first.windows)
        detector.decode_shared(
            maps, first.input_hw, depths, queries, masks=detector.mask_head is not None
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (clock() - started) / count

    def timed() -> float:
        once = seconds(1)
        if once < COLD_S:  # the first pass allocates memory and starts threads
            once = min(once, seconds(1))
        count = BATCH if once < 1.0 or device.type == "cuda" else 1
        return statistics.median([seconds(count) for _ in range(REPEATS)]) if count > 1 else once

    threads = torch.get_num_threads()
    together = timed()
    if device.type == "cuda" or threads == 1 or together > COLD_S:
        return together
    # threads that wait for each other on a busy machine take many times as long for a short while
    torch.set_num_threads(1)
    try:
        return min(together, timed())
    finally:
        torch.set_num_threads(threads)


def _time_export(detector: Detector, arch: Arch, *, in_torch: bool) -> float:
    export, name = (export_torch, "plan.safetensors") if in_torch else (export_onnx, "plan.onnx")
    started = time.perf_counter()
    config = detector.config
    names = tuple(f"class {index}" for index in range(config.num_classes))
    with temporary_folder() as folder:
        meta = ArtifactMeta(
            ModelId("rfdetr", arch.key, weights="random"), names, tuple(range(len(names)))
        )
        export(detector.slice(arch), Path(folder, name), meta=meta)
    return time.perf_counter() - started


def _hours(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
