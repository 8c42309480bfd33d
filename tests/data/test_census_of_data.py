"""What is counted when a data set is read, which rows are usable, left out or bad, and what
--drop-bad does with them.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples_coco import random_detections, random_document, write_folder
from samples_layouts import check, coco, pictures, write_json

from rfdetr_repro import evaluate
from rfdetr_repro.data.census import check_usable, print_census, take_census
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.spec.errors import InputError, run_main

Change = Callable[[dict[str, Any]], None]
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def written(folder: Path, change: Change | None = None, split: str = "train") -> Path:
    document = coco()
    if change:
        change(document)
    pictures(folder / split)
    write_json(folder / "annotations" / f"instances_{split}.json", document)
    return folder


def added(**fields: Any) -> Change:
    """One more annotation, of image 1 unless said otherwise."""
    row = {
        "id": 99,
        "image_id": 1,
        "category_id": 5,
        "bbox": [1, 1, 5, 5],
        "area": 25,
        "iscrowd": 0,
        "segmentation": [],
    }
    return lambda document: document["annotations"].append({**row, **fields})


def changed(key: str, row: int = 0, **fields: Any) -> Change:
    return lambda document: document[key][row].update(fields)


def test_counts_of_a_known_set(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        added(id=1, iscrowd=1, bbox=[0, 0, 50, 50])(document)  # crowd
        added(id=2, bbox=[8, 8, 24, 16])(document)  # the box and class of another one
        added(id=3, bbox=[70, 50, 20, 20])(document)  # across the border
        added(id=4, bbox=[5, 5, 0.5, 9])(document)  # thin
        added(id=5, bbox=[5, 5, 0, 9])(document)  # empty
        added(id=6, bbox=[9, 9, 9, 9], segmentation=[[26, 31, 50, 31]])(document)  # two points
        # the picture of image 1
        document["images"].append({"id": 3, "file_name": "a.jpg", "width": 80, "height": 60})
        document["images"].append(dict(document["images"][0]))
        document["annotations"][0]["area"] = None

    census = take_census(read_split(written(tmp_path, change), "train"))
    assert (census.images, census.objects, census.crowds, census.layout) == (3, 7, 1, "coco")
    assert census.objects_per_class == {"cat": 6, "dog": 1}
    assert (census.repeated, census.clipped, census.below_one_pixel, census.left_out_empty) == (
        1,
        1,
        1,
        1,
    )
    assert (census.without_mask, census.masks_unusable, census.areas_from_boxes) == (4, 1, 1)
    assert (census.images_without_objects, census.most_objects, census.median_objects) == (
        1,
        6,
        1.0,
    )
    assert (census.repeated_entries, census.pictures_listed_twice) == (1, 1)
    assert json.loads(json.dumps(census.as_json()))["objects_per_class"] == census.objects_per_class
    text = "\n".join(census.lines())
    assert (
        "3 images, 7 objects of 2 classes" in text
        and "1 annotation written twice" in text
        and "exact duplicate" in text
    )
    assert (
        "4 objects without a usable mask" in text
        and "1 box of zero width or height left out" in text
    )


def test_what_is_missing_is_taken_from_elsewhere(tmp_path: Path) -> None:
    """Sizes from the pictures, boxes from polygons or run lengths, areas from boxes; nothing else
    changes.
    """

    def change(document: dict[str, Any]) -> None:
        for image in document["images"]:
            del image["width"]
            image["height"] = None
        for entry in document["annotations"]:
            entry.update(bbox=None, area=None)
        mask = np.zeros((60, 80), dtype=np.uint8)
        mask[8:24, 8:32] = 1
        edges = np.flatnonzero(np.diff(mask.T.ravel())) + 1
        counts = np.diff([0, *edges.tolist(), mask.size]).tolist()
        document["annotations"][0]["segmentation"] = {"size": [60, 80], "counts": counts}

    found = check(written(tmp_path, change))
    census = take_census(found)
    assert (census.sizes_from_files, census.boxes_from_masks, census.areas_from_boxes) == (2, 3, 3)
    assert found.ground_truth()["annotations"][0]["area"] == 24 * 16


BAD: dict[str, Change] = {
    "has a box that is not finite": added(bbox=[1, 1, float("nan"), 5]),
    "has a box that is not finite ": added(bbox=[1, 1, float("inf"), 5]),
    "has a box that is not finite  ": added(bbox=[1e308, 1e308, 1e308, 1e308]),
    "has a box of negative size": added(bbox=[9, 9, -4, 4]),
    "has a box outside the image": added(bbox=[200, 1, 5, 5]),
    "has a category id that is unknown": added(category_id=77),
    "belongs to an image that is not listed": added(image_id=77),
    "has the id of an earlier annotation": added(id=10),
    "is malformed": added(bbox=[1, 2, 3]),
    "is malformed ": added(bbox=["1", "2", "3", "4"]),
    "is malformed  ": added(bbox=[True, 2, 3, 4]),
    "is malformed   ": added(category_id=True),
    "is malformed    ": added(category_id=float("inf")),
    "is malformed     ": added(image_id=float("nan")),
    "is malformed      ": added(area=float("inf")),
    "is malformed       ": added(iscrowd="no"),
    "is malformed        ": added(bbox={"x": 1}),
    "is malformed         ": added(bbox=None),
    "is malformed          ": added(image_id=[1]),
}


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_row_is_refused_with_the_way_out_or_dropped(fault: str, tmp_path: Path) -> None:
    folder = written(tmp_path, BAD[fault])
    with pytest.raises(InputError, match=f"{fault.strip()}.*--drop-bad") as error:
        read_split(folder, "train")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    found = read_split(folder, "train", drop_bad=True)
    assert (
        found.dropped == {f"annotation that {fault.strip()}": 1}
        and int(found.objects_per_class().sum()) == 3
    )
    clean = read_split(written(tmp_path / "clean"), "train")
    assert found.sha256 != clean.sha256  # less than the file is other data
    assert f"left out: 1 x annotation that {fault.strip()}" in "\n".join(take_census(found).lines())


BAD_IMAGES: dict[str, Change] = {
    "image file missing": changed("images", file_name="absent.jpg"),
    "image file missing ": changed("images", file_name="x" * 9000),
    "image file missing  ": changed("images", file_name="a\0.jpg"),
    "images[0] needs id": changed("images", id=None),
    "images[0] needs id ": changed("images", id=float("inf")),
    "images[0] needs id   ": changed("images", width=float("nan")),
    "has size 0 x 60": changed("images", width=0),
    "has size": changed("images", width=10**40),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_a_bad_image_is_refused_or_dropped_with_its_objects(fault: str, tmp_path: Path) -> None:
    folder = written(tmp_path, BAD_IMAGES[fault])
    with pytest.raises(InputError) as error:
        read_split(folder, "train")
    assert (
        fault.strip() in str(error.value)
        and "--drop-bad" in str(error.value)
        and len(str(error.value)) < 700
    )
    found = read_split(folder, "train", drop_bad=True)
    assert len(found) == 1 and sum(found.dropped.values()) == 1 + 2  # the image and its two objects


def test_two_images_of_one_id_are_both_dropped_with_their_objects(tmp_path: Path) -> None:
    """Nobody knows to which of them the annotations belong."""

    def change(document: dict[str, Any]) -> None:
        document["images"].append({**document["images"][0], "file_name": "c.jpg"})

    folder = written(tmp_path, change)
    Image.new("RGB", (80, 60)).save(folder / "train" / "c.jpg")
    with pytest.raises(InputError, match="image id 1 occurs 2 times.*--drop-bad"):
        read_split(folder, "train")
    found = read_split(folder, "train", drop_bad=True)
    assert [info.id for info in found.images] == [2] and found.dropped[
        "images whose id another image has"
    ] == 2
    assert found.dropped["annotation that belongs to an image that is left out"] == 2


@pytest.mark.parametrize(
    "ids",
    [[2**53 + 1, 2**53 + 2], [2**63 + 5, 2**64], [2**120, 2**121], ["a", "b"], [-1, 7], [1.0, 2.0]],
)
def test_ids_of_any_size_and_kind(ids: list[Any], tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for image, key in zip(document["images"], ids, strict=True):
            image["id"] = key
        for entry in document["annotations"]:
            entry.update(image_id=ids[entry["image_id"] - 1], id=entry["id"] + 2**70)

    found = check(written(tmp_path, change))
    assert [info.id for info in found.images] == ids
    assert [entry["image_id"] for entry in found.ground_truth()["annotations"]] == [
        ids[0],
        ids[0],
        ids[1],
    ]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(
    "renamed",
    [
        lambda id_: 2**60 + id_,
        lambda id_: 2**130 + id_,
        lambda id_: f"{id_:06d}",
        lambda id_: id_ - 10**6,
    ],
)
def test_accuracy_does_not_depend_on_what_ids_are_called(
    kind: str, renamed: Callable[[int], Any], tmp_path: Path
) -> None:
    """Ids in the same order, categories too: all twelve numbers to the last bit, equal scores
    included.
    """
    document = random_document(5, images=8)
    plain = read_split(write_folder(tmp_path / "plain", document), "train")
    found = random_detections(plain, 6)
    for image in document["images"]:
        image["id"] = renamed(image["id"])
    for entry in document["annotations"]:
        entry.update(image_id=renamed(entry["image_id"]), category_id=entry["category_id"] + 2**80)
    for category in document["categories"]:
        category["id"] += 2**80
    other = read_split(write_folder(tmp_path / "other", document), "train")
    moved = [replace(one, image_id=renamed(one.image_id)) for one in found]
    assert CocoEvaluator(other).twelve(moved, kind) == CocoEvaluator(plain).twelve(found, kind)
    assert CocoEvaluator(plain).twelve(found, kind)["AP"] > 0.01


def test_category_ids_beyond_64_bits(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for entry in [*document["categories"], *document["annotations"]]:
            key = "id" if "name" in entry else "category_id"
            entry[key] += 2**70

    found = check(written(tmp_path, change))
    assert found.classes.category_ids == (2**70 + 5, 2**70 + 6)
    assert found.ground_truth()["annotations"][0]["category_id"] == 2**70 + 5


@pytest.mark.parametrize(
    "fields", [{"id": float("inf")}, {"id": None}, {"id": True}, {"name": None}, {"name": ["a"]}]
)
def test_bad_categories(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a category without id or name"):
        read_split(written(tmp_path, changed("categories", **fields)), "train")


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, '{"images": [1' + "0" * 5000 + "]}"]
)
def test_json_that_no_parser_takes(content: str, tmp_path: Path) -> None:
    (written(tmp_path) / "annotations" / "instances_train.json").write_text(content)
    with pytest.raises(InputError, match="not a COCO file|not JSON"):
        read_split(tmp_path, "train")


def test_normalised_boxes_are_refused(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for entry in document["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x / 80, y / 60, w / 80, h / 60]

    for drop_bad in (False, True):
        with pytest.raises(
            InputError,
            match="all 3 boxes lie within 0..1: they are fractions of the image, not pixels",
        ):
            read_split(written(tmp_path, change), "train", drop_bad=drop_bad)


def test_corners_in_place_of_sizes_are_suspected(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for entry in document["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x + 30, y + 20, x + w + 30, y + h + 20]

    assert "if boxes are [x1, y1, x2, y2]" in "\n".join(
        take_census(read_split(written(tmp_path, change), "train")).lines()
    )


def test_names_in_another_unicode_form_or_case(tmp_path: Path) -> None:
    name = "Küche é.jpg"

    def change(document: dict[str, Any]) -> None:
        document["images"][0]["file_name"] = unicodedata.normalize("NFC", name)

    folder = written(tmp_path, change)
    (folder / "train" / "a.jpg").rename(folder / "train" / unicodedata.normalize("NFD", name))
    assert read_split(folder, "train").load_image(0).shape == (60, 80, 3)
    for wrong, hint in (
        ("KÜCHE é.JPG", "there is .* \\(case differs\\)"),
        ("Küche e.jpg", "the nearest name there is"),
    ):
        changed("images", file_name=wrong)(document := coco())
        write_json(folder / "annotations" / "instances_train.json", document)
        with pytest.raises(InputError, match=hint):
            read_split(folder, "train")


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "train" / "a.jpg").unlink()
    os.mkfifo(folder / "train" / "a.jpg")
    with pytest.raises(InputError, match="image file missing"):
        read_split(folder, "train")


def test_masks_missing_and_unusable_are_told(tmp_path: Path) -> None:
    split = read_split(written(tmp_path / "a", changed("annotations", segmentation=[])), "train")
    assert not split.has_masks and split.why_no_masks() == (
        "1 of 3 annotations have no usable mask (first: annotation id 10 of image id 1: it has "
        "none)"
    )
    split = read_split(
        written(tmp_path / "b", changed("annotations", 1, segmentation=[[26, 31, 50, 31]])), "train"
    )
    assert "fewer than three points" in split.why_no_masks() and not split.has_masks
    boxes_only = written(
        tmp_path / "c",
        lambda document: [entry.pop("segmentation") for entry in document["annotations"]],
    )
    split = read_split(boxes_only, "train")
    assert split.why_no_masks() == "no masks in this data set"
    assert read_split(written(tmp_path / "d"), "train").why_no_masks() == ""


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    empty = read_split(
        written(tmp_path / "a", lambda document: document.update(annotations=[])), "train"
    )
    with pytest.raises(InputError, match="no usable object in the train split of 2 images"):
        check_usable([empty])
    crowds = written(
        tmp_path / "b",
        lambda document: [entry.update(iscrowd=1) for entry in document["annotations"]],
    )
    with pytest.raises(InputError, match="no usable object"):
        print_census([read_split(crowds, "train")])


def test_one_undivided_set_is_not_trained_and_validated_on(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    write_json(tmp_path / "result.json", coco())
    train = read_split(tmp_path, "train")
    val = read_split(tmp_path, "val")
    assert "names no splits" in "\n".join(take_census(train).lines())
    with pytest.raises(InputError, match="train and val would be the same images"):
        check_usable([train, val])


def test_many_classes_are_abbreviated(tmp_path: Path) -> None:
    document = random_document(0)
    document["categories"] += [
        {"id": 1000 + number, "name": f"class {number}"} for number in range(300)
    ]
    census = take_census(read_split(write_folder(tmp_path, document), "train"))
    assert len(census.objects_per_class) == 303 and max(map(len, census.lines())) < 400
    assert "291 more with 0" in "\n".join(census.lines())


@pytest.mark.parametrize("name", ["bccd", "nuclei"])
def test_real_sets(name: str) -> None:
    folder = REAL / "real" / name
    if not folder.is_dir():
        pytest.skip(f"no real data set {name}")
    census = take_census(read_split(folder, "train"))
    document = json.loads((folder / "annotations" / "instances_train.json").read_bytes())
    assert (census.images, census.objects) == (
        len(document["images"]),
        len(document["annotations"]),
    )
    assert census.without_mask == (census.objects if name == "bccd" else 0)


def test_drop_bad_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that do not go together are refused before any work."""
    model = tmp_path / "a.onnx"
    model.touch()
    listed = tmp_path / "y"
    listed.touch()
    for argv, message in (
        (["--artifact", str(model)], "no data given"),
        (
            ["--artifact", str(model), "--data", str(tmp_path), "--annotations", str(listed)],
            "--data and --annotations are both given",
        ),
        (
            ["--artifact", str(model), "--images", str(tmp_path)],
            "--images without its annotation file",
        ),
    ):
        assert run_main(evaluate.main, argv) == 2
        assert message in capsys.readouterr().err


