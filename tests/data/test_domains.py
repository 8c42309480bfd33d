"""The ten domains: the same bytes from the same seed, exact truth, the stated statistics, held-out
objects held out, resumable, and never over the files of somebody else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from rfdetr_repro.data.census import take_census
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.domains import dataset as writing
from rfdetr_repro.data.domains import exact, photographs, signs
from rfdetr_repro.data.domains.command import main
from rfdetr_repro.data.domains.dataset import SPLITS, DomainConfig, compose, write_domain
from rfdetr_repro.data.domains.kinds import DOMAINS, TEN
from rfdetr_repro.data.domains.picture import Picture
from rfdetr_repro.data.embedded.compose import MIN_PIXELS
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.spec.errors import InputError, run_main

ROOT = Path(__file__).resolve().parents[2]
TINY = DomainConfig(train_images=2, val_images=1, test_images=1, seed=5)
NAMES = tuple(DOMAINS)
ENOUGH = 12  # pictures from which statistics are taken
# name -> beginnings of the SHA-256 of the annotations and of the decoded pixels of TINY
DIGESTS: dict[str, tuple[str, str]] = {
    "known": ("1ac41f184ea6c910", "c1f76fad65e56932"),
    "unseen": ("b92633f503c89d14", "71306250dd19ea33"),
    "crowded": ("91153992817f85a8", "606ddf83c08822a1"),
    "large": ("09ae5a1f9f9ad2cd", "6a2434a06d3d6d32"),
    "thermal": ("0b3f739faed08ff0", "92d8aef96075a6d9"),
    "aerial": ("600573e6cf6d2c8c", "4535389823d522ad"),
    "document": ("12af8a6b707d3446", "264b65905861c90b"),
    "cells": ("fc6adc5f13aae85d", "c285387713aedd9a"),
    "night": ("8b006a33f2133aaf", "d22404674e9f3a5b"),
    "signs": ("99f79b8fe974df7b", "47feb3daf61f15fd"),
    "signs-3": ("09fb810e0d4fdce7", "47feb3daf61f15fd"),
}
PILLOW = "13"  # major version; another version may decode the pack's lossy cut-outs differently


def annotations_digest(folder: Path) -> str:
    files = [folder / "annotations" / f"instances_{split}.json" for split in SPLITS]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def pixels_digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(folder.glob("*/*.jpg")):
        found.update(np.asarray(Image.open(file)).tobytes())
    return found.hexdigest()[:16]


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every domain, in a folder of its name."""
    folder = tmp_path_factory.mktemp("domains")
    for name in NAMES:
        write_domain(folder / name, name, TINY, workers=1)
    return folder


def test_there_are_ten_and_a_counterpart() -> None:
    assert len(TEN) == 10 and set(NAMES) - {domain.name for domain in TEN} == {"signs-3"}
    assert len({domain.number for domain in TEN}) == 10
    assert {len(domain.classes) for domain in TEN} >= {3, 18, 40}


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_stored_annotations(root: Path, name: str) -> None:
    assert annotations_digest(root / name) == DIGESTS[name][0]


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_stored_pixels(root: Path, name: str) -> None:
    if PIL.__version__.partition(".")[0] != PILLOW:
        pytest.skip(f"the pixels were stored with Pillow {PILLOW}, this is {PIL.__version__}")
    assert pixels_digest(root / name) == DIGESTS[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_depend_on_seed_split_and_index_only(name: str) -> None:
    first = compose(name, 5, "train", 1)
    compose(name, 5, "train", 0)
    again = compose(name, 5, "train", 1)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.masks, again.masks)
    for other in (
        compose(name, 5, "train", 2),
        compose(name, 5, "val", 1),
        compose(name, 6, "train", 1),
    ):
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("name", NAMES)
def test_pycocotools_reads_the_same_masks_boxes_and_areas(root: Path, name: str) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    codec = pytest.importorskip("pycocotools.mask")
    for split in SPLITS:
        truth = coco.COCO(str(root / name / "annotations" / f"instances_{split}.json"))
        for image_id, entry in truth.imgs.items():
            scene = compose(name, TINY.seed, split, image_id)
            rows = truth.imgToAnns[image_id]
            picture = np.asarray(Image.open(root / name / split / entry["file_name"]))
            assert picture.shape == (entry["height"], entry["width"], 3)
            assert np.abs(picture.astype(int) - scene.image).mean() < 10  # JPEG
            assert len(rows) == len(scene.masks) == len(scene.category_ids)
            for row, mask, category in zip(rows, scene.masks, scene.category_ids, strict=True):
                assert np.array_equal(truth.annToMask(row).astype(bool), mask)
                assert row["area"] == mask.sum() == codec.area(truth.annToRLE(row))
                assert row["bbox"] == codec.toBbox(truth.annToRLE(row)).tolist()
                assert row["category_id"] == category in truth.cats


