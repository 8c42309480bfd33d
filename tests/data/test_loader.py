"""Batches are a pure function of (seed, step): the same whatever the threads, the start, or the
cache.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from samples_coco import random_document, write_folder

from rfdetr_repro.data import loader
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.loader import batch_indices, evaluation_batches, training_batches
from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import TrainConfig

CONFIG = TrainConfig(batch_size=2, accumulate=2, seed=5)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    return read_split(write_folder(tmp_path_factory.mktemp("data"), random_document(0, 9)), "train")


def sizes_of_step(step: int) -> list[tuple[int, int]]:
    return [(32, 32) if step % 2 else (24, 40)]


def stream(
    split: CocoSplit, start: int, stop: int, config: TrainConfig = CONFIG
) -> Iterator[list[Batch]]:
    return training_batches(split, config, sizes_of_step, start, stop, masks=True)


def equal(one: list[Batch], two: list[Batch]) -> bool:
    pairs = [
        pair
        for a, b in zip(one, two, strict=True)
        for pair in zip(a.targets, b.targets, strict=True)
    ]
    return all(torch.equal(a.images, b.images) for a, b in zip(one, two, strict=True)) and all(
        (a.image_id, a.boxes_cxcywh.tolist()) == (b.image_id, b.boxes_cxcywh.tolist())
        and torch.equal(a.masks, b.masks)
        for a, b in pairs
    )


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_an_epoch_sees_each_image_once_and_drops_the_rest() -> None:
    for epoch in range(3):
        steps = [epoch * 4 + step for step in range(4)]  # 19 images, 2 x 2 a step
        seen = np.concatenate(
            [batch_indices(19, 2, step, 1, micro, 2) for step in steps for micro in range(2)]
        )
        assert len(seen) == len(set(seen.tolist())) == 16 and seen.max() < 19
    first = batch_indices(19, 16, 0, 1)
    second = batch_indices(19, 16, 1, 1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, batch_indices(19, 16, 0, 2))


def test_a_tiny_set_is_sampled_with_replacement() -> None:
    drawn = [batch_indices(3, 4, step, 0, micro, 2) for step in range(20) for micro in range(2)]
    assert all(len(chosen) == 4 for chosen in drawn)
    assert set(np.concatenate(drawn).tolist()) == {0, 1, 2}
    assert not np.array_equal(drawn[0], drawn[1])


def test_resuming_gives_the_same_batches(split: CocoSplit) -> None:
    whole = list(stream(split, 0, 6))
    assert [len(step) for step in whole] == [2] * 6
    assert [tuple(step[0].images.shape) for step in whole[:2]] == [(2, 3, 24, 40), (2, 3, 32, 32)]
    assert all(equal(a, b) for a, b in zip(list(stream(split, 3, 6)), whole[3:], strict=True))
    assert not equal(whole[0], whole[2])


def test_threads_and_cache_change_nothing(
    split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(stream(split, 0, 4))
    monkeypatch.setattr(loader, "default_threads", lambda: 7)
    monkeypatch.setattr(loader, "STEPS_AHEAD", 5)
    cached = CocoSplit(split.name, split.split, "", split.images, split.classes, split._table)
    assert not cached.cache_images(max_bytes=100) and cached.cache_images()
    assert all(
        equal(a, b) for _ in range(2) for a, b in zip(stream(cached, 0, 4), whole, strict=True)
    )


def test_an_error_in_a_thread_reaches_the_caller_and_ends_the_threads(
    split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(index: int, masks: bool, masks_later: bool) -> None:
        raise InputError("cannot decode", index)

    monkeypatch.setattr(split, "sample", fail)
    with pytest.raises(InputError, match="cannot decode"):
        list(stream(split, 0, 3))
    assert not threads()


def test_closing_ends_the_threads(split: CocoSplit) -> None:
    batches = stream(split, 0, 1000)
    next(batches)
    assert threads()
    batches.close()  # type: ignore[attr-defined]
    assert not threads()


def test_evaluation_sees_every_image_in_order(split: CocoSplit) -> None:
    batches = list(evaluation_batches(split, (32, 32), 4))
    assert [len(batch.images) for batch in batches] == [4, 4, 1]
    assert [target.image_id for batch in batches for target in batch.targets] == [
        info.id for info in split.images
    ]
    assert not threads()


def test_refuses_masks_where_there_are_none(tmp_path: Path) -> None:
    document = random_document(0)
    document["annotations"][0]["segmentation"] = []
    boxes_only = read_split(write_folder(tmp_path, document), "train")
    with pytest.raises(InputError, match="without a segmentation"):
        training_batches(boxes_only, CONFIG, sizes_of_step, 0, 1, masks=True)
    assert len(list(training_batches(boxes_only, CONFIG, sizes_of_step, 0, 1, masks=False))) == 1
    with pytest.raises(InputError, match="seed"):
        training_batches(boxes_only, TrainConfig(seed=-1), sizes_of_step, 0, 1, masks=False)
