"""Training: parameter groups, schedule, EMA, and a resume that equals the uninterrupted run bit for
bit.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.model.checkpoints.native import load_supernet, read_tensors, write_tensors
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train import optim
from rfdetr_repro.train.optim import Ema, build_optimizer, rate_and_decay, schedule
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_log import LOG, read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

RECIPE = Recipe(TINY, TRAIN, SPACE)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    folder = write_embedded(
        tmp_path_factory.mktemp("data"),
        EmbeddedConfig(64, train_images=8, val_images=2, test_images=2),
        workers=1,
    )
    return read_split(folder, "train")


def states(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / STATE)[0]


class Killed(BaseException):
    pass


def kill_at_5(step: int, parts: dict[str, float]) -> None:
    if step == 5:  # the last checkpoint is at step 3
        raise Killed


def test_resume_equals_the_uninterrupted_run(split: CocoSplit, tmp_path: Path) -> None:
    Trainer(RECIPE, split, tmp_path / "whole").run()

    with pytest.raises(Killed):
        Trainer(RECIPE, split, tmp_path / "cut").run(kill_at_5)
    resumed = Trainer(RECIPE, split, tmp_path / "cut")
    assert resumed.state.step == 3
    resumed.run()
    whole = states(tmp_path / "whole")
    cut = states(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    strip = [
        [{**row, "seconds": 0} for row in read_log(tmp_path / name)] for name in ("whole", "cut")
    ]
    assert strip[0] == strip[1] and strip[0][-1]["step"] == 6
    weights = [load_supernet(tmp_path / name / MODEL)[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_moves_the_weights_and_describes_itself(split: CocoSplit, tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, split, tmp_path)
    before = {name: value.clone() for name, value in trainer.state.detector.state_dict().items()}
    trainer.run()
    still = [
        name
        for name, value in trainer.state.detector.state_dict().items()
        if torch.equal(value, before[name])
    ]
    assert not still
    detector, card, digest = load_supernet(tmp_path / MODEL)
    assert (
        card.class_names == split.classes.names
        and card.space == SPACE
        and card.steps == 6
        and len(digest) == 64
    )
    assert all(
        torch.equal(value, trainer.state.ema.state[name])
        for name, value in detector.state_dict().items()
    )


def test_other_settings_or_a_corrupt_state_are_refused(split: CocoSplit, tmp_path: Path) -> None:
    Trainer(replace(RECIPE, train=replace(TRAIN, steps=1)), split, tmp_path).run()
    with pytest.raises(InputError, match="other data or settings"):
        Trainer(RECIPE, split, tmp_path)
    content = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="corrupt checkpoint"):
        Trainer(RECIPE, split, tmp_path)
    (tmp_path / MODEL).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="corrupt checkpoint"):
        load_supernet(tmp_path / MODEL)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_supernet(tmp_path / "absent.safetensors")


def test_evaluation_rows_go_to_the_log(split: CocoSplit, tmp_path: Path) -> None:
    config = replace(TRAIN, steps=4, evaluate_every=2)
    Trainer(replace(RECIPE, train=config), split, tmp_path).run(
        evaluate=lambda trainer: [{"split": "val", "ap": 0.0}]
    )
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [row["step"] for row in rows if "split" in row] == [2, 4]


def test_architectures_are_drawn_uniformly_and_by_step() -> None:
    uniform = replace(RECIPE, train=replace(TRAIN, base_share=0.0))
    drawn = [uniform.archs_of_step(step)[0] for step in range(600)]
    assert drawn == [uniform.archs_of_step(step)[0] for step in range(600)]
    counts = {arch: drawn.count(arch) for arch in SPACE.training_archs()}
    assert min(counts.values()) > 10 and set(drawn) == set(counts)
    assert all((arch.decoder_layers, arch.queries) == (2, 10) for arch in counts)
    base = [
        replace(RECIPE, train=replace(TRAIN, base_share=0.5)).archs_of_step(step) == (TINY.arch,)
        for step in range(600)
    ]
    assert 0.45 < sum(base) / 600 < 0.65


@pytest.mark.parametrize(
    ("name", "rate", "decay"),
    [
        ("backbone.pos_embed", 1.5e-4 * 0.8**14 * 0.49, 0.0),
        ("backbone.patch_embed.weight", 1.5e-4 * 0.8**14 * 0.49, 0.0),
        ("backbone.blocks.0.fc1.weight", 1.5e-4 * 0.8**13 * 0.49, 1e-4),
        ("backbone.blocks.11.fc1.weight", 1.5e-4 * 0.8**2 * 0.49, 1e-4),
        ("backbone.blocks.11.fc1.bias", 1.5e-4 * 0.8**2 * 0.49, 0.0),
        ("backbone.blocks.3.scale1", 1.5e-4 * 0.8**10 * 0.49, 1e-4),
        ("backbone.norm.weight", 1.5e-4 * 0.49, 0.0),
        ("decoder.layers.1.linear1.bias", 0.7e-4, 1e-4),
        ("decoder.query_feat", 1e-4, 1e-4),
        ("projector.stages.0.cv1.norm.weight", 1e-4, 1e-4),
        ("selection.proj.weight", 1e-4, 1e-4),
        ("class_embed.bias", 1e-4, 1e-4),
    ],
)
def test_parameter_groups_of_the_released_recipe(name: str, rate: float, decay: float) -> None:
    assert rate_and_decay(name, TrainConfig(), 12) == pytest.approx((rate, decay))


def test_schedule() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, cooldown_share=0.25)
    assert [schedule(step, config) for step in (0, 9, 10, 74, 75)] == [0.1, 1.0, 1.0, 1.0, 1.0]
    assert schedule(99, config) == pytest.approx(0.04)
    assert schedule(10**6, TrainConfig(steps=10)) == 1.0  # the paper has no schedule


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_schedule_is_that_of_torch(warmup: int) -> None:
    config = TrainConfig(steps=100, warmup_steps=warmup, cooldown_share=1.0, cooldown_form="cosine")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    wanted = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100 - warmup)
    for step in range(warmup, 100):
        assert schedule(step, config) == pytest.approx(wanted.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        wanted.step()
    assert schedule(100, config) == schedule(10**6, config) == 0.0
    # a cosine over the last quarter only
    late = replace(config, cooldown_share=0.25)
    assert schedule(74, late) == 1.0 and schedule(87, late) == pytest.approx(0.531, abs=1e-3)


def test_ema_follows_its_schedule(split: CocoSplit, tmp_path: Path) -> None:
    detector = Trainer(RECIPE, split, tmp_path).state.detector
    ema = Ema(detector, TRAIN)
    name = "class_embed.bias"
    start = ema.state[name].clone()
    with torch.no_grad():
        detector.class_embed.bias += 1
    ema.update(detector, 1)
    decay = TRAIN.ema_decay * (1 - math.exp(-1 / TRAIN.ema_tau))
    assert torch.allclose(ema.state[name], start + (1 - decay))
    total = sum(
        len(group["params"])
        for group in build_optimizer({"": detector}, TrainConfig(), 12).param_groups
    )
    assert total == len(list(detector.parameters()))


def header(path: Path) -> int:
    """Bytes of a safetensors file's header, which must stay below 100 MB."""
    return int.from_bytes(path.read_bytes()[:8], "little")


