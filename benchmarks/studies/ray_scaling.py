"""How much faster two Ray workers of one thread are than one, at the search's own work: shared
accuracy of backbone groups.

    python -m benchmarks.studies.ray_scaling [--images 8] [--rounds 5] [--workers 2]

A pico supernet with random weights (the passes cost the same) is evaluated on composed images:
every backbone group of the pico space is one item. In each round three pools take turns in random
order: this process (one thread), one Ray worker, N Ray workers. Start-up (cluster, handshake,
loading, first items) is outside the timing and is printed by itself. Results of the three must be
equal. Other load on the machine spoils wall time, so the ratio is also given from what it spoils
less: CPU seconds per item, and the share of the run in which workers were at work (handing items
out costs the rest). Fails below 1.7 times by wall time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.model.checkpoints.native import ModelCard, load_supernet, save_detector
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.search.cluster.pool import LocalPool
from rfdetr_repro.search.cluster.ray_pool import RayPool
from rfdetr_repro.search.evaluation import by_backbone, shared_detections
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import MOST_PROCESSES, whole
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.spec.presets import PICO, PICO_SPACE

TARGET = 1.7


@dataclass(frozen=True)
class Group:
    """Architectures that share one backbone pass."""

    archs: tuple[Arch, ...]


@dataclass(frozen=True)
class Done:
    """Result of an item: AP by kind, CPU time and wall time in s."""

    ap: tuple[float | None, ...]
    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class MakeAccuracy:
    """Loads model and images by path and checks that they are those of the driver."""

    checkpoint: str
    checkpoint_sha256: str
    data: str
    data_sha256: str

    def __call__(self) -> Callable[[Group], Done]:
        """Loads model and data in a worker; returns the function that evaluates a group."""
        detector, card, digest = load_supernet(self.checkpoint)
        split = read_split(self.data, "val", ClassMap(card.category_ids, card.class_names))
        if (digest, split.sha256) != (self.checkpoint_sha256, self.data_sha256):
            raise InputError(
                "another model or other images", self.checkpoint, "share the driver's folder"
            )
        evaluator = CocoEvaluator(split)

        def work(group: Group) -> Done:
            cpu_s = time.process_time()
            wall_s = time.perf_counter()
            found = shared_detections(detector, split, list(group.archs), masks=True)
            ap = tuple(
                evaluator.accuracy(found[arch], "bbox", all_areas_only=True).ap
                for arch in group.archs
            )
            return Done(ap, time.process_time() - cpu_s, time.perf_counter() - wall_s)

        return work


def prepare(folder: Path, images: int) -> MakeAccuracy:
    """Writes the data and a model to ``folder``; returns the function that loads the work."""
    data = write_embedded(
        folder / "data", EmbeddedConfig(train_images=1, val_images=images, test_images=1), workers=1
    )
    classes = read_split(data, "val").classes
    torch.manual_seed(0)
    detector = Detector(PICO.model, PICO.arch)
    card = ModelCard(PICO.model, PICO.arch, classes.names, classes.category_ids, space=PICO_SPACE)
    digest = save_detector(folder / "supernet.safetensors", detector.state_dict(), card)
    return MakeAccuracy(
        str(folder / "supernet.safetensors"),
        digest,
        str(data),
        read_split(data, "val", classes).sha256,
    )


@dataclass(frozen=True)
class Run:
    """One pool's turn.

    ``occupancy``: share of workers x wall_s in which an item was being worked on.
    """

    startup_s: float
    wall_s: float
    cpu_s: float
    occupancy: float
    ap: tuple[Any, ...]


def turn(make: MakeAccuracy, groups: Sequence[Group], workers: int) -> Run:
    """``workers`` 0: in this process."""
    started = time.perf_counter()
    with closing(RayPool(make, workers=workers) if workers else LocalPool(make)) as pool:
        list(pool.run(groups[:1]))
        while isinstance(pool, RayPool) and pool.size < workers:
            list(pool.run(groups[:workers]))
        list(pool.run(groups[: 2 * max(1, workers)]))
        begun = time.perf_counter()
        found = dict(pool.run(groups))
        wall_s = time.perf_counter() - begun
    busy_s = sum(done.wall_s for done in found.values())
    ap = tuple(found[group].ap for group in groups)
    return Run(
        begun - started,
        wall_s,
        sum(done.cpu_s for done in found.values()),
        busy_s / wall_s / max(1, workers),
        ap,
    )


def summary(runs: dict[str, list[Run]], workers: int) -> float:
    """Prints the table and returns the ratio of wall times, the median of the rounds."""
    for name, rows in runs.items():
        wall, cpu, busy, start = (
            statistics.median(getattr(row, field) for row in rows)
            for field in ("wall_s", "cpu_s", "occupancy", "startup_s")
        )
        print(
            f"{name:14} {wall:7.2f} s wall  {cpu:7.2f} s CPU  workers busy {busy:6.1%}  start-up "
            f"{start:5.1f} s"
        )
    local, one, many = runs.values()
    by_wall = [a.wall_s / b.wall_s for a, b in zip(one, many, strict=True)]
    by_cpu = [
        workers * a.cpu_s / b.cpu_s * b.occupancy / a.occupancy
        for a, b in zip(one, many, strict=True)
    ]
    against_local = [a.wall_s / b.wall_s for a, b in zip(local, many, strict=True)]
    shown = ", ".join(f"{value:.2f}" for value in by_wall)
    print(
        f"{workers} workers against 1: {statistics.median(by_wall):.2f} times by wall time "
        f"(rounds: {shown})"
    )
    print(
        f"                     {statistics.median(by_cpu):.2f} times by CPU seconds and occupancy"
    )
    print(f"     against no Ray: {statistics.median(against_local):.2f} times by wall time")
    return statistics.median(by_wall)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the times by number of workers."""
    parser = argparse.ArgumentParser(
        "ray_scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=whole(1, 10**6), default=8)
    parser.add_argument("--rounds", type=whole(1, 10**4), default=5)
    parser.add_argument("--workers", type=whole(2, MOST_PROCESSES), default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    groups = [Group(tuple(group)) for group in by_backbone(PICO_SPACE)]
    arms = {"this process": 0, "1 Ray worker": 1, f"{args.workers} Ray workers": args.workers}
    runs: dict[str, list[Run]] = {name: [] for name in arms}
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        make = prepare(Path(folder), args.images)
        for _ in range(args.rounds):
            for name in rng.sample(list(arms), len(arms)):
                runs[name].append(turn(make, groups, arms[name]))
    if len({run.ap for rows in runs.values() for run in rows}) != 1:
        raise StatedFailure("the pools give different accuracies")
    print(
        f"{len(groups)} backbone groups, {sum(len(group.archs) for group in groups)} "
        f"configurations, {args.images} images"
    )
    if (ratio := summary(runs, args.workers)) < TARGET:
        raise StatedFailure(f"{ratio:.2f} times is below {TARGET}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