@pytest.mark.parametrize("domain", TEN, ids=lambda domain: domain.name)
def test_statistics_are_within_the_stated_bounds(domain: Any) -> None:
    scenes = [compose(domain.name, 0, "train", index) for index in range(ENOUGH)]
    names = dict(domain.categories)
    seen = {names[number] for scene in scenes for number in scene.category_ids}
    sides = []
    for scene in scenes:
        assert scene.image.shape == (domain.height, domain.width, 3)
        assert scene.image.dtype == np.uint8 and scene.image.std() > 5
        assert (scene.masks.sum(axis=0) <= 1).all()  # a pixel belongs to one object
        for mask in scene.masks:
            ys, xs = mask.nonzero()
            box = (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
            assert mask.sum() >= MIN_PIXELS
            sides.append((box / mask.size) ** 0.5)
    counts = [len(scene.masks) for scene in scenes]
    low, high = domain.mean_objects
    assert low <= np.mean(counts) <= high and max(counts) <= domain.objects[1] + 1
    assert domain.median_side[0] <= np.median(sides) <= domain.median_side[1]
    assert seen <= set(domain.classes)
    assert len(seen) >= 0.8 * len(domain.classes)


def test_what_is_hidden_has_no_label_and_truth_is_what_shows() -> None:
    """Three squares of 64 pixels: the second hides all but one column of the first, which is less
    than a quarter; the third is clutter and covers the lower half of the second.
    """
    picture = Picture(np.zeros((20, 30, 3)))
    square = np.ones((8, 8), dtype=np.float32)
    white = np.full(3, 200.0)
    picture.add(square, white, 4, 4, 7)
    assert picture.touches(square, 4, 11) and not picture.touches(square, 4, 12)
    assert picture.has_room(square, 4, 10) and not picture.has_room(square, 4, 5)
    assert picture.has_room(square, 0, 24) and not picture.has_room(square, 0, 29)
    picture.add(square, white / 2, 4, 5, 8)
    picture.add(square, white / 4, 8, 5, 0)
    scene = picture.scene(np.random.default_rng(0), 0.0)
    expected = np.zeros((1, 20, 30), dtype=bool)
    expected[0, 4:8, 5:13] = True
    assert scene.category_ids == (8,) and np.array_equal(scene.masks, expected)
    assert scene.image[5, 4, 0] == 200 and scene.image[5, 5, 0] == 100
    assert scene.image[9, 5, 0] == 50 and scene.image[19, 29, 0] == 0


@pytest.mark.parametrize("domain", TEN, ids=lambda domain: domain.name)
def test_objects_of_test_are_held_out_where_that_is_stated(
    domain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = photographs.load_assets

    def noted(part: str) -> Any:
        asked.append(part)
        return load(part)

    monkeypatch.setattr(photographs, "load_assets", noted)
    monkeypatch.setattr(signs, "load_assets", noted)
    used = {}
    for split in SPLITS:
        asked.clear()
        compose(domain.name, 0, split, 0)
        used[split] = set(asked)
    # a thermal picture reads the names of the classes, which both parts share
    if domain.name == "thermal":
        used["test"].discard("train")
    photos = domain.from_pack or domain.name == "signs"
    expected = ({"train"}, {"val"} if domain.holds_out else {"train"}) if photos else (set(), set())
    assert (used["train"], used["test"]) == expected and used["val"] == used["train"]


def test_three_classes_and_forty_share_their_pictures() -> None:
    for index in range(4):
        fine = compose("signs", 0, "test", index)
        coarse = compose("signs-3", 0, "test", index)
        assert np.array_equal(fine.image, coarse.image) and np.array_equal(fine.masks, coarse.masks)
        shapes = [signs.FORTY[number - 1].partition(" ")[2] for number in fine.category_ids]
        groups = [signs.GROUPS[number - 1] for number in coarse.category_ids]
        assert groups == [signs.SHAPES[shape][0] for shape in shapes]


@pytest.mark.parametrize("name", NAMES)
def test_the_census_counts_what_was_drawn(root: Path, name: str) -> None:
    split = read_split(root / name, "train")
    counted = take_census(split)
    domain = DOMAINS[name]
    assert (counted.data, counted.images) == (f"embedded-{name}", 2)
    assert list(counted.objects_per_class) == list(dict(domain.categories).values())
    drawn = [len(compose(name, TINY.seed, "train", index).masks) for index in range(2)]
    assert counted.objects == sum(drawn) and counted.without_mask == 0
    assert counted.notes() == []
    assert "synthetic" in split.description and "not COCO AP" in split.description


def test_an_interrupted_domain_is_finished_by_the_next_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str, seed: int, split: str, index: int) -> Any:
        if split == "val":
            raise KeyboardInterrupt
        return compose(name, seed, split, index)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "compose", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_domain(tmp_path, "cells", TINY, workers=1)
    names = set(everything(tmp_path))
    assert names == {"annotations/instances_train.json", "train/000000.jpg", "train/000001.jpg"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "train"]
    write_domain(tmp_path, "cells", TINY, workers=1)
    assert everything(tmp_path) == everything(root / "cells")


def test_a_run_that_was_killed_is_begun_again(root: Path, tmp_path: Path) -> None:
    """What a killed run leaves: its mark, pictures in both folders, no annotations."""
    (tmp_path / ".composing").write_text("{}")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "000000.jpg").write_bytes(b"half")
    (tmp_path / ".val.partial").mkdir()
    (tmp_path / ".val.partial" / "000000.jpg").write_bytes(b"half")
    write_domain(tmp_path, "document", TINY, workers=1)
    assert everything(tmp_path) == everything(root / "document")