def test_a_state_stays_as_small_as_it_is_however_long_the_log(
    split: CocoSplit, tmp_path: Path
) -> None:
    """Of 81,600 rows, as 816,000 steps give, not one is in the state; what is saved again is
    appended, never written anew.
    """
    trainer = Trainer(RECIPE, split, tmp_path)
    trainer.save()
    small = header(tmp_path / STATE)
    for step in range(1, 81_601):
        trainer.state.log.add({"step": step, "seconds": 0.5 * step, "loss": 1 / step})
    trainer.save()
    first = (tmp_path / LOG).read_bytes()
    written = (tmp_path / LOG).stat().st_ino
    assert header(tmp_path / STATE) < small + 100 and len(list(read_log(tmp_path))) == 81_600
    trainer.state.log.add({"step": 81_601})
    trainer.save()
    assert (tmp_path / LOG).stat().st_ino == written and (
        tmp_path / LOG
    ).read_bytes() == first + b'{"step": 81601}\n'


def test_rows_of_steps_that_are_trained_again_are_cut_off(
    split: CocoSplit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between log and state; and a file that was shortened is reported, not filled up."""
    trainer = Trainer(RECIPE, split, tmp_path)
    for step in (1, 2):
        trainer.state.log.add({"step": step})
    trainer.save()
    with open(tmp_path / LOG, "a") as stream:
        stream.write('{"step": 3}\n{"ste')
    again = Trainer(RECIPE, split, tmp_path)
    again.state.log.add({"step": 4})
    again.save()
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 4] and not capsys.readouterr().err
    os.truncate(tmp_path / LOG, 15)
    third = Trainer(RECIPE, split, tmp_path)
    third.state.log.add({"step": 5})
    third.save()
    assert [row["step"] for row in read_log(tmp_path)] == [1, 5]
    assert (
        "holds 15 of the 36 bytes that the training state expects: some rows are lost"
        in capsys.readouterr().err
    )
    (tmp_path / LOG).unlink()
    Trainer(RECIPE, split, tmp_path).save()
    assert not list(read_log(tmp_path)) and "holds 0 of the" in capsys.readouterr().err


def test_a_state_that_holds_its_log_itself_goes_on(split: CocoSplit, tmp_path: Path) -> None:
    """As earlier versions wrote it; their file held the same rows."""
    Trainer(RECIPE, split, tmp_path / "whole").run()
    trainer = Trainer(RECIPE, split, tmp_path / "old")
    with pytest.raises(Killed):
        trainer.run(kill_at_5)
    tensors, metadata = read_tensors(tmp_path / "old" / STATE)
    for later in ("log_bytes", "evaluation_due", "precision"):
        del metadata[later]
    write_tensors(
        tmp_path / "old" / STATE,
        tensors,
        {**metadata, "log": json.dumps(['{"step": 3, "loss": 1.0}'])},
    )
    (tmp_path / "old" / LOG).write_text('{"step": 3, "loss": 1.0}\n')
    resumed = Trainer(RECIPE, split, tmp_path / "old")
    assert resumed.state.step == 3
    resumed.run()
    assert [row["step"] for row in read_log(tmp_path / "old")] == [3, 6]
    whole = states(tmp_path / "whole")
    old = states(tmp_path / "old")
    assert all(torch.equal(whole[name], old[name]) for name in whole)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Error while serializing: header too large",
            "cannot write: header too large (PATH); what was there before is kept",
        ),
        (
            "I/O error: No space left on device (os error 28)",
            "No space left on device (PATH); free some space; what was there",
        ),
        (
            "I/O error: Permission denied (os error 13)",
            "cannot write: Permission denied (PATH); what was there before is kept",
        ),
    ],
)
def test_a_state_that_cannot_be_written_names_the_real_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise SafetensorError(said)

    monkeypatch.setattr("rfdetr_repro.model.checkpoints.native.save_file", fails)
    path = tmp_path / "x"
    with pytest.raises(InputError) as caught:
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert told.replace("PATH", str(path)) in str(caught.value) and not list(tmp_path.iterdir())


def test_the_librarys_own_limit_of_a_header_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="cannot write: header too large .*; what was there before is kept"
    ) as caught:
        write_tensors(tmp_path / "x", {"a": torch.zeros(1)}, {"log": "x" * 101_000_000})
    assert "free some space" not in str(caught.value)


def test_a_log_on_a_full_disk_names_the_cause_and_keeps_the_state(
    split: CocoSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(RECIPE, split, tmp_path)
    trainer.state.log.add({"step": 1})
    trainer.save()
    before = (tmp_path / STATE).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer.state.log.add({"step": 2})
    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match="the training log: No space left.*free some space"),
    ):
        patch.setattr(os, "fsync", full)
        trainer.save()
    assert (tmp_path / STATE).read_bytes() == before
    again = Trainer(RECIPE, split, tmp_path)
    again.state.log.add({"step": 3})
    again.save()
    assert [row["step"] for row in read_log(tmp_path)] == [1, 3]


@pytest.mark.parametrize(
    ("unit", "limit", "dtype", "why"),
    [
        (False, "", None, "no AMX unit: bfloat16 would be slower"),
        (True, "", torch.bfloat16, "has an AMX unit"),
        (True, "AVX512_CORE_AMX", torch.bfloat16, "has an AMX unit"),
        (True, "AVX2", None, "oneDNN is kept from the AMX unit .AVX2."),
    ],
)
def test_bfloat16_takes_a_matrix_unit(
    unit: bool, limit: str, dtype: torch.dtype | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instructions for vectors of bfloat16 are no reason: autocast with them is slower than
    float32.
    """
    monkeypatch.setattr(optim, "HAS_SPLIT_LINEAR", unit)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    found = optim.precision(torch.device("cpu"), TrainConfig())
    assert found.dtype == dtype and re.search(why, str(found))
    off = optim.precision(torch.device("cpu"), replace(TrainConfig(), bfloat16=False, float16=True))
    assert str(off) == "float16 backbone and projector (bfloat16 is off; float16 is on)"


def test_the_precision_of_a_run_is_kept_and_a_change_is_said(
    split: CocoSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As where a run goes on upon another machine."""
    request = TrainRequest(RECIPE, split, tmp_path, processes=1)
    monkeypatch.setattr(optim, "bfloat16_is_fast", lambda device: (True, "as said here"))
    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(
            "rfdetr_repro.train.progress.TrainingDisplay.on_step",
            lambda display, step: kill_at_5(step.step, {}),
        )
        train(request)
    assert "precision: bfloat16 backbone and projector (as said here)" in capsys.readouterr().out
    monkeypatch.setattr(optim, "bfloat16_is_fast", lambda device: (False, "or there"))
    train(request)
    said = capsys.readouterr()
    assert (
        "trained in bfloat16 so far; in another precision the results are equal up to rounding only"
        in said.err
    )
    assert "precision: float32 backbone and projector (or there)" in said.out
