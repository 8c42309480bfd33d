"""A small benchmark from made-up matches: any number of architectures, images and classes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from rfdetr_repro.nasbench.bench import NasBench
from rfdetr_repro.nasbench.columns import FORMAT, KINDS, Part, ranked
from rfdetr_repro.nasbench.latency import Latencies, Runtime
from rfdetr_repro.spec.arch import Arch, SearchSpace

SMALL = SearchSpace((64, 96), (16,), (1,), (0, 1, 2), (5, 10, 20))
CLASSES = 3


def made_up(arch: Arch, objects: np.ndarray, rng: np.random.Generator) -> tuple[Any, ...]:
    """Label, image, score, boxes and masks of detections that are better for larger models."""
    quality = (
        0.25 + 0.12 * arch.decoder_layers + 0.05 * np.log2(arch.queries) * (arch.resolution / 96)
    )
    image, label = np.nonzero(objects)
    others = rng.integers(0, len(objects), 2 * arch.queries)
    image = np.append(image, others)
    label = np.append(label, rng.integers(0, CLASSES, len(others)))
    right = (rng.random(len(image)) < quality) & (np.arange(len(image)) < (objects > 0).sum())
    boxes = np.where(right, (1 << rng.integers(1, 11, len(image))) - 1, 0)
    masks = np.where(right, boxes >> rng.integers(0, 3, len(image)), 0)
    score = (rng.integers(0, 40, len(image)) / 50 + 0.2 * right).astype(np.float32)  # with ties
    return label, image, score, boxes, masks


def small_part(seed: int = 0, split: str = "val", images: int = 40) -> Part:
    """A part of SMALL."""
    rng = np.random.default_rng((seed, images))
    objects = np.random.default_rng(images).integers(0, 2, (images, CLASSES))
    found = [ranked(*made_up(arch, objects, rng), CLASSES) for arch in SMALL]
    every = np.ones(images, dtype=bool)
    accuracy = [[one.average_precision(kind, objects, every) for kind in KINDS] for one in found]
    about = {
        "format": FORMAT,
        "seed": seed,
        "split": split,
        "space": {name: list(axis) for name, axis in asdict(SMALL).items()},
        "training": "made up",
    }
    return Part.of(about, objects, np.array(accuracy), found)


def small_latencies() -> Latencies:
    """More layers, queries and pixels take longer; two are measured."""
    archs = tuple(SMALL)
    ms = [
        1 + arch.decoder_layers + arch.queries / 20 + (arch.resolution / 96) ** 2 for arch in archs
    ]
    measured = {archs[k].key: (1.01 * ms[k], ms[k], 1.02 * ms[k]) for k in (0, 7)}
    runtime = Runtime({"machine": "none"}, measured, tuple(ms), 0.01, 0.02)
    return Latencies(archs, {"onnxruntime-1": runtime})


def small_bench(images: int = 40) -> NasBench:
    """The benchmark of SMALL with two seeds on val."""
    parts = {(seed, "val"): small_part(seed, "val", images) for seed in (0, 1)}
    return NasBench(parts, small_latencies())