def test_a_picture_that_the_file_gives_no_size_must_open(tmp_path: Path) -> None:
    folder = written(tmp_path, changed("images", width=None))
    (folder / "train" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot decode the image"):
        read_split(folder, "train")
    Image.new("RGB", (80, 60)).save(folder / "train" / "a.jpg")
    assert len(read_split(folder, "train")) == 2


def test_broken_pictures_are_found_by_the_census_and_dropped_on_request(tmp_path: Path) -> None:
    """A picture that does not open, and one of another size than stated, before anything is
    spent.
    """
    folder = written(tmp_path)
    (folder / "train" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot decode the image"):
        print_census([read_split(folder, "train")])
    found = read_split(folder, "train", drop_bad=True)
    assert len(found) == 1 and found.dropped["images that cannot be decoded"] == 1
    Image.new("RGB", (70, 60)).save(folder / "train" / "a.jpg")
    with pytest.raises(InputError, match="70 x 60 but the JSON says 80 x 60"):
        print_census([read_split(folder, "train")])
    found = read_split(folder, "train", drop_bad=True)
    assert len(found) == 1 and found.dropped["images of another size than stated"] == 1


def test_splits_that_share_pictures_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "images")
    for split in ("train", "val"):
        write_json(tmp_path / "annotations" / f"instances_{split}.json", coco())
    print_census([read_split(tmp_path, split) for split in ("train", "val")])
    assert "2 pictures of val in train too" in capsys.readouterr().out
