"""Pictures that the device resizes have the pixels of the loader's, to the last bit, in any batch,
and a training on them is the same training.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples_coco import random_document, write_folder
from tiny import TINY, TRAIN

from rfdetr_repro.data import device_input, loader
from rfdetr_repro.data.coco import CocoSplit, Sample, read_split
from rfdetr_repro.data.device_input import Filters, filters_of, joined_pixels
from rfdetr_repro.data.hooks import Hooks
from rfdetr_repro.data.loader import Making, training_batches, training_source
from rfdetr_repro.data.loader_processes import batch_bytes, batches_by_processes
from rfdetr_repro.data.network_input import View, network_input
from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import MODEL, Trainer

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
SIZES = [(32, 32), (24, 40), (32, 32)]
CONFIG = TrainConfig(batch_size=3, accumulate=2, seed=4, resize_on="device")


@pytest.fixture
def split(tmp_path: Path) -> CocoSplit:
    return read_split(write_folder(tmp_path, random_document(0, 13)), "train")


def random_view(rng: np.random.Generator, height: int, width: int) -> View:
    top, left = int(rng.integers(height)), int(rng.integers(width))
    bottom, right = int(rng.integers(top, height)) + 1, int(rng.integers(left, width)) + 1
    return View((left, top, right, bottom), bool(rng.integers(2)))


def resized(
    pictures: list[np.ndarray],
    views: list[View | None],
    hw: tuple[int, int],
    device: torch.device = CPU,
) -> np.ndarray:
    filters = filters_of(pictures, views, hw)
    made = filters.images(joined_pixels(pictures).to(device), filters.numbers.to(device))
    assert made.dtype == torch.float32 and made.device.type == device.type
    assert filters.nbytes == made.nbytes + filters.numbers.nbytes
    return made.cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(12))
def test_pixels_are_the_loaders(seed: int, device: torch.device) -> None:
    """Windows, mirrors, enlarged and reduced sides, both orders of directions, one pixel."""
    rng = np.random.default_rng(seed)
    sides = [(int(rng.integers(1, 150)), int(rng.integers(1, 150))) for _ in range(3)]
    sides += [(200, 20), (1, 1)]  # lower before narrower, unless the input is high
    pictures = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in sides]
    views = [random_view(rng, *hw) for hw in sides]
    hw = (int(rng.integers(1, 70)), int(rng.integers(1, 70)))
    expected = network_input(pictures, hw, normalised=True, views=views)
    found = resized(pictures, list(views), hw, device)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("hw", [(24, 32), (100, 150)])
def test_pixels_are_pillows(hw: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(picture).resize(hw[::-1], Image.Resampling.BILINEAR)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((np.asarray(image) / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(resized([picture], [None], hw)[0], expected, atol=1e-6)


def test_the_memory_of_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are made of few numbers at a time, which changes none of them."""
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, hw, dtype=np.uint8) for hw in ((90, 40, 3), (50, 60, 3))]
    expected = resized(pictures, [None, None], (16, 20))
    sums = []
    plain = torch.full

    def watched(size: tuple[int, ...], *given: object, **named: object) -> torch.Tensor:
        sums.append(int(np.prod(size)))
        return plain(size, *given, **named)

    monkeypatch.setattr(torch, "full", watched)
    monkeypatch.setattr(device_input, "AT_ONCE", 500)
    np.testing.assert_array_equal(resized(pictures, [None, None], (16, 20)), expected)
    assert len(sums) > 8 and max(sums) <= 500


def darker(sample: Sample, rng: np.random.Generator) -> Sample:
    return replace(sample, image=(sample.image * rng.random()).astype(np.uint8)[::-1])


def same(one: Batch, other: Batch) -> bool:
    return [target.image_id for target in one.targets] == [
        target.image_id for target in other.targets
    ] and all(torch.equal(*pair) for pair in zip(one.tensors(), other.tensors(), strict=True))


