"""Batches made by processes are those made by threads; errors and ends of processes are told."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples_coco import random_document, write_folder

from rfdetr_repro.data.coco import CocoSplit, Sample, read_split
from rfdetr_repro.data.hooks import Hooks
from rfdetr_repro.data.loader import Making, training_batches, training_source
from rfdetr_repro.data.loader_processes import (
    SHARED,
    batch_bytes,
    batches_by_processes,
    fitting_processes,
)
from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.train_config import TrainConfig

SIZES = [(32, 32), (24, 40), (32, 32)]
CONFIG = TrainConfig(batch_size=3, accumulate=2, seed=4)

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)


@pytest.fixture
def split(tmp_path: Path) -> CocoSplit:
    return read_split(write_folder(tmp_path, random_document(0, 13)), "train")


def same(one: Batch, other: Batch) -> bool:
    return [target.image_id for target in one.targets] == [
        target.image_id for target in other.targets
    ] and all(torch.equal(*pair) for pair in zip(one.tensors(), other.tensors(), strict=True))


def darker(sample: Sample, rng: np.random.Generator) -> Sample:
    return replace(sample, image=(sample.image * rng.random()).astype(np.uint8))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("hooks", [Hooks(), Hooks(darker, lambda step, n, rng: [step % 3] * n)])
def test_processes_make_what_threads_make(split: CocoSplit, masks: bool, hooks: Hooks) -> None:
    def sizes(step: int) -> list[tuple[int, int]]:
        return SIZES if step % 2 else SIZES[:1]

    def part(size: int) -> slice:
        return slice(1, size)

    wanted = list(
        training_batches(split, CONFIG, sizes, 2, 6, masks, hooks, Making(threads=2, part=part))
    )
    source = training_source(split, CONFIG, masks, hooks, part)
    found = list(batches_by_processes(source, sizes, range(2, 6), 2, pinned=False))
    assert [len(step) for step in found] == [len(step) for step in wanted] == [2, 6, 2, 6]
    for one, other in zip(found, wanted, strict=True):
        assert all(same(*pair) for pair in zip(one, other, strict=True))
        if len(one) == 6:
            assert one[0] is one[2] and one[3] is one[5]
    assert not multiprocessing.active_children()


def test_closing_ends_the_processes(split: CocoSplit) -> None:
    source = training_source(split, CONFIG, True)
    steps = batches_by_processes(source, lambda step: SIZES, range(100), 2, pinned=False)
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    steps.close()
    assert not multiprocessing.active_children()


def test_bad_input_in_a_process_is_one_clear_error(split: CocoSplit, tmp_path: Path) -> None:
    split.images[5].path.write_bytes(b"no picture")
    source = training_source(split, CONFIG, False)
    with pytest.raises(InputError, match=split.images[5].path.name) as caught:
        list(batches_by_processes(source, lambda step: SIZES, range(4), 2, pinned=False))
    assert "\n" not in str(caught.value)
    del caught
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_told(split: CocoSplit) -> None:
    def dies(step: int, count: int, rng: np.random.Generator) -> list[int]:
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return [0] * count

    source = training_source(split, CONFIG, False, Hooks(sampler=dies))
    with pytest.raises(StatedFailure, match="a process that makes batches ended .*again"):
        list(batches_by_processes(source, lambda step: SIZES, range(4), 1, pinned=False))


def test_no_more_processes_than_the_shared_memory_holds(
    split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = training_source(split, CONFIG, False)
    assert batch_bytes(source, SIZES) == 3 * 12 * (32 * 32 + 24 * 40)
    assert [fitting_processes(16, 10, free) for free in (1000, 60, 20, 19)] == [16, 3, 1, 0]

    def absent(path: str) -> None:
        assert path == SHARED
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "statvfs", absent)
    assert fitting_processes(5, 10) == 5


def test_a_packed_batch_is_pinned_as_a_whole(
    split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch, *_) = training_source(split, CONFIG, True).make_micro(0, 0, SIZES[:1])
    packed = batch.packed()
    pinned: list[Callable[..., torch.Tensor]] = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone()
    )
    again = packed.pin_memory().unpacked()
    assert same(again, batch) and len(pinned) == 2  # images and masks
