"""A campaign of two trainings, and its plan: each stage's steps, memory and hours, with nothing
trained or written.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.formats.layouts import locate
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.model.checkpoints.native import load_supernet, read_tensors
from rfdetr_repro.reproduce import command as reproduce
from rfdetr_repro.reproduce import plan as reproduce_plan
from rfdetr_repro.reproduce.run import Reproduction
from rfdetr_repro.reproduce.training import pretrain, train
from rfdetr_repro.spec.campaign import EMBEDDED, Campaign, Pretraining, campaign
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.train import plan as planning
from rfdetr_repro.train.trainer import MODEL, Trainer

QUICK = Protocol(mode="buffered", buffer_ms=0.0, warmup=1, min_samples=3, max_samples=3)
PAPER = Path(__file__).resolve().parents[2] / "campaigns" / "paper.toml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = EmbeddedConfig(64, train_images=6, val_images=3, test_images=2)
    return write_embedded(tmp_path_factory.mktemp("set"), config, workers=1)


@pytest.fixture(scope="module")
def two_stages(data: Path) -> Campaign:
    boxes_only = replace(TINY, model=replace(TINY.model, masks=False))
    before = Pretraining(data, replace(TRAIN, steps=2, seed=1))
    plain = replace(
        EMBEDDED,
        preset=boxes_only,
        space=SPACE,
        train=replace(TRAIN, steps=3),
        data=data,
        weights=None,
    )
    return replace(
        plain,
        pretraining=before,
        finetune_steps=4,
        buffered=QUICK,
        sustained=replace(QUICK, mode="sustained"),
    )


def test_training_goes_on_from_the_stage_before(
    two_stages: Campaign, data: Path, tmp_path: Path
) -> None:
    """Masks are trained first, for both tasks, and left behind by a campaign of boxes."""
    splits = {"train": read_split(data, "train")}
    first, told = pretrain(two_stages, tmp_path / "pretraining")
    assert told.startswith("2 steps") and load_supernet(first)[1].config.masks
    train(two_stages, splits, tmp_path, first)
    config = load_supernet(tmp_path / MODEL)[1].config
    assert not config.masks
    random, _ = train(replace(two_stages, pretraining=None), splits, tmp_path / "random", None)
    before, after, other = (read_tensors(path)[0] for path in (first, tmp_path / MODEL, random))
    name = "backbone.patch_embed.weight"
    near, far = (float((before[name] - one[name]).norm()) for one in (after, other))
    assert 0 < near < 0.1 * far  # three steps move little


def test_the_whole_flow_runs_the_stage_before(
    two_stages: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Reproduction(two_stages, tmp_path, "test")
    weights = run.weights()
    assert weights == tmp_path / "pretraining" / MODEL and "pretraining" in json.loads(
        (tmp_path / "stages.json").read_text()
    )
    monkeypatch.setattr(Trainer, "train_step", lambda *rest: pytest.fail("trained again"))
    assert Reproduction(two_stages, tmp_path, "test").weights() == weights
    alone = replace(two_stages, pretraining=None, weights=Path("mine.safetensors"))
    assert Reproduction(alone, tmp_path / "alone", "test").weights() == Path("mine.safetensors")


def test_data_without_masks_trains_boxes(two_stages: Campaign, data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for part in ("train", "val"):
        (bare / part).symlink_to(data / part)
        document = json.loads(locate(DataSource(data), part).path.read_text())
        for annotation in document["annotations"]:
            del annotation["segmentation"]
        (bare / "annotations").mkdir(exist_ok=True)
        (bare / "annotations" / f"instances_{part}.json").write_text(json.dumps(document))
    first, _ = pretrain(
        replace(two_stages, pretraining=Pretraining(bare, TRAIN)), tmp_path / "boxes"
    )
    assert not load_supernet(first)[1].config.masks
    asked = replace(two_stages, preset=TINY, pretraining=Pretraining(bare, TRAIN))
    with pytest.raises(InputError, match="no masks to train the mask head with.*pseudo_masks"):
        pretrain(asked, tmp_path / "masks")


def test_the_plan_has_every_stage_and_adds_up(
    two_stages: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "REPEATS", 1)
    monkeypatch.chdir(tmp_path)
    absent = replace(
        two_stages,
        pretraining=Pretraining(Path("objects365"), TRAIN),
        weights=Path("dinov2.safetensors"),
    )
    lines = list(reproduce_plan.plan(absent))
    assert lines[:2] == [
        "weights dinov2.safetensors: not there yet",
        "[pretraining] objects365 is not here: number of images unknown",
    ]
    stages = [line.split("]")[0][1:] for line in lines if line.startswith("[")]
    assert stages == ["pretraining", "train", "search", "finetune"]
    assert f"[train] {two_stages.data}: 6 images to train on, 3 to validate on" in lines
    assert sum("GiB at most" in line for line in lines) == 3 and any(
        "3 images; on CPU" in line for line in lines
    )
    hours = [float(line.split()[2]) for line in lines if line.startswith("whole run")]
    assert (
        len(hours) == 3
        and float(lines[-1].split()[2]) >= 0.99 * sum(hours)
        and lines[-1].startswith("whole campaign")
    )
    assert not list(tmp_path.iterdir())


def test_the_command_plans_and_makes_no_folder(
    two_stages: Campaign,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "rfdetr_repro.reproduce.plan.plan", lambda chosen, count: iter([chosen.name])
    )
    assert (
        run_main(
            reproduce.main, ["--campaign", str(PAPER), "--out", str(tmp_path / "out"), "--plan"]
        )
        == 0
    )
    assert capsys.readouterr().out == "paper\n" and not (tmp_path / "out").exists()


def test_the_papers_recipe_is_one_file() -> None:
    found = campaign(str(PAPER))
    assert found.pretraining is not None and found.pretraining.data == Path("data/objects365")
    for config in (found.pretraining.train, found.train):
        assert config.batch_size * config.accumulate == 128 and (config.lr, config.lr_encoder) == (
            1e-4,
            1.5e-4,
        )
    # epochs of Objects365
    assert found.pretraining.train.steps * 128 == pytest.approx(60 * 1.74e6, rel=0.01)
    assert found.space.grid_points() == 6468 and not any(
        "no Objects365" in line for line in found.departures
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("steps = 5", "data is missing"), ('data = "x"\nstep = 5', "unknown keys")],
)
def test_a_stage_that_is_not_one(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f"[pretraining]\n{text}\n")
    with pytest.raises(InputError, match=message):
        campaign(str(tmp_path / "mine.toml"))
