"""Own augmentation and sampler: they are used, checked, part of what a run is, and as exact on
resume as the package's own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit, Sample
from rfdetr_repro.data.hooks import Hooks
from rfdetr_repro.data.loader import Making, training_batches
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

RECIPE = Recipe(TINY, replace(TRAIN, accumulate=2, checkpoint_every=500), SPACE)
PLAIN = replace(TRAIN, flip_probability=0.0, crop_probability=0.0)


def noisy(sample: Sample, rng: np.random.Generator) -> Sample:
    """Noise on the pixels, and the objects in another order."""
    noise = rng.integers(-20, 20, sample.image.shape)
    image = np.clip(sample.image + noise, 0, 255).astype(np.uint8)
    order = rng.permutation(len(sample.labels))
    masks = None if sample.masks is None else sample.masks[order]  # type: ignore[index]
    return replace(
        sample,
        image=image,
        boxes_xyxy=sample.boxes_xyxy[order],
        labels=sample.labels[order],
        masks=masks,
    )


def last_first(step: int, count: int, rng: np.random.Generator) -> list[int]:
    return [7 - (step * count + place) % 8 for place in range(count)]


BOTH = Hooks(noisy, last_first)


def batches(split: CocoSplit, hooks: Hooks, masks: bool = True, **more: Any) -> list[Any]:
    steps = training_batches(
        split, PLAIN, lambda step: [(64, 64)], 0, 3, masks, hooks=hooks, **more
    )
    return [step[0] for step in steps]


def test_the_sampler_chooses_and_the_augmentation_changes(split: CocoSplit) -> None:
    found = batches(split, Hooks(sampler=last_first))
    ids = [info.id for info in split.images]
    assert [[target.image_id for target in one.targets] for one in found] == [
        [ids[7], ids[6]],
        [ids[5], ids[4]],
        [ids[3], ids[2]],
    ]
    changed = batches(split, BOTH)
    for one, other in zip(found, changed, strict=True):
        assert not torch.equal(one.images, other.images)
        assert (one.images - other.images).abs().mean() < 1.0
        for plain, moved in zip(one.targets, other.targets, strict=True):
            assert torch.equal(plain.labels.sort()[0], moved.labels.sort()[0])
            # a mask stays with its box
            for box, mask in zip(moved.boxes_cxcywh, moved.masks, strict=True):
                place = (plain.boxes_cxcywh == box).all(1).nonzero()[0]
                assert torch.equal(plain.masks[place][0], mask)


def test_an_empty_augmentation_gives_the_batches_of_none(split: CocoSplit) -> None:
    for one, other in zip(
        batches(split, Hooks()), batches(split, Hooks(lambda sample, rng: sample)), strict=True
    ):
        assert torch.equal(one.images, other.images)
        for plain, same in zip(one.targets, other.targets, strict=True):
            assert torch.equal(plain.masks, same.masks)
            assert torch.equal(plain.boxes_cxcywh, same.boxes_cxcywh)


def test_a_part_of_a_batch_is_augmented_as_in_the_whole(split: CocoSplit) -> None:
    whole = batches(split, BOTH)
    second = batches(split, BOTH, making=Making(part=lambda count: slice(1, 2)))
    for one, other in zip(whole, second, strict=True):
        assert torch.equal(one.images[1:], other.images)


def stop_at(at: int) -> Any:
    def stop(step: int, parts: dict[str, float]) -> None:
        if step == at:
            raise KeyboardInterrupt

    return stop


def test_a_resumed_run_equals_the_uninterrupted_run(split: CocoSplit, tmp_path: Path) -> None:
    Trainer(RECIPE, split, tmp_path / "whole", hooks=BOTH).run()
    with pytest.raises(KeyboardInterrupt, match="at step 4 of 6"):
        Trainer(RECIPE, split, tmp_path / "cut", hooks=BOTH).run(stop_at(4))
    Trainer(RECIPE, split, tmp_path / "cut", hooks=BOTH).run()
    Trainer(RECIPE, split, tmp_path / "plain").run()
    cut, whole, plain = (
        read_tensors(tmp_path / name / MODEL)[0] for name in ("cut", "whole", "plain")
    )
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
    assert not all(torch.equal(plain[name], whole[name]) for name in whole)


def test_another_hook_on_resume_is_refused_and_an_unknown_one_warned_of(
    split: CocoSplit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = TrainRequest(RECIPE, split, tmp_path, hooks=BOTH)

    def cut(request: TrainRequest, at: int) -> None:
        trainer = Trainer(request.recipe, split, tmp_path, hooks=request.hooks or Hooks())
        with pytest.raises(KeyboardInterrupt):
            trainer.run(stop_at(at))

    cut(asked, 2)
    for hooks, told in (
        (None, "hooks.augment was .*noisy, now none"),
        (Hooks(noisy), "hooks.sampler was .*last_first, now none"),
        (
            Hooks(lambda sample, rng: sample, last_first),
            "hooks.augment was .*noisy, now test_hooks",
        ),
    ):
        with pytest.raises(InputError, match=told):
            train(replace(asked, hooks=hooks))
    train(asked)
    said = capsys.readouterr().err
    assert "augment test_hooks.noisy states no identity" in said
    assert "sampler test_hooks.last_first states no identity" in said


class Brighter:
    def __init__(self, by: int) -> None:
        self.by = by
        self.identity = f"brighter {by}"

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(sample, image=np.minimum(sample.image, 255 - self.by) + np.uint8(self.by))


def test_a_stated_identity_counts_and_needs_no_warning(
    split: CocoSplit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Trainer(RECIPE, split, tmp_path, hooks=Hooks(Brighter(9))).run(stop_at(2))
    with pytest.raises(InputError, match="hooks.augment was brighter 9, now brighter 8"):
        train(TrainRequest(RECIPE, split, tmp_path, hooks=Hooks(Brighter(8))))
    train(TrainRequest(RECIPE, split, tmp_path, hooks=Hooks(Brighter(9))))
    assert "identity" not in capsys.readouterr().err


def changed(**changes: Any) -> Any:
    return lambda sample, rng: replace(sample, **changes)


@pytest.mark.parametrize(
    ("hooks", "told"),
    [
        (Hooks(lambda sample, rng: sample.image), "gave ndarray instead of a Sample"),
        (Hooks(changed(image=np.zeros((4, 4, 3)))), "not an array uint8"),
        (Hooks(changed(image=np.zeros((0, 4, 3), np.uint8))), "an image of shape"),
        (Hooks(changed(labels=np.array([0]))), "boxes of shape .* for 1 labels"),
        (Hooks(lambda s, rng: replace(s, labels=s.labels + 99)), "a label outside 0..17"),
        (Hooks(lambda s, rng: replace(s, boxes_xyxy=s.boxes_xyxy * np.nan)), "not finite"),
        (Hooks(changed(masks=None)), "gave no masks"),
        (Hooks(lambda s, rng: replace(s, image=s.image[:9].copy())), "masks of shape"),
        (Hooks(sampler=lambda step, count, rng: [0]), "did not give 4 whole numbers"),
        (Hooks(sampler=lambda step, count, rng: [0.5] * 4), "did not give 4 whole numbers"),
        (Hooks(sampler=lambda step, count, rng: [[0], [1, 2]]), "did not give 4 whole numbers"),
        (Hooks(sampler=lambda step, count, rng: [8] * 4), "chose image 8 .*0 to 7"),
        (Hooks(sampler=lambda *rest: np.random.default_rng().integers(0, 8, 4)), "differently"),
    ],
)
def test_hooks_that_do_not_work_are_refused_before_any_step(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hooks: Hooks, told: str
) -> None:
    monkeypatch.setattr(Trainer, "train_step", lambda *rest: pytest.fail("a step"))
    with pytest.raises(InputError, match=told):
        train(TrainRequest(RECIPE, split, tmp_path / "run", hooks=hooks))
    assert not (tmp_path / "run").exists()


def test_own_random_numbers_are_warned_of(
    split: CocoSplit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def careless(sample: Sample, rng: np.random.Generator) -> Sample:
        return noisy(sample, np.random.default_rng())

    short = replace(RECIPE, train=replace(TRAIN, steps=1))
    train(TrainRequest(short, split, tmp_path, hooks=Hooks(careless)))
    assert "a resumed run will not equal an uninterrupted run" in capsys.readouterr().err


def test_what_is_no_function_and_what_other_processes_cannot_import(
    split: CocoSplit, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="augment = 3 is not a function"):
        Hooks(augment=3)  # type: ignore[arg-type]
    asked = TrainRequest(RECIPE, split, tmp_path, hooks=Hooks(lambda s, rng: s), processes=2)
    with pytest.raises(InputError, match="augment cannot be sent to 2 processes"):
        train(asked)


def test_several_processes_train_with_importable_hooks(split: CocoSplit, tmp_path: Path) -> None:
    # in bfloat16, which is the default on some processors, sums in another order differ by more
    recipe = replace(RECIPE, train=replace(TRAIN, steps=2, precision="float32"))
    for name, count in (("one", 1), ("two", 2)):
        train(TrainRequest(recipe, split, tmp_path / name, hooks=BOTH, processes=count))
    one, two = (read_tensors(tmp_path / name / STATE)[0] for name in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-4, rtol=1e-3), name