def test_the_mark_of_a_run_that_was_killed_at_its_end_is_removed(root: Path) -> None:
    before = everything(root / "aerial")
    (root / "aerial" / ".composing").write_text("{}")
    write_domain(root / "aerial", "aerial", TINY, workers=1)
    assert everything(root / "aerial") == before


@pytest.mark.parametrize("kind", ["embedded", "cells"])
def test_files_of_others_are_never_removed(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "train" / "000001.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"my picture")
    with pytest.raises(InputError, match="not composed by this program"):
        if kind == "embedded":
            write_embedded(tmp_path, EmbeddedConfig(64, 1, 1, 1), workers=1)
        else:
            write_domain(tmp_path, kind, TINY, workers=1)
    assert everything(tmp_path) == {"train/000001.jpg": b"my picture"}


def test_another_seed_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--train-images", "2", "--test-images", "1"]
    out = ["--out", str(tmp_path)]
    assert run_main(main, [*out, "--only", "cells", *few]) == 0
    assert "not COCO AP" in capsys.readouterr().out
    before = everything(tmp_path)
    # document comes first, and is not begun
    assert run_main(main, [*out, "--only", "document", "cells", *few, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: another embedded data set is here") and error.count("\n") == 1
    assert everything(tmp_path) == before
    (tmp_path / "known").write_text("a note")
    assert run_main(main, [*out, "--only", "document", "known", *few]) == 2
    assert "this is not a folder" in capsys.readouterr().err
    assert everything(tmp_path) == {**before, "known": b"a note"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "cell"],
        ["--only"],
        ["--train-images", "0"],
        ["--test-images", "x"],
        ["--seed", "-1"],
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, ["--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cells"):
        write_domain(tmp_path / "out", "cell", TINY)
    assert not (tmp_path / "out").exists()


# -- the page --------------------------------------------------------------------------------------


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "docs_tools_domains", ROOT / "docs/tools/domains.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_stored_counts() -> None:
    domains = tool()
    page = domains.PAGE.read_text(encoding="utf-8")
    stored = domains.stored_counts()
    assert list(stored) == [domain.name for domain in TEN]
    assert domains.with_table(page, domains.table(stored)) == page, "run docs/tools/domains.py"


@pytest.mark.parametrize("domain", TEN, ids=lambda domain: domain.name)
def test_the_stored_counts_are_those_of_the_pictures(domain: Any) -> None:
    stored = tool().stored_counts()[domain.name]
    drawn = [len(compose(domain.name, 0, "train", index).masks) for index in range(3)]
    assert stored["first"] == drawn, "run docs/tools/domains.py"
    assert stored["images"] == DomainConfig.train_images
    assert domain.mean_objects[0] <= stored["objects"] / stored["images"] <= domain.mean_objects[1]
    assert domain.median_side[0] <= stored["side_50"] <= domain.median_side[1]
    assert stored["classes"] == len(domain.classes)


# -- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(7, 5), (40, 64), (23, 31)])
def test_scaling_is_near_pillows(height: int, width: int) -> None:
    """Pillow's linear filter has the same support; only its rounding of weights differs."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(23, 31, 4), dtype=np.uint8)
    found = exact.resampled(pixels, height, width).astype(int)
    expected = [
        np.asarray(
            Image.fromarray(pixels[..., band]).resize((width, height), Image.Resampling.BILINEAR)
        )
        for band in range(4)
    ]
    assert np.abs(found - np.stack(expected, axis=-1)).max() <= 1


def test_filters_compute_in_whole_numbers() -> None:
    """The same sums in 64-bit integers, which cannot be rounded."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, size=(60, 50, 3), dtype=np.uint8)
    weights = [exact._scaling(60, 21), exact._scaling(50, 70)]
    assert all((rows.sum(axis=1) == exact.UNIT).all() and rows.min() >= 0 for rows in weights)
    rows, columns = (item.astype(np.int64) for item in weights)
    down = (np.einsum("ab,bcd->acd", rows, pixels.astype(np.int64)) + 2048) // 4096
    both = (np.einsum("ab,cbd->cad", columns, down) + 2048) // 4096
    assert np.array_equal(exact.resampled(pixels, 21, 70), both)


def test_blur_and_motion_keep_a_plain_picture_and_the_light_of_a_point() -> None:
    plain = np.full((20, 30, 3), 77, dtype=np.uint8)
    assert (exact.blurred(plain, 3) == 77).all()
    assert (exact.smeared(plain, [(0, 0), (1, -2), (-1, 2)]) == 77).all()
    point = np.zeros((21, 21, 1), dtype=np.uint8)
    point[10, 10] = 240
    assert exact.smeared(point, [(0, -1), (0, 0), (0, 1)])[10, 9:12, 0].tolist() == [80] * 3
    spread = exact.blurred(point, 1)
    assert spread[10, 10, 0] == 60 and spread[10, 9, 0] == 30 and spread[9, 9, 0] == 15


def test_directions_are_unit_vectors_of_every_quadrant() -> None:
    rng = np.random.default_rng(2)
    drawn = np.array([exact.direction(rng) for _ in range(400)])
    assert np.allclose((drawn**2).sum(axis=1), 1)
    quadrants = (drawn[:, 0] > 0) * 2 + (drawn[:, 1] > 0)
    assert np.bincount(quadrants, minlength=4).min() > 60


def test_noise_is_nearly_normal() -> None:
    drawn = exact.noise(np.random.default_rng(3), (200, 200), 5.0)
    assert abs(float(drawn.mean())) < 0.1 and abs(float(drawn.std()) - 5) < 0.1
    assert 0.60 < float((np.abs(drawn) < 5).mean()) < 0.72


def test_the_stored_settings_are_in_the_annotations(root: Path) -> None:
    document = json.loads((root / "night/annotations/instances_test.json").read_text())
    assert document["info"]["config"]["seed"] == 5
    assert "never occur in training" in document["info"]["description"]
