"""The embedded set: deterministic, exact truth, splits that do not leak, resumable, and said to be
synthetic.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded import dataset as embedded
from rfdetr_repro.data.embedded import folder as writing
from rfdetr_repro.data.embedded.command import main
from rfdetr_repro.data.embedded.compose import MIN_PIXELS, PACK, load_assets
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, compose, write_embedded
from rfdetr_repro.spec.errors import InputError, run_main

SMALL = EmbeddedConfig(image_side=96, train_images=6, val_images=4, test_images=3, seed=3)


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedded(tmp_path_factory.mktemp("embedded"), SMALL, workers=1)


def test_pack_is_whole_and_credited() -> None:
    with open(PACK / "catalog.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1060 and all((PACK / row["file"]).is_file() for row in rows)
    credits = (PACK / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(creator in credits for creator in {row["creator"] for row in rows})
    models = [
        {row["model_id"] for row in rows if row["split"] == part} for part in ("train", "val")
    ]
    assert not models[0] & models[1]


def test_test_split_shares_nothing_with_train() -> None:
    train = load_assets("train")
    unseen = load_assets("val")
    assert train.categories == unseen.categories and len(train.categories) == 18

    def pixels(assets: Any) -> set[bytes]:
        sprites = [
            sprite.rgba
            for models in (*assets.classes, assets.clutter)
            for views in models
            for sprite in views
        ]
        return {
            array.tobytes() for array in [*sprites, *(picture for picture, _ in assets.backgrounds)]
        }

    assert not pixels(train) & pixels(unseen)
    assert embedded.SPLITS == {"train": "train", "val": "train", "test": "val"}


def test_scenes_depend_on_seed_split_and_index_only() -> None:
    first = compose(SMALL, "train", 5)
    again = compose(replace(SMALL, train_images=50), "train", 5)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.masks, again.masks)
    others = [
        compose(SMALL, "train", 4),
        compose(SMALL, "val", 5),
        compose(replace(SMALL, seed=4), "train", 5),
    ]
    assert all(not np.array_equal(first.image, other.image) for other in others)


def test_scenes_are_varied_and_their_truth_is_exact() -> None:
    shares = []
    overlaps = 0
    labels = set()
    for index in range(60):
        scene = compose(EmbeddedConfig(), "train", index)
        assert scene.image.shape == (160, 160, 3) and scene.image.dtype == np.uint8
        assert len(scene.masks) == len(scene.category_ids) <= 7
        assert (scene.masks.sum(axis=0) <= 1).all()  # a pixel belongs to one object
        assert all(mask.sum() >= MIN_PIXELS for mask in scene.masks)
        labels |= set(scene.category_ids)
        for mask in scene.masks:
            ys, xs = mask.nonzero()
            shares.append(max(np.ptp(ys), np.ptp(xs)) / 160)
            box = np.zeros_like(mask)
            box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
            overlaps += any((box & other).sum() > 20 for other in scene.masks if other is not mask)
    assert 2.5 < len(shares) / 60 < 4.5 and len(labels) == 18
    small = np.mean(np.array(shares) < 0.16)
    large = np.mean(np.array(shares) > 0.36)
    assert 0.05 < small < 0.3 and 0.25 < large < 0.55
    assert overlaps / len(shares) > 0.2  # occlusion happens


def test_written_folder_reads_back(folder: Path) -> None:
    train = read_split(folder, "train")
    assert (train.name, len(train), len(train.classes)) == ("embedded", 6, 18) and train.has_masks
    for name, count in (("val", 4), ("test", 3)):
        split = read_split(folder, name, train.classes)
        assert (
            len(split) == count and "not COCO AP" in split.description and split.clipped_boxes == 0
        )
    assert "never occur in training" in read_split(folder, "test").description
    scene = compose(SMALL, "train", 2)
    sample = train.sample(2, masks=True)
    assert np.array_equal(sample.masks, scene.masks)
    assert [train.classes.category_ids[label] for label in sample.labels] == list(
        scene.category_ids
    )
    assert np.abs(sample.image.astype(int) - scene.image).mean() < 8  # JPEG
    for box, mask in zip(sample.boxes_xyxy, scene.masks, strict=True):
        ys, xs = mask.nonzero()
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_same_bytes_on_repeat_and_with_two_workers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "CHUNK", 1)  # so that the small set is spread over both
    assert digests(write_embedded(tmp_path, SMALL, workers=2)) == digests(folder)


def test_a_finished_split_is_kept_and_an_unfinished_one_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_embedded(tmp_path, SMALL, workers=1)
    whole = digests(tmp_path)
    # as after a kill: images there, annotations not
    (tmp_path / "annotations" / "instances_val.json").unlink()
    (tmp_path / "val" / "000001.jpg").write_bytes(b"half an im")
    asked: list[str] = []
    monkeypatch.setattr(
        embedded,
        "compose",
        lambda config, split, index: asked.append(split) or compose(config, split, index),
    )
    write_embedded(tmp_path, SMALL, workers=1)
    assert set(asked) == {"val"} and digests(tmp_path) == whole
    with pytest.raises(InputError, match="another embedded data set"):
        write_embedded(tmp_path, replace(SMALL, seed=9), workers=1)


def test_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddedConfig, "count", lambda self, split: 2)
    assert (
        run_main(main, ["--out", str(tmp_path / "set"), "--train-images", "2", "--side", "64"]) == 0
    )
    assert "not COCO AP" in capsys.readouterr().out
    document = json.loads((tmp_path / "set" / "annotations" / "instances_train.json").read_text())
    assert len(document["images"]) == 2 and document["info"]["config"]["image_side"] == 64
    assert run_main(main, ["--out", str(tmp_path / "other"), "--train-images", "0"]) == 2
    (tmp_path / "file").touch()
    assert run_main(main, ["--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
