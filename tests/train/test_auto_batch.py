"""The batch size that fits into memory: the images of a step stay, the choice follows what was
measured, and a resumed run keeps it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.model.checkpoints.native import read_tensors
from rfdetr_repro.ops import device as devices
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.train import auto_batch, command
from rfdetr_repro.train.auto_batch import (
    Need,
    by_need,
    divisors,
    first_that_fits,
    fitted,
    measured_need,
    most_expensive,
)
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer
from rfdetr_repro.train.upstream_words import from_upstream

CPU = torch.device("cpu")
RECIPE = Recipe(TINY, replace(TRAIN, batch_size=4, accumulate=3, steps=3), SPACE)
MIB = 2**20


def test_the_images_of_a_step_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert divisors(12) == [12, 6, 4, 3, 2, 1]
    monkeypatch.setattr(auto_batch, "measured_need", lambda *rest: Need(0, 100 * MIB))
    for available, size in ((10_000, 12), (1_300, 6), (720, 6), (700, 4), (120, 1)):
        monkeypatch.setattr(auto_batch, "available_bytes", lambda device, n=available: n * MIB)
        found, why = fitted(RECIPE, CPU, processes=1)
        assert (found.train.batch_size, found.train.accumulate) == (size, 12 // size)
        assert why.startswith(f"batch size {size}") and "GiB available" in why
        assert replace(found, train=RECIPE.train) == RECIPE
    monkeypatch.setattr(auto_batch, "available_bytes", lambda device: 100 * MIB)
    with pytest.raises(InputError, match="not even one image at r96-.* fits into memory"):
        fitted(RECIPE, CPU)


def test_every_process_has_its_own_state() -> None:
    need = Need(state=100 * MIB, per_image=10 * MIB)
    # 4 processes of 100 MiB and 8 images of 10 MiB
    assert by_need(need, [8, 4, 2, 1], int(480 * MIB / auto_batch.SHARE) + MIB, 4)[0] == 8
    assert by_need(need, [8, 4, 2, 1], int(470 * MIB / auto_batch.SHARE), 4)[0] == 4
    assert by_need(need, [8, 4, 2, 1], int(180 * MIB / auto_batch.SHARE) + MIB, 1)[0] == 8


def test_one_image_is_measured(tmp_path: Path) -> None:
    """A larger input keeps more; what is counted does not depend on the machine's speed."""
    trainer = Trainer(RECIPE, auto_batch.Imagined(_classes()), tmp_path, device=CPU)  # type: ignore[arg-type]
    small, large = (
        measured_need(trainer, replace(TINY.arch, resolution=side), 7) for side in (64, 96)
    )
    assert 0 < small.per_image < large.per_image
    weights = sum(one.numel() * one.element_size() for one in trainer.state.detector.parameters())
    assert small.state == large.state == 5 * weights


def _classes() -> Any:
    from rfdetr_repro.data.coco import ClassMap

    return ClassMap(tuple(range(1, 19)), tuple(f"class {index}" for index in range(18)))


def test_a_trial_that_fails_takes_the_next_size() -> None:
    tried = []

    def attempt(size: int) -> int:
        tried.append(size)
        if size > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size * 100

    assert first_that_fits(divisors(12), attempt, 1000) == 6 and tried == [12, 6]
    assert first_that_fits(divisors(12), attempt, 450) == 4
    assert first_that_fits(divisors(12), attempt, 50) is None

    def broken(size: int) -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        first_that_fits([4], broken, 1000)


