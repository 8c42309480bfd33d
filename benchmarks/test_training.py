"""Supernet training on the CPU: one process with all threads against several that share each batch
and the threads.

Same steps, same batch, alternating runs; the ratio of the median step times is what counts.
``RFDETR_BENCH_STEPS`` steps per run.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.spec.presets import PICO, PICO_SPACE, PICO_TRAIN
from rfdetr_repro.train.processes import shared
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer

STEPS = int(os.environ.get("RFDETR_BENCH_STEPS", "24"))
ROUNDS = 3
WARM_UP = 4


def step_seconds(setup: dict[str, Any], processes: int) -> list[float]:
    """Wall time of each step after the warm-up, evaluation and checkpoints excluded."""
    ends: list[float] = []
    with shared(processes, **setup):
        Trainer(**setup).run(lambda step, parts: ends.append(time.perf_counter()))
    return [late - early for early, late in zip(ends[WARM_UP:-1], ends[WARM_UP + 1 :], strict=True)]


def test_processes(benchmark: Any, tmp_path: Path) -> None:
    """Time of a training step by number of processes, interleaved."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    if threads < 2:
        pytest.skip("one thread: nothing to share")
    torch.set_num_threads(threads)
    data = write_embedded(
        tmp_path / "data", EmbeddedConfig(train_images=64, val_images=2, test_images=2), workers=1
    )
    train = replace(PICO_TRAIN, steps=STEPS, evaluate_every=0, checkpoint_every=10**6)
    setup = {"recipe": Recipe(PICO, train, PICO_SPACE), "split": read_split(data, "train")}
    times: dict[int, list[float]] = {1: [], threads: []}

    def rounds() -> None:
        for turn in range(ROUNDS):
            for processes, seconds in times.items():
                seconds += step_seconds(
                    {**setup, "folder": tmp_path / f"{processes}-{turn}"}, processes
                )

    benchmark.pedantic(rounds, rounds=1)
    middle = {processes: statistics.median(seconds) for processes, seconds in times.items()}
    whole = {processes: sum(seconds) for processes, seconds in times.items()}
    benchmark.extra_info.update(
        {
            f"ms_per_step_{processes}_processes": round(1e3 * value)
            for processes, value in middle.items()
        },
        speedup_median=round(middle[1] / middle[threads], 2),
        speedup_total=round(whole[1] / whole[threads], 2),
        threads=threads,
    )
