"""The loader's threads and copies, by counts instead of times: how many pictures are decoded at
once, how often each is decoded, and what is copied before it is asked for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples_coco import random_document, write_folder

from rfdetr_repro.data import coco
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.loader import (
    MOST_THREADS,
    Making,
    default_threads,
    evaluation_batches,
    training_batches,
)
from rfdetr_repro.data.picture_cache import PictureCache
from rfdetr_repro.data.transfer import CudaCopies, batches_on, copied_ahead, steps_on
from rfdetr_repro.data.transforms import Batch, Target
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import TrainConfig

SIZES = [(32, 32), (24, 40), (32, 32)]
PATIENCE_S = 60  # ends a test that would hang; never waited for


@pytest.fixture
def split(tmp_path: Path) -> CocoSplit:
    return read_split(write_folder(tmp_path, random_document(0, 24)), "train")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is decoded."""
    counts: Counter[str] = Counter()
    plain = coco.decode

    def counting(path: Path, *rest: Any) -> np.ndarray:
        counts[path.name] += 1
        return plain(path, *rest)

    monkeypatch.setattr(coco, "decode", counting)
    return counts


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.tensors(), other.tensors(), strict=True))


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_as_many_pictures_are_decoded_at_once_as_there_are_threads(
    split: CocoSplit, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each decoder waits until all threads are at work, so that fewer would wait for ever; and for
    a processor with fewer cores than threads, a decoder that sleeps is as good as one that works.
    """
    together = threading.Barrier(threads)
    at_work = []
    lock = threading.Lock()
    running = 0
    plain = split.load_image

    def sleeping(index: int) -> np.ndarray:
        nonlocal running
        with lock:
            running += 1
            at_work.append(running)
        if len(at_work) <= threads:
            together.wait(PATIENCE_S)
        time.sleep(0.001)
        with lock:
            running -= 1
        return plain(index)

    monkeypatch.setattr(split, "load_image", sleeping)
    config = TrainConfig(batch_size=4, seed=1)
    making = Making(threads)
    stream = training_batches(
        split, config, lambda step: SIZES[:1], 0, 12, masks=False, making=making
    )
    assert len(list(stream)) == 12
    assert max(at_work) == threads


def test_a_picture_is_decoded_once_for_all_sizes_of_a_step(
    split: CocoSplit, decoded: Counter[str]
) -> None:
    config = TrainConfig(batch_size=4, accumulate=2, seed=1)
    steps = list(training_batches(split, config, lambda step: SIZES, 0, 3, masks=True))
    assert [len(step) for step in steps] == [6, 6, 6]  # micro-batches x sizes
    # 24 images, 8 a step: an epoch of three steps sees each image once
    assert len(decoded) == 24 and set(decoded.values()) == {1}
    for step in steps:
        assert step[0] is step[2] and step[3] is step[5]  # passes of one size share a batch
        for first in (0, 3):
            one, other = step[first : first + 2]
            assert [a.image_id for a in one.targets] == [a.image_id for a in other.targets]
            assert all(
                torch.equal(a.boxes_cxcywh, b.boxes_cxcywh)
                for a, b in zip(one.targets, other.targets, strict=True)
            )


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_batches_do_not_depend_on_the_number_of_threads(split: CocoSplit, threads: int) -> None:
    config = TrainConfig(batch_size=3, accumulate=2, seed=4)

    def made(start: int, count: int) -> list[list[Batch]]:
        making = Making(count)
        return list(
            training_batches(
                split, config, lambda step: SIZES[:2], start, 4, masks=True, making=making
            )
        )

    whole = made(0, 2)
    again = made(0, threads)
    resumed = made(2, threads)
    for one, other in ((whole, again), (whole[2:], resumed)):
        assert all(
            same(a, b)
            for first, second in zip(one, other, strict=True)
            for a, b in zip(first, second, strict=True)
        )


def test_a_part_of_a_batch_equals_that_part_of_the_whole(split: CocoSplit) -> None:
    config = TrainConfig(batch_size=5, seed=4)

    def made(making: Making) -> Batch:
        ((batch,),) = training_batches(
            split, config, lambda step: SIZES[:1], 2, 3, masks=True, making=making
        )
        return batch

    whole = made(Making())
    part = made(Making(part=lambda size: slice(2, size)))
    assert same(part, Batch(whole.images[2:], whole.targets[2:]))


def test_a_search_decodes_a_picture_once_and_not_once_per_backbone(
    split: CocoSplit, decoded: Counter[str]
) -> None:
    assert split.cache_images(split.decoded_bytes)
    for size in SIZES:
        assert sum(len(batch.images) for batch in evaluation_batches(split, size, 8)) == 24
    assert set(decoded.values()) == {1} and len(decoded) == 24
    assert split.decoded is not None
    assert (split.decoded.decoded, split.decoded.reused) == (24, 48)
    assert split.decoded.bytes == split.decoded_bytes


def test_a_bounded_cache_keeps_the_pictures_that_fit(
    split: CocoSplit, decoded: Counter[str]
) -> None:
    assert not split.cache_images(split.decoded_bytes // 2)
    batches = [list(evaluation_batches(split, size, 8)) for size in SIZES]
    assert same(batches[0][1], batches[2][1])
    cache = split.decoded
    assert cache is not None and cache.bytes <= split.decoded_bytes // 2
    assert 0 < len(cache) < 24 and cache.decoded == 24 + 2 * (24 - len(cache))
    assert sum(decoded.values()) == cache.decoded


def test_a_picture_that_is_being_decoded_is_waited_for() -> None:
    begun = threading.Event()
    go_on = threading.Event()
    calls = []

    def slow(index: int) -> np.ndarray:
        calls.append(index)
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return np.zeros((2, 2, 3), np.uint8)

    cache = PictureCache(100)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get(7, slow))) for _ in range(3)]
    threads[0].start()
    assert begun.wait(PATIENCE_S)
    for thread in threads[1:]:
        thread.start()
    while cache.reused < 2:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert calls == [7] and len(found) == 3 and all(one is found[0] for one in found)


def test_an_error_of_a_decoder_is_not_kept() -> None:
    def fail(index: int) -> np.ndarray:
        raise InputError("cannot decode", index)

    cache = PictureCache(100)
    for _ in range(2):
        with pytest.raises(InputError, match="cannot decode"):
            cache.get(1, fail)
    assert cache.get(1, lambda index: np.ones((1, 1, 3), np.uint8)).sum() == 3


def test_threads_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for cores, processes, torchrun, threads in (
        (16, 1, None, 16),
        (16, 4, None, 4),
        (16, 8, "4", 4),  # 8 processes of two machines
        (2, 4, None, 1),
        (512, 1, None, MOST_THREADS),
    ):
        monkeypatch.setattr(
            "os.sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False
        )
        if torchrun is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", torchrun)
        assert default_threads(processes) == threads
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


class Noted:
    """Copies that only note what happens."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def begin(self, batches: list[Batch]) -> list[Batch]:
        self.events.append(f"begin {len(batches[0].images)}")
        return batches

    def end(self, begun: list[Batch]) -> list[Batch]:
        self.events.append(f"end {len(begun[0].images)}")
        return begun


def numbered(count: int, events: list[str]) -> Generator[list[Batch], None, None]:
    try:
        for index in range(1, count + 1):
            yield [Batch(torch.zeros(index, 3, 1, 1), [])]
    finally:
        events.append("closed")


def test_the_next_step_is_being_copied_when_a_step_is_used() -> None:
    events: list[str] = []
    for step in copied_ahead(numbered(3, events), Noted(events)):
        events.append(f"use {len(step[0].images)}")
    assert events == [
        "begin 1",
        "begin 2",
        "end 1",
        "use 1",
        "begin 3",
        "end 2",
        "use 2",
        "closed",
        "end 3",
        "use 3",
    ]


def test_closing_the_copies_closes_the_loader() -> None:
    events: list[str] = []
    steps = copied_ahead(numbered(9, events), Noted(events))
    next(steps)
    steps.close()
    assert events[-1] == "closed"
    plain = numbered(2, events)
    assert steps_on(torch.device("cpu"), plain) is plain
    alone = (batch for (batch,) in plain)
    assert batches_on(torch.device("cpu"), alone) is alone


class FakeStream:
    """Stands in for a stream: notes what waits for what."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def __enter__(self) -> FakeStream:
        self.log.append(f"in {self.name}")
        return self

    def __exit__(self, *error: object) -> None:
        self.log.append(f"out of {self.name}")

    def record_event(self) -> str:
        self.log.append(f"event of {self.name}")
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


def on_fake_gpu(monkeypatch: pytest.MonkeyPatch, log: list[str], most: int) -> CudaCopies:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("copies", log))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("main", log))

    def moved(batch: Batch, device: torch.device) -> Batch:
        log.append(f"copy {len(batch.images)}")
        return Batch(batch.images.clone(), batch.targets)

    monkeypatch.setattr(Batch, "to", moved)
    return CudaCopies(torch.device("cuda"), most)


def test_copies_run_in_their_own_stream_and_the_main_stream_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    copies = on_fake_gpu(monkeypatch, log, most=1 << 20)
    one = Batch(torch.zeros(1, 3, 4, 4), [])
    two = Batch(torch.zeros(2, 3, 4, 4), [])
    found = copies.end(copies.begin([one, two, one]))
    assert log == [
        "in copies",
        "copy 1",
        "copy 2",
        "out of copies",
        "event of copies",
        "main waits for event of copies",
    ]
    assert found[0] is found[2] and [len(batch.images) for batch in found] == [1, 2, 1]


def test_what_does_not_fit_is_copied_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    one = Batch(torch.zeros(1, 3, 4, 4), [])
    two = Batch(torch.zeros(2, 3, 4, 4), [])
    copies = on_fake_gpu(monkeypatch, log, most=one.images.nbytes)
    found = copies.end(copies.begin([one, two]))
    assert "copy 1" in log and "copy 2" not in log and found[1] is two


@pytest.mark.parametrize("resized", [False, True])
def test_a_batch_without_memory_ahead_is_copied_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch, resized: bool
) -> None:
    log: list[str] = []
    one, two, three = (Batch(torch.zeros(count, 3, 4, 4), []) for count in (1, 2, 3))
    copies = on_fake_gpu(monkeypatch, log, most=1 << 20)
    plain = Batch.to

    def full(batch: Batch, device: torch.device) -> Batch:
        if batch is not two:
            return plain(batch, device)
        error = torch.OutOfMemoryError("no memory")
        if resized:
            raise InputError("no memory for whole pictures", "resize_on=device") from error
        raise error

    monkeypatch.setattr(Batch, "to", full)
    found = copies.end(copies.begin([one, two, three]))
    assert found[0] is not one and found[1] is two and found[2] is three
    assert "copy 3" not in log  # nothing is tried while memory is short


def test_other_errors_of_a_copy_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = on_fake_gpu(monkeypatch, [], most=1 << 20)

    def broken(batch: Batch, device: torch.device) -> Batch:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(Batch, "to", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        copies.begin([Batch(torch.zeros(1, 3, 4, 4), [])])


def test_targets_travel_in_one_piece() -> None:
    """``meta`` is a device without data, to which copies are counted."""
    targets = [
        Target(torch.rand(n, 4), torch.arange(n), torch.ones(n, 2, 2, dtype=torch.bool), n)
        for n in (2, 0, 3)
    ]
    moved = Batch(torch.zeros(3, 3, 2, 2), targets).to(torch.device("meta"))
    assert all(tensor.device.type == "meta" for tensor in moved.tensors())
    for target, there in zip(targets, moved.targets, strict=True):
        assert there.boxes_cxcywh.shape == target.boxes_cxcywh.shape
        assert there.labels.shape == target.labels.shape and there.image_id == target.image_id
        assert there.masks is not None and there.masks.shape == target.masks.shape
    assert moved.to(torch.device("meta")) is moved
    empty = Batch(torch.zeros(1, 3, 2, 2), []).to(torch.device("meta"))
    assert empty.targets == []
