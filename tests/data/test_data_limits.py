"""Large and broken segmentations and pictures: bounded memory, no silent change of what is
measured, one clear line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples_coco import random_detections, random_document, write_folder

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.segmentation import (
    MaskMaps,
    decode_mask,
    masks_to_bitmaps,
    rle_of_bitmap,
    sample_mask,
)
from rfdetr_repro.data.transforms import make_batch
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.spec.errors import InputError

BROKEN = (
    "[" * 3000 + "]" * 3000,
    "[[1, 2 3]]",
    '{"size": [48, 64], "counts": [' + "1" * 5000 + "]}",
    "[[1e999, 1, 2, 3, 4, 5]]",
)


def written(
    folder: Path,
    change: Callable[[dict[str, Any]], object] = lambda document: None,
    raw: str = "null",
) -> Path:
    """A data set whose document ``change`` alters; the text ``"@raw"`` in it becomes ``raw``."""
    document = random_document(3)
    change(document)
    write_folder(folder, document)
    path = folder / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace('"@raw"', raw))
    return folder


def set_segmentation(document: dict[str, Any]) -> None:
    document["annotations"][0]["segmentation"] = "@raw"


@pytest.mark.parametrize("raw", BROKEN, ids=["deep", "no JSON", "5000 digits", "infinite"])
def test_a_segmentation_that_is_no_json_is_no_mask_and_ends_no_evaluation(
    tmp_path: Path, raw: str
) -> None:
    split = read_split(written(tmp_path, set_segmentation, raw), "train")
    assert not split.has_masks and split.why_no_mask_ap().startswith("1 of ")
    found = random_detections(read_split(written(tmp_path / "sound"), "train"), 1, masks=False)
    sound = CocoEvaluator(read_split(tmp_path / "sound", "train")).accuracy(found)
    # boxes are measured as if nothing were wrong
    assert CocoEvaluator(split).accuracy(found) == sound


def test_mask_ap_is_refused_in_words_where_one_object_or_crowd_has_no_mask(tmp_path: Path) -> None:
    assert read_split(written(tmp_path / "a"), "train").why_no_mask_ap() == ""
    split = read_split(written(tmp_path / "b", set_segmentation), "train")
    assert (
        "1 of" in split.why_no_mask_ap()
        and "annotation id 1 of image id 100" in split.why_no_mask_ap()
    )

    def crowd(document: dict[str, Any]) -> None:
        next(entry for entry in document["annotations"] if entry["iscrowd"])["segmentation"] = (
            "@raw"
        )

    split = read_split(written(tmp_path / "c", crowd), "train")
    assert split.has_masks and split.why_no_mask_ap().startswith("crowd region id 5 of image id")


@pytest.mark.parametrize("raw", ["true", "1.5", "[1]", "{}", "NaN", "1e999"])
def test_an_annotation_id_that_is_no_id_is_malformed(tmp_path: Path, raw: str) -> None:
    with pytest.raises(InputError, match=r"annotations\[0\] .*is malformed"):
        read_split(
            written(tmp_path, lambda document: document["annotations"][0].update(id="@raw"), raw),
            "train",
        )


MASK = "[[1, 1, 5, 1, 5, 5]]"


@pytest.mark.parametrize(
    ("place", "key", "first", "second"),
    [
        (None, "extra", "1", "2"),
        ("images", "file_name", '"a.png"', '"b.png"'),
        ("annotations", "bbox", "[1, 1, 4, 4]", "[1, 1, 5, 5]"),
        # segmentations are cut out before the rest is parsed: two, or one of the two
        ("annotations", "segmentation", MASK, MASK),
        ("annotations", "segmentation", "null", MASK),
        ("annotations", "segmentation", MASK, "null"),
        ("categories", "name", '"a"', '"b"'),
    ],
)
def test_a_key_that_occurs_twice_is_refused(
    tmp_path: Path, place: str | None, key: str, first: str, second: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        entry = document if place is None else document[place][0]
        entry["@twice"] = "@raw"

    folder = written(tmp_path, change)
    path = folder / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    entry = document if place is None else document[place][0]
    entry.pop(key, None)
    path.write_text(
        json.dumps(document).replace('"@twice": null', f'"{key}": {first}, "{key}": {second}')
    )
    with pytest.raises(InputError, match=f"key '{key}' occurs twice.*instances_train.json"):
        read_split(folder, "train")


@pytest.mark.parametrize("raw", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["info", "licenses", "extra"])
def test_numbers_that_json_has_not_are_refused(tmp_path: Path, key: str, raw: str) -> None:
    with pytest.raises(InputError, match=f"'{key}' has a NaN"):
        read_split(
            written(tmp_path, lambda document: document.update({key: [{"a": ["@raw"]}]}), raw),
            "train",
        )


def test_sampled_masks_are_those_of_the_whole_bitmaps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2).tolist()
        bitmap = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])
        rows = rng.integers(0, height, 7)
        columns = rng.integers(0, width, 9)
        assert np.array_equal(
            sample_mask(rle_of_bitmap(bitmap), height, width, rows, columns),
            bitmap[rows[:, None], columns],
        )
    polygon = [[3, 4, 30, 5, 20, 25]]
    rows = np.arange(30)
    columns = np.arange(40)
    assert np.array_equal(sample_mask(polygon, 30, 40, rows, columns), decode_mask(polygon, 30, 40))


def test_training_masks_are_the_same_whether_whole_or_sampled(tmp_path: Path) -> None:
    split = read_split(written(tmp_path), "train")
    for seed in range(5):
        now, later = (
            make_batch(
                [split.sample(0, True, masks_later=late)],
                (33, 41),
                np.random.default_rng(seed),
                0.5,
                0.8,
            ).targets[0]
            for late in (False, True)
        )
        assert (
            now.masks is not None and later.masks is not None and len(now.masks) == len(now.labels)
        )
        assert np.array_equal(now.masks, later.masks)


def thousands_of_objects(folder: Path, count: int) -> CocoSplit:
    rng, (height, width) = np.random.default_rng(0), (1000, 1200)
    document = random_document(0, images=1, side=(height, width), most=1)
    document["annotations"] = []
    for number in range(count):
        top = int(rng.integers(0, height - 40))
        left = int(rng.integers(0, width - 40))
        polygon = [left, top, left + 40, top, left + 30, top + 40]
        entry = {
            "id": number + 1,
            "image_id": 100,
            "category_id": 3,
            "bbox": [left, top, 40, 40],
            "iscrowd": 0,
        }
        document["annotations"].append({**entry, "area": 800, "segmentation": [polygon]})
    return read_split(write_folder(folder, document), "train")


def test_thousands_of_masks_in_one_picture_take_no_bitmap_each(tmp_path: Path) -> None:
    import tracemalloc

    split = thousands_of_objects(tmp_path, 500)
    split.sample(0)
    tracemalloc.start()
    batch = make_batch([split.sample(0, True, masks_later=True)], (64, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.targets[0].masks is not None and len(batch.targets[0].masks) == 500
    assert peak < 60 << 20  # 500 bitmaps of this picture are 570 MiB


def test_mask_maps_are_the_bitmaps_of_their_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 9, 11)).astype(np.float32)
    maps = MaskMaps(logits, (50, 70))
    expected = masks_to_bitmaps(logits, 50, 70)
    assert (
        len(maps) == 5
        and np.array_equal(list(maps), expected)
        and np.array_equal(maps[2], expected[2])
    )
    assert maps.rles() == [rle_of_bitmap(mask) for mask in expected]
    assert np.array_equal(list(maps[[3, 1]]), expected[[3, 1]]) and len(maps[[]]) == 0
    assert np.array_equal(list(maps.at((20, 30))), masks_to_bitmaps(logits, 20, 30))


BIG = """
import resource, sys
sys.path[:0] = {paths!r}
from rfdetr_repro import predict
from rfdetr_repro.spec.errors import run_main
from samples_export import ARCH, CATEGORY_IDS, CONFIG, NAMES, tiny_detector
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
card = ModelCard(CONFIG, ARCH, NAMES, CATEGORY_IDS)
save_detector("m.safetensors", tiny_detector().state_dict(), card)
arguments = ["small.png", "--checkpoint", "m.safetensors", "--threshold", "0"]
assert run_main(predict.main, arguments) == 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert run_main(predict.main, ["big.jpg", *arguments[1:]]) == 0
print("KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_large_photo_is_drawn_with_masks_in_bounded_memory(tmp_path: Path) -> None:
    """Its pixels, the decoder and the drawn copy take 270 MiB; the masks of its 8 objects would be
    190 MiB more as bitmaps, and twice that.
    """
    Image.new("RGB", (5000, 5000), (90, 120, 30)).save(tmp_path / "big.jpg")
    Image.new("RGB", (90, 90)).save(tmp_path / "small.png")
    code = BIG.format(
        paths=[str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "8 objects" in done.stdout and int(done.stdout.split("KiB")[1]) < 300 << 10
    (entry,) = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert entry["objects"][0]["mask_rle"]["size"] == [5000, 5000]


@pytest.mark.parametrize("raw", ['"3"', "true", "62.9", "1e300", "null", "[3]", "1" + "0" * 400])
@pytest.mark.parametrize("place", ["annotation", "category"])
def test_a_category_id_is_a_whole_number(tmp_path: Path, place: str, raw: str) -> None:
    def change(document: dict[str, Any]) -> None:
        row, key = (
            (document["annotations"][0], "category_id")
            if place == "annotation"
            else (document["categories"][0], "id")
        )
        row[key] = "@raw"

    with pytest.raises(
        InputError, match="malformed|category id that is unknown|a category without id or name"
    ):
        read_split(written(tmp_path, change, raw), "train")


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("iscrowd", "62.9"),
        ("iscrowd", "2"),
        ("iscrowd", '"1"'),
        ("area", "1e300"),
        ("area", "1e11"),
    ],
)
def test_flags_and_areas_that_cannot_be_meant_are_malformed(
    tmp_path: Path, key: str, raw: str
) -> None:
    """COCO's AP looks at objects of at most 1e10 px^2: a larger one would vanish from it."""
    with pytest.raises(InputError, match=r"annotations\[0\] .*is malformed"):
        read_split(
            written(
                tmp_path, lambda document: document["annotations"][0].update({key: "@raw"}), raw
            ),
            "train",
        )


@pytest.mark.parametrize("raw", ["true", "62.9", "null", "[]"])
def test_a_category_name_is_text(tmp_path: Path, raw: str) -> None:
    with pytest.raises(InputError, match="a category without id or name"):
        read_split(
            written(tmp_path, lambda document: document["categories"][0].update(name="@raw"), raw),
            "train",
        )


def test_a_file_of_zeros_is_refused_whatever_its_size(tmp_path: Path) -> None:
    folder = written(tmp_path)
    with open(folder / "annotations" / "instances_train.json", "wb") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(InputError, match="not JSON"):
        read_split(folder, "train")


@pytest.mark.parametrize(
    "line",
    [
        "1_0 0.5 0.5 0.1 0.1",
        "\u0660 0.5 0.5 0.1 0.1",
        "True 0.5 0.5 0.1 0.1",
        '"0" 0.5 0.5 0.1 0.1',
    ],
)
def test_numbers_of_labels_are_plain_digits(tmp_path: Path, line: str) -> None:
    for part in ("images", "labels"):
        (tmp_path / part / "val").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "val" / "0.png")
    (tmp_path / "labels" / "val" / "0.txt").write_text(line)
    (tmp_path / "data.yaml").write_text("val: images/val\nnames: [a]\n")
    with pytest.raises(InputError, match="not a number"):
        read_split(tmp_path, "val")