@pytest.mark.parametrize("hooks", [Hooks(), Hooks(darker, lambda step, n, rng: [step % 3] * n)])
@pytest.mark.parametrize("masks", [True, False])
def test_batches_are_the_loaders(split: CocoSplit, masks: bool, hooks: Hooks) -> None:
    def sizes(step: int) -> list[tuple[int, int]]:
        return SIZES if step % 2 else SIZES[:1]

    def part(size: int) -> slice:
        return slice(1, size)

    def batches(config: TrainConfig, threads: int) -> list[list[Batch]]:
        making = Making(threads=threads, part=part)
        return list(training_batches(split, config, sizes, 2, 5, masks, hooks, making))

    wanted = batches(replace(CONFIG, resize_on="loader"), 2)
    made = [batches(CONFIG, threads) for threads in (1, 3)]
    if "fork" in multiprocessing.get_all_start_methods():
        source = training_source(split, CONFIG, masks, hooks, part)
        made.append(list(batches_by_processes(source, sizes, range(2, 5), 2, pinned=False)))
    for found in made:
        assert [len(step) for step in found] == [2, 6, 2]
        assert found[1][0] is found[1][2]  # passes of one size share a batch
        assert found[1][0].images.data_ptr() == found[1][1].images.data_ptr()  # and sizes pixels
        for step, expected in zip(found, wanted, strict=True):
            for one, other in zip(step, expected, strict=True):
                assert one.images.dtype == torch.uint8 and one.nbytes > one.images.nbytes
                there = one.to(CPU)
                assert same(there, other) and there.to(CPU) is there


def test_pictures_that_are_too_large_are_named(
    split: CocoSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(split.images, key=lambda info: info.width * info.height)
    size = 3 * 3 * largest.width * largest.height
    source = training_source(split, CONFIG, masks=False)
    assert batch_bytes(source, SIZES) == source.most_whole_bytes == size
    monkeypatch.setattr(loader, "MOST_WHOLE", size - 1)
    words = f"{largest.width} x {largest.height} px take more"
    with pytest.raises(InputError, match=words) as told:
        training_source(split, CONFIG, masks=False)
    assert largest.path.name in str(told.value) and "\n" not in str(told.value)
    training_source(split, replace(CONFIG, resize_on="loader"), masks=False)
    with pytest.raises(InputError, match="place to resize on"):
        replace(CONFIG, resize_on="gpu")


def test_a_training_is_the_same_and_says_so(split: CocoSplit, tmp_path: Path) -> None:
    """The weights are equal to the last bit, also those of a resumed run."""
    model = replace(TINY, model=replace(TINY.model, masks=False))
    plain = replace(TRAIN, steps=4, checkpoint_every=2, precision="float32")
    weights = {}
    for name, config in (("loader", plain), ("device", replace(plain, resize_on="device"))):
        trainer = Trainer(Recipe(model, config), split, tmp_path / name)
        trainer.run()
        weights[name] = trainer.state.detector.state_dict()
    config = replace(plain, resize_on="device")
    cut = Trainer(Recipe(model, config), split, tmp_path / "cut")

    def stop(step: int, parts: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.run(stop)
    again = Trainer(Recipe(model, config), split, tmp_path / "cut")
    assert again.state.step == 3
    again.run()
    weights["resumed"] = again.state.detector.state_dict()
    for name in ("device", "resumed"):
        for key, tensor in weights["loader"].items():
            assert torch.equal(weights[name][key], tensor), (name, key)
    words = "float32, pictures resized on the device"
    assert load_supernet(tmp_path / "device" / MODEL)[1].precision == words
    assert load_supernet(tmp_path / "loader" / MODEL)[1].precision == "float32"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("index out of range"), ""),
    ],
)
def test_without_memory_for_the_resize_no_architecture_is_left_out(
    split: CocoSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
    told: str,
) -> None:
    model = replace(TINY, model=replace(TINY.model, masks=False))
    config = replace(TRAIN, precision="float32", resize_on="device")
    space = SearchSpace((64,), (16,), (1,), (1, 2), (7, 10))
    trainer = Trainer(Recipe(model, config, space), split, tmp_path)

    def fails(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(Filters, "images", fails)
    with pytest.raises(InputError if told else RuntimeError) as caught:
        trainer.run()
    if told:
        assert str(caught.value) == (
            f"{told} on cpu while it resized {config.batch_size} whole pictures "
            "(resize_on=device); set resize_on=loader, or lower batch_size and raise accumulate"
        )
    else:
        assert caught.value is error
    assert not trainer.state.left_out and trainer.state.step == 0


def test_passes_of_one_size_share_their_pictures(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(TINY, model=replace(TINY.model, masks=False))
    config = replace(TRAIN, precision="float32", resize_on="device", sampling="sandwich")
    space = SearchSpace((64,), (16,), (1,), (1, 2), (7, 10))
    trainer = Trainer(Recipe(model, config, space), split, tmp_path)
    batches = next(trainer._made_batches())
    made = Filters.images
    calls: list[Filters] = []

    def counted(filters: Filters, *given: torch.Tensor) -> torch.Tensor:
        calls.append(filters)
        return made(filters, *given)

    monkeypatch.setattr(Filters, "images", counted)
    trainer.train_step(batches)
    assert len(batches) == 3 and len(calls) == 1
