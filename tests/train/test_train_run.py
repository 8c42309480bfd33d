"""The one way to train: what a request refuses before anything is spent, what a run returns, and
that it trains as the bare trainer does.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SPACE, TINY, TRAIN, tiny_detector

from rfdetr_repro.data.coco import CocoSplit, read_split, read_splits
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.formats.layouts import locate
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.model.checkpoints.native import load_supernet, read_tensors
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.train import run as module
from rfdetr_repro.train.prepare import boxes_only, cpu_weights, start_of
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_log import LOG, read_log
from rfdetr_repro.train.state import STATE
from rfdetr_repro.train.trainer import MODEL, Trainer

RECIPE = Recipe(TINY, replace(TRAIN, steps=2), SPACE)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = EmbeddedConfig(64, train_images=4, val_images=2, test_images=2)
    return write_embedded(tmp_path_factory.mktemp("data"), config, workers=1)


@pytest.fixture(scope="module")
def splits(data: Path) -> dict[str, CocoSplit]:
    return read_splits(DataSource(data), ("val", "test"))


def without_masks(data: Path, folder: Path) -> DataSource:
    """The train split of ``data`` as a set of its own, without segmentations."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").symlink_to(data / "train")
    document = json.loads(locate(DataSource(data), "train").path.read_text())
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return DataSource(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"processes": 0}, "processes = 0 is not a whole number from 1 to 1024"),
        ({"processes": 1025}, "processes = 1025 is not a whole number"),
        ({"processes": 1.0}, "processes = 1.0 is not a whole number"),
        ({"processes": True}, "processes = True is not a whole number"),
        ({"processes": 3}, "a batch of 2 cannot be split over 3 processes"),
        ({"recipe": replace(RECIPE, space=None, train=replace(TRAIN, sampling="sandwich"))}, "sp"),
        ({"recipe": replace(RECIPE, train=replace(TRAIN, multi_scale=True))}, "multi_scale"),
    ],
)
def test_a_request_that_contradicts_itself_cannot_be_made(
    splits: dict[str, CocoSplit], tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    given = {"recipe": RECIPE, "split": splits["train"], "folder": tmp_path / "run", **changes}
    with pytest.raises(InputError, match=told):
        TrainRequest(**given)


def test_masks_that_the_data_lack_are_refused_before_training(data: Path, tmp_path: Path) -> None:
    split = read_split(without_masks(data, tmp_path / "bare"), "train")
    with pytest.raises(InputError, match="annotations without a segmentation.*train without masks"):
        TrainRequest(RECIPE, split, tmp_path / "run")
    boxes = replace(RECIPE, preset=start_of(TINY, split, None).preset)
    assert TrainRequest(boxes, split, tmp_path / "run").recipe.preset.model.masks is False


def other_weights() -> dict[str, torch.Tensor]:
    return cpu_weights(tiny_detector(num_classes=3))


def fewer_weights() -> dict[str, torch.Tensor]:
    weights = other_weights()
    del weights["backbone.patch_embed.weight"]
    return weights


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (lambda splits: {"initial": other_weights()}, "do not fit the model: size mismatch for"),
        (lambda splits: {"initial": fewer_weights()}, "do not fit the model: Missing key"),
        (lambda splits: {"recipe": PATIENT}, "patience needs a val split"),
        (
            lambda splits: {"recipe": PATIENT, "held_out": {"test": splits["test"]}},
            "patience needs a val split",
        ),
        (lambda splits: {"tensorboard": True}, "tensorboard is not installed"),
    ],
)
def test_what_cannot_work_leaves_nothing_behind(
    splits: dict[str, CocoSplit],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: Callable[[dict[str, CocoSplit]], dict[str, Any]],
    told: str,
) -> None:
    """No folder, no process, no step."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr("rfdetr_repro.train.processes._start", lambda: pytest.fail("a process"))
    monkeypatch.setattr(Trainer, "train_step", lambda *rest: pytest.fail("a step"))
    given = {"recipe": RECIPE, "split": splits["train"], "processes": 2, **changes(splits)}
    with pytest.raises(InputError, match=told):
        train(TrainRequest(folder=tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()


PATIENT = replace(RECIPE, train=replace(TRAIN, steps=2, evaluate_every=1, patience=2))


def test_a_run_says_what_it_made(
    splits: dict[str, CocoSplit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = {name: splits[name] for name in ("val", "test")}
    request = TrainRequest(
        PATIENT, splits["train"], tmp_path, held_out, device=torch.device("cpu"), processes=1
    )
    done = train(request)
    assert (done.folder, done.model, done.steps) == (tmp_path, tmp_path / MODEL, 2)
    assert done.seconds == float(read_tensors(tmp_path / STATE)[1]["seconds"]) > 0
    assert done.best is not None and done.best.step in (1, 2)
    assert load_supernet(done.model)[1].notes == done.best.describe()
    assert done.sha256 == hashlib.sha256(done.model.read_bytes()).hexdigest()
    rows = [row for row in read_log(tmp_path) if "split" in row]
    assert [(row["step"], row["split"], row.get("weights")) for row in rows] == [
        (step, name, weights) for step in (1, 2) for weights in (None, "raw") for name in held_out
    ]
    assert f"precision: {done.precision}" in capsys.readouterr().out
    again = train(request)  # trains nothing
    assert again == done and "is complete: nothing to train" in capsys.readouterr().err


def test_without_patience_the_model_is_the_last_average(
    splits: dict[str, CocoSplit], tmp_path: Path
) -> None:
    done = train(TrainRequest(RECIPE, splits["train"], tmp_path, processes=1))
    assert done.best is None and not any("split" in row for row in read_log(tmp_path))
    state = read_tensors(tmp_path / STATE)[0]
    for name, value in load_supernet(done.model)[0].state_dict().items():
        assert torch.equal(value, state[f"ema.{name}"]), name


def test_it_trains_as_the_bare_trainer_does(splits: dict[str, CocoSplit], tmp_path: Path) -> None:
    """The same bits in the model and the log, from given weights."""
    split = splits["train"]
    initial = cpu_weights(tiny_detector(num_classes=len(split.classes.names)))
    train(TrainRequest(RECIPE, split, tmp_path / "door", initial=initial, processes=1))
    Trainer(RECIPE, split, tmp_path / "bare", initial).run()
    models = [(tmp_path / name / MODEL).read_bytes() for name in ("door", "bare")]
    assert models[0] == models[1]
    logs = [(tmp_path / name / LOG).read_text() for name in ("door", "bare")]
    without_time = [
        [{**json.loads(line), "seconds": 0} for line in log.splitlines()] for log in logs
    ]
    assert without_time[0] == without_time[1]


def test_the_optional_splits_are_those_that_are_there(
    data: Path, splits: dict[str, CocoSplit], tmp_path: Path
) -> None:
    assert list(splits) == ["train", "val", "test"]
    assert all(one.classes == splits["train"].classes for one in splits.values())
    assert list(read_splits(DataSource(data))) == ["train", "val"]
    bare = without_masks(data, tmp_path / "bare")
    assert list(read_splits(bare, ("val", "test"))) == ["train"]
    with pytest.raises(InputError, match="val"):
        read_splits(bare, ("val", "test"), needed=("val",))


def test_a_start_takes_masks_and_shapes_as_data_and_weights_have_them(
    data: Path, splits: dict[str, CocoSplit], tmp_path: Path
) -> None:
    split = splits["train"]
    plain = start_of(TINY, split, None)
    assert (plain.preset, plain.initial, plain.boxes_only, plain.taken) == (TINY, None, "", "")
    bare = read_split(without_masks(data, tmp_path / "bare"), "train")
    boxes = start_of(TINY, bare, None)
    assert boxes.boxes_only == "no masks in this data set: training boxes only" == boxes_only(bare)
    assert not boxes.preset.model.masks and boxes_only(split) == ""
    already = replace(TINY, model=replace(TINY.model, masks=False))
    assert start_of(already, bare, None).boxes_only == ""  # there is nothing to leave out
    done = train(TrainRequest(RECIPE, split, tmp_path / "run", processes=1))
    taken = start_of(TINY, bare, done.model)
    assert taken.taken.startswith(f"starting from {MODEL} ({done.sha256[:12]})")
    assert taken.initial is not None and not any("mask" in name for name in taken.initial)
    weights = load_supernet(done.model)[0].state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in taken.initial.items())


def test_the_door_opens_without_pytorch() -> None:
    """Commands import it before they have read their arguments."""
    code = f"import sys, {module.__name__}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