def test_a_picture_that_pillow_warns_of_prints_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    # the height: a count of values that the file does not have
    place = content.find(b"\x01\x01\x04\x00\x01")
    content[place + 4 : place + 8] = b"\xff\xff\x00\x00"
    (tmp_path / "a.tif").write_bytes(content)
    code = f"import sys; sys.path[:0] = [{str(Path(__file__).parents[2])!r}]\n"
    code += (
        "from rfdetr_repro.data.decoding import read_header\nfrom rfdetr_repro.spec.errors import "
        "InputError\n"
    )
    code += "try: read_header('a.tif')\nexcept InputError as error: print('refused', error)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stderr == "" and place > 0, done.stderr


def test_nan_in_datumaro_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "default").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "default" / "a.png")
    row = {"type": "bbox", "label_id": 0, "bbox": [1, 1, 5, 5], "attributes": {"x": "@"}}
    item = {"id": "a", "annotations": [row], "image": {"path": "a.png", "size": [20, 20]}}
    text = json.dumps(
        {"categories": {"label": {"labels": [{"name": "cat"}]}}, "items": [item]}
    ).replace('"@"', "@")
    path = tmp_path / "annotations" / "default.json"
    path.write_text(text.replace("@", "1"))
    assert len(read_split(tmp_path, "train").table.ids) == 1
    for raw in ("NaN", "1e999"):
        path.write_text(text.replace("@", raw))
        with pytest.raises(InputError, match="not usable JSON"):
            read_split(tmp_path, "train")


def test_a_list_of_voc_images_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """Else all pictures would be read as this split."""
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").symlink_to("nowhere")
    with pytest.raises(InputError, match="broken link"):
        read_split(tmp_path, "val")
