"""What a training leaves to look at: counts that agree with what was trained, statistics that agree
with the annotation file, and pictures that show the trained batches.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.formats.layouts import locate
from rfdetr_repro.data.hooks import Hooks
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.plots.training import read_log
from rfdetr_repro.plots.training_data import draw_curves, draw_labels, draw_sampled
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.train.callbacks import TrainingCallback, TrainingStep
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_pictures import _pictures, first_batches
from rfdetr_repro.train.summaries import label_statistics, sampled_archs

RECIPE = Recipe(TINY, replace(TRAIN, steps=4, flip_probability=0.0, crop_probability=0.0), SPACE)
FILES = {
    "architectures.json",
    "architectures.png",
    "batch-1.png",
    "batch-2.png",
    "curves.png",
    "labels.json",
    "labels.png",
}


class Trained(TrainingCallback):
    def __init__(self) -> None:
        self.archs: Counter[str] = Counter()

    def on_step(self, step: TrainingStep) -> None:
        self.archs.update(step.archs)


@pytest.fixture(scope="module")
def left(split: CocoSplit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    folder = tmp_path_factory.mktemp("run")
    trained = Trained()
    train(TrainRequest(RECIPE, split, folder, callbacks=[trained], pictures=True, processes=1))
    return folder, trained


def test_the_folder_holds_counts_of_what_was_trained(left: tuple[Path, Trained]) -> None:
    folder, trained = left
    assert {path.name for path in (folder / "training").iterdir()} == FILES
    counts = json.loads((folder / "training" / "architectures.json").read_text())
    assert {key: count for key, count in counts["architectures"].items() if count} == trained.archs
    assert counts["passes"] == counts["steps"] == 4
    for name, values in counts["knobs"].items():
        found: Counter[str] = Counter()
        for key, count in trained.archs.items():
            found[str(Arch.parse(key).knobs()[name])] += count
        assert {value: count for value, count in values.items() if count} == found
    assert set(counts["knobs"]["patch"]) == {"8", "12", "16"}
    for path in (folder / "training").glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # not an empty page


def test_counts_follow_the_rule_of_sampling() -> None:
    """A known answer: uniform over the training architectures, and all three of a sandwich."""
    many = sampled_archs(Recipe(TINY, replace(TRAIN, base_share=0.0), SPACE), 3000)
    counts = np.array(list(many["architectures"].values()))
    expected = 3000 / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < len(counts) + 4 * np.sqrt(2 * len(counts))
    sandwich = sampled_archs(Recipe(TINY, replace(TRAIN, sampling="sandwich"), SPACE), 50)
    assert sandwich["passes"] == 150
    assert sorted(sandwich["architectures"].values())[-2] >= 50


def test_statistics_agree_with_the_annotation_file(split: CocoSplit, folder: Path) -> None:
    document = json.loads(locate(DataSource(folder), "train").path.read_text())
    numbers = label_statistics(split)
    rows = document["annotations"]
    names = {row["id"]: row["name"] for row in document["categories"]}
    assert numbers["images"] == len(document["images"]) and numbers["objects"] == len(rows)
    per_class = Counter(names[row["category_id"]] for row in rows)
    assert {
        name: row["objects"] for name, row in numbers["classes"].items() if row["objects"]
    } == per_class
    per_image = Counter(row["image_id"] for row in rows)
    histogram = Counter(per_image[image["id"]] for image in document["images"])
    assert {
        int(n): count for n, count in numbers["objects_per_image"]["histogram"].items()
    } == histogram
    sides = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    sizes = [
        np.sqrt(row["bbox"][2] * row["bbox"][3] / np.prod(sides[row["image_id"]])) for row in rows
    ]
    assert numbers["size"]["median"] == pytest.approx(np.median(sizes), abs=2e-3)
    assert (
        sum(numbers["size"]["histogram"].values()) == sum(map(sum, numbers["centres"])) == len(rows)
    )
    assert numbers["small"] + numbers["medium"] + numbers["large"] == len(rows)


def test_the_pictures_are_those_of_the_batches(split: CocoSplit) -> None:
    """Without augmentation at the size of the file, the pixels and boxes are those of the file."""
    recipe = Recipe(replace(TINY, arch=Arch(64, 16, 1, 2, 10)), RECIPE.train)
    for _, batch in first_batches(recipe, split, Hooks()):
        for (image, found), target in zip(_pictures(batch), batch.targets, strict=True):
            index = next(i for i, info in enumerate(split.images) if info.id == target.image_id)
            sample = split.sample(index)
            assert np.abs(image.astype(int) - sample.image.astype(int)).max() <= 1
            assert np.allclose(found.boxes_xyxy, sample.boxes_xyxy, atol=1e-3)
            assert found.labels.tolist() == sample.labels.tolist()


def test_an_own_augmentation_is_seen(split: CocoSplit) -> None:
    def black(sample: Any, rng: np.random.Generator) -> Any:
        return replace(sample, image=np.zeros_like(sample.image))

    for _, batch in first_batches(RECIPE, split, Hooks(black)):
        assert all(image.max() <= 1 for image, _ in _pictures(batch))


def test_odd_runs_are_drawn_too(split: CocoSplit) -> None:
    """No object, one class, hundreds of classes; a log of one row."""
    numbers = label_statistics(split)
    empty = {
        **numbers,
        "objects": 0,
        "objects_per_image": {"histogram": {"0": 3}},
        "size": {},
        "classes": {"犬 and a name that is much longer than any bar": {"objects": 0}},
    }
    many = {**numbers, "classes": {f"class {n}": {"objects": n} for n in range(300)}}
    for one in (empty, many):
        draw_labels(Figure((6.7, 4.8)), one)
    draw_curves(Figure((6.7, 2.6)), [{"step": 1, "loss": 2.0}])
    draw_curves(Figure((6.7, 2.6)), [{"step": 1, "split": "val", "ap": None}])
    counts = sampled_archs(Recipe(TINY, replace(TRAIN, multi_scale=True)), 3)
    draw_sampled(Figure((6.7, 2.3)), counts)


def test_the_log_of_a_run_stays_readable(left: tuple[Path, Trained]) -> None:
    rows = read_log(left[0] / "train_log.jsonl")
    assert rows[-1]["lr"] >= 0 and rows[-1]["step"] == 4


def test_a_picture_that_fails_does_not_end_the_training(
    split: CocoSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("rfdetr_repro.plots.training_data.draw_labels", fails)
    short = replace(RECIPE, train=replace(RECIPE.train, steps=1))
    run = train(TrainRequest(short, split, tmp_path, pictures=True, processes=1))
    assert run.model.exists()
    assert "statistics of the labels: not drawn (ValueError: no font)" in capsys.readouterr().err