def test_trials_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the counters of a GPU of 1,000 MiB, on which other programs use 300, and where an image
    takes 90.
    """
    peak = [0]

    def passes(trainer: Trainer, arch: Any, count: int, repeats: int, objects: int) -> None:
        peak[0] = (50 + 90 * count) * MIB
        if peak[0] > 700 * MIB:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(auto_batch, "run_passes", passes)
    for name, value in {
        "memory_allocated": 50 * MIB,
        "memory_reserved": 50 * MIB,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "synchronize": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *rest, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (650 * MIB, 1000 * MIB))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[0])
    trainer = Trainer(RECIPE, auto_batch.Imagined(_classes()), tmp_path, device=CPU)  # type: ignore[arg-type]
    trainer.device = torch.device("cuda")
    size, told = auto_batch._by_trial(trainer, TINY.arch, divisors(12), 7)
    # 6 images take 590 of 700 MiB, of which 595 may be taken
    assert size == 6 and told == "0.6 GiB used of 0.7 GiB available"


@pytest.mark.gpu
def test_the_choice_can_be_trained_on_a_gpu(split: CocoSplit, tmp_path: Path) -> None:
    device = torch.device("cuda")
    asked = TrainRequest(RECIPE, split, tmp_path, device=device, auto_batch=True)
    assert train(asked).steps == 3


def test_the_most_expensive_architecture() -> None:
    arch = most_expensive(RECIPE)
    flops = [total_flops(TINY.model, one, "eager") for one in RECIPE.possible_archs()]
    assert total_flops(TINY.model, arch, "eager") == max(flops)
    scaled = Recipe(TINY, replace(TRAIN, multi_scale=True))
    largest = most_expensive(scaled)
    drawn = [scaled.archs_of_step(step)[0].input_hw for step in range(300)]
    assert largest.input_hw == max(drawn)


def test_a_resumed_run_keeps_its_batch_size_and_equals_the_uninterrupted_run(
    split: CocoSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(auto_batch, "measured_need", lambda *rest: Need(0, 100 * MIB))
    monkeypatch.setattr(auto_batch, "available_bytes", lambda device: 300 * MIB)

    def asked(folder: Path) -> TrainRequest:
        return TrainRequest(RECIPE, split, folder, processes=1, auto_batch=True)

    train(asked(tmp_path / "whole"))
    fixed = replace(RECIPE, train=replace(RECIPE.train, batch_size=2, accumulate=6))

    def stop(step: int, parts: dict[str, float]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(fixed, split, tmp_path / "cut").run(stop)
    monkeypatch.setattr(auto_batch, "available_bytes", lambda device: 10**12)  # more memory now
    capsys.readouterr()
    train(asked(tmp_path / "cut"))
    assert "batch size 2 x 6 micro-batches: as the run was started" in capsys.readouterr().out
    for name in (STATE, MODEL):
        cut, whole = (read_tensors(tmp_path / run / name)[0] for run in ("cut", "whole"))
        assert all(torch.equal(cut[key], whole[key]) for key in whole)
    assert '"batch_size": 2' in read_tensors(tmp_path / "whole" / STATE)[1]["recipe"]
    other = replace(RECIPE, train=replace(RECIPE.train, accumulate=5))
    with pytest.raises(InputError, match="other data or settings: train.accumulate was 6, now"):
        train(replace(asked(tmp_path / "cut"), recipe=other))


def test_the_words_of_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(folder), "--out", str(tmp_path / "run"), "--fixed", "--device", "cpu"]
    assert run_main(command.main, [*given, "--batch-size", "auto", "--accumulate", "2"]) == 2
    assert "--batch-size auto chooses --accumulate too; leave" in capsys.readouterr().err
    assert run_main(command.main, [*given, "--batch-size", "automatic"]) == 2
    assert run_main(command.main, [*given, "--batch-size", "auto", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "batch size 8, chosen for CPU, " in said and "all images of a step fit" in said


def test_the_words_of_the_python_interface() -> None:
    base: dict[str, Any] = {"epochs": 10, "batch_size": "auto", "grad_accum_steps": 4}
    asked = from_upstream(800, base, {}, stated={})
    assert asked.auto_batch and (asked.train.batch_size, asked.train.accumulate) == (16, 1)
    more = from_upstream(800, base, {"auto_batch_target_effective": 32}, stated={})
    assert more.train.batch_size == 32 and more.train.steps == 250
    with pytest.raises(InputError, match="chooses grad_accum_steps too"):
        from_upstream(800, base, {}, stated={"grad_accum_steps": 4})
    with pytest.raises(InputError, match='give a number, or "auto"'):
        from_upstream(800, {**base, "batch_size": "largest"}, {}, stated={})


def test_available_memory_follows_the_limit_of_the_control_group(tmp_path: Path) -> None:
    free = devices.available_bytes(CPU, tmp_path)
    assert 0 < free < 2**50
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert devices.available_bytes(CPU, tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.available_bytes(CPU, tmp_path) > 600_000
