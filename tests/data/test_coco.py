"""Reading COCO folders: layouts, ids with holes, crowds, all kinds of masks, and one test for each
way the input can be wrong.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle_code
from PIL import Image
from samples_coco import random_document, write_folder

from rfdetr_repro.data import annotations as parsing
from rfdetr_repro.data.census import take_census
from rfdetr_repro.data.coco import ClassMap, decode_mask, read_split
from rfdetr_repro.data.segmentation import cut_segmentations, rle_of
from rfdetr_repro.spec.errors import InputError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_ccby"


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("layout", ["ours", "coco", "roboflow"])
def test_layouts(tmp_path: Path, layout: str, split: str) -> None:
    names = {
        "ours": split,
        "coco": f"{split}2017",
        "roboflow": "valid" if split == "val" else split,
    }
    folder = write_folder(
        tmp_path / "birds", random_document(0), names[layout], roboflow=layout == "roboflow"
    )
    found = read_split(folder, split)
    assert (found.name, found.split, found.description, len(found)) == ("birds", split, "random", 6)
    assert found.load_image(0).shape == (48, 64, 3) and found.load_image(0).dtype == np.uint8


def test_samples_hold_what_was_written(tmp_path: Path) -> None:
    document = random_document(1)
    split = read_split(write_folder(tmp_path, document), "train")
    assert (
        split.classes == ClassMap((3, 17, 90), ("car", "cat", "toothbrush"))
        and len(split.classes) == 3
    )
    for index, info in enumerate(split.images):
        here = [
            entry
            for entry in document["annotations"]
            if entry["image_id"] == info.id and not entry["iscrowd"]
        ]
        sample = split.sample(index, masks=True)
        x, y, w, h = np.array([entry["bbox"] for entry in here]).reshape(-1, 4).T
        assert sample.boxes_xyxy.dtype == np.float32
        assert sample.boxes_xyxy == pytest.approx(np.stack([x, y, x + w, y + h], axis=1))
        assert [split.classes.category_ids[label] for label in sample.labels] == [
            entry["category_id"] for entry in here
        ]
        expected = [rle_code.decode(entry["segmentation"]) for entry in here]
        assert (
            sample.masks is not None
            and sample.masks.shape == (len(here), 48, 64)
            and sample.masks.dtype == bool
        )
        assert all(
            np.array_equal(mask, bitmap)
            for mask, bitmap in zip(sample.masks, expected, strict=True)
        )
        assert sample.image_id == info.id and split.sample(index).masks is None
        with Image.open(info.path) as picture:
            assert np.array_equal(sample.image, np.asarray(picture.convert("RGB")))
    assert len(split.sample(1).labels) == 0  # the image without annotations
    assert split.has_masks


def test_ground_truth_is_the_file(tmp_path: Path) -> None:
    document = random_document(2)
    truth = read_split(write_folder(tmp_path, document), "train").ground_truth()
    assert any(entry["iscrowd"] for entry in truth["annotations"])
    assert sorted(truth["annotations"], key=lambda entry: entry["id"]) == document["annotations"]
    assert truth["categories"] == document["categories"] and len(truth["images"]) == len(
        document["images"]
    )


def test_class_map_of_train_rules_the_other_splits(tmp_path: Path) -> None:
    train = random_document(0)
    val = random_document(1)
    val["annotations"] = [entry for entry in val["annotations"] if entry["category_id"] != 3]
    val["categories"] = val["categories"][::-1][:2]  # 90, 17: fewer and in another order
    write_folder(tmp_path, train)
    classes = read_split(write_folder(tmp_path, val, "val"), "train").classes
    split = read_split(tmp_path, "val", classes)
    assert split.classes == classes
    categories = [
        classes.category_ids[label]
        for index in range(len(split))
        for label in split.sample(index).labels
    ]
    assert set(categories) == {17, 90}
    val["categories"][0]["name"] = "comb"
    with pytest.raises(
        InputError, match="category id 90 is 'comb' here but 'toothbrush' in the train split"
    ):
        read_split(write_folder(tmp_path, val, "val"), "val", classes)


def test_roboflow_placeholder_is_no_class(tmp_path: Path) -> None:
    document = random_document(0)
    document["categories"] = [{"id": 0, "name": "things", "supercategory": "none"}] + [
        {**category, "supercategory": "things"} for category in document["categories"]
    ]
    assert read_split(
        write_folder(tmp_path, document, roboflow=True), "train"
    ).classes.category_ids == (3, 17, 90)
    document["annotations"][0]["category_id"] = 0  # in use: a class after all
    assert read_split(
        write_folder(tmp_path, document, roboflow=True), "train"
    ).classes.category_ids == (0, 3, 17, 90)


def test_hash_covers_annotations_and_images(tmp_path: Path) -> None:
    document = random_document(0)
    split = read_split(write_folder(tmp_path, document), "train")
    content = (tmp_path / "annotations" / "instances_train.json").read_bytes()
    content += b"".join(
        (tmp_path / "train" / image["file_name"]).read_bytes() for image in document["images"]
    )
    assert split.sha256 == hashlib.sha256(content).hexdigest()
    Image.new("RGB", (64, 48)).save(split.images[2].path)
    assert read_split(tmp_path, "train").sha256 != split.sha256


def test_masks_of_every_kind_are_those_of_pycocotools() -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    polygons = [[10.5, 10, 40, 12.25, 30, 44.5], [3, 3, 9, 3, 9, 9, 3, 9]]
    expected = mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygons, 50, 60))).astype(bool)
    compressed = mask_api.encode(np.asfortranarray(expected.astype(np.uint8)))
    text = {"size": [50, 60], "counts": compressed["counts"].decode()}
    flat = expected.T.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    runs = {"size": [50, 60], "counts": np.diff(edges).tolist()}
    for segmentation in (polygons, compressed, text, runs):
        assert np.array_equal(decode_mask(segmentation, 50, 60), expected)
        assert rle_of(segmentation, 50, 60)["counts"] == compressed["counts"]


def test_real_coco_annotations() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no real COCO images at {REAL.name}")
    mask_api = pytest.importorskip("pycocotools.mask")
    document = json.loads((REAL / "instances.json").read_bytes())
    slim, spans = cut_segmentations((REAL / "instances.json").read_bytes())
    assert len(spans) == len(document["annotations"]) and b"segmentation" not in slim
    size_of = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for entry in document["annotations"]:
        height, width = size_of[entry["image_id"]]
        rle = mask_api.frPyObjects(entry["segmentation"], height, width)
        expected = mask_api.decode(mask_api.merge(rle) if isinstance(rle, list) else rle)
        assert np.array_equal(decode_mask(entry["segmentation"], height, width), expected)


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        [[1, 2, 3, 4, 5, 6.5]],
        {"size": [1, 2], "counts": "a\\}"},
        None,
        "text",
        [["a"]],
        [{"x": [1]}],
        {"a": {"b": 1}},
    ],
)
def test_cutting_out_segmentations_loses_nothing(tmp_path: Path, value: Any) -> None:
    document = random_document(0)
    document["annotations"][1]["segmentation"] = value
    document["info"]["description"] = 'a "segmentation": [1] in a string'
    for indent in (None, 1):
        write_folder(tmp_path, document)
        (tmp_path / "annotations" / "instances_train.json").write_text(
            json.dumps(document, indent=indent)
        )
        split = read_split(tmp_path, "train")
        truth = {
            entry["id"]: entry["segmentation"] for entry in split.ground_truth()["annotations"]
        }
        assert truth == {entry["id"]: entry["segmentation"] for entry in document["annotations"]}
        assert split.description == document["info"]["description"]


def test_boxes_across_the_border_are_clipped_and_counted(tmp_path: Path) -> None:
    document = random_document(4)
    for entry, box in zip(
        document["annotations"], ([-0.6, 2, 9, 9], [60, 40, 30, 30], [5, 5, 10, 10]), strict=False
    ):
        entry.update(bbox=box, image_id=100, iscrowd=0, segmentation=[])
    split = read_split(write_folder(tmp_path, document), "train")
    assert split.sample(0).boxes_xyxy[:3] == pytest.approx(
        np.array([[0, 2, 8.4, 11], [60, 40, 64, 48], [5, 5, 15, 15]])
    )
    assert split.clipped_boxes == 1 and not split.has_masks  # the first is rounding
    assert split.ground_truth()["annotations"][1]["bbox"] == [60, 40, 30, 30]


def test_the_two_empty_boxes_of_coco_train_are_left_out(tmp_path: Path) -> None:
    document = random_document(0)
    count = len(document["annotations"])
    document["images"][0]["id"] = 200365
    for entry in document["annotations"]:
        entry["image_id"] = 200365 if entry["image_id"] == 100 else entry["image_id"]
    empty = {
        "id": 918,
        "image_id": 200365,
        "category_id": 3,
        "bbox": [29.65, 38.33, 1.03, 0.0],
        "area": 0.0,
        "iscrowd": 0,
    }
    document["annotations"].append(empty)
    split = read_split(write_folder(tmp_path, document), "train")
    assert split.empty_boxes == 1 and len(split.ground_truth()["annotations"]) == count
    assert "1 box of zero width or height left out" in "\n".join(take_census(split).lines())


def change(key: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document[key][0].update(fields)


BAD = {
    "annotation id 1 of image id 100 has a category id that is unknown": change(
        "annotations", category_id=4
    ),
    "annotation id 1 of image id 5 belongs to an image that is not listed": change(
        "annotations", image_id=5
    ),
    "annotation id 1 of image id 100 has a box of negative size": change(
        "annotations", bbox=[1, 1, 5, -5]
    ),
    "annotation id 1 of image id 100 has a box outside the image": change(
        "annotations", bbox=[64, 1, 5, 5]
    ),
    "annotation id 1 of image id 100 has a box that is not finite": change(
        "annotations", bbox=[1, 1, float("nan"), 5]
    ),
    "annotations[0] (id 1, image id 100) is malformed": change("annotations", bbox=[1, 1, 5]),
    "annotations[0] (id 1, image id None) is malformed": change("annotations", image_id=None),
    "annotations[0] (id 1, image id 100) is malformed ": change("annotations", area="large"),
    "annotation id 2 of image id 100 has the id of an earlier annotation": change(
        "annotations", id=2
    ),
    "image id 97 occurs 2 times": change("images", id=97),
    "image file missing (image id 100)": change("images", file_name="absent.png"),
    "images[0] needs id, file_name, width and height": change("images", width="wide"),
    "image id 100 has size 0 x 48": change("images", width=0),
    "two categories share an id": change("categories", id=17),
    "a category without id or name": change("categories", id=None),
    "no images": lambda document: document.update(images=[], annotations=[]),
    "not a COCO file: no list of objects 'annotations'": lambda document: document.pop(
        "annotations"
    ),
    "not a COCO file: no list of objects 'images'": lambda document: document.update(
        images={"a": 1}
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_annotations_are_one_clear_line(tmp_path: Path, message: str) -> None:
    document = random_document(0)
    write_folder(tmp_path, document)
    changed = copy.deepcopy(document)
    BAD[message](changed)
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=re.escape(message.strip())) as error:
        read_split(tmp_path, "train")
    assert (
        "\n" not in str(error.value) and "instances_train.json" in str(error.value)
    ) or "absent.png" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"[1, 2]", b"null", b'{"images": [1]}', b'{"images": [', b"\xff\xfe", b"", b'{"a": 1}\n}'],
)
def test_files_that_are_not_coco(tmp_path: Path, content: bytes) -> None:
    write_folder(tmp_path, random_document(0))
    (tmp_path / "annotations" / "instances_train.json").write_bytes(content)
    with pytest.raises(InputError, match="not a COCO file|not JSON|not UTF-8"):
        read_split(tmp_path, "train")


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data folder"):
        read_split(tmp_path / "absent", "train")
    with pytest.raises(
        InputError, match=r"no COCO split 'val'.*instances_val.json and val/, or valid/_annotations"
    ):
        read_split(write_folder(tmp_path, random_document(0)), "val")
    (tmp_path / "data.yaml").touch()
    with pytest.raises(InputError, match="YOLO"):
        read_split(tmp_path, "val")
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="images of split 'train' are missing"):
        read_split(tmp_path, "train")


def test_bad_images_are_found_when_decoded(tmp_path: Path) -> None:
    split = read_split(write_folder(tmp_path, random_document(0)), "train")
    for index, (content, message) in enumerate(
        [(None, "truncated|decode"), (b"", "format is unknown"), (b"text", "format is unknown")]
    ):
        path = split.images[index].path
        path.write_bytes(path.read_bytes()[:2000] if content is None else content)
        with pytest.raises(InputError, match=message) as error:
            split.sample(index)
        assert path.name in str(error.value)
    Image.new("RGB", (63, 48)).save(split.images[3].path)
    with pytest.raises(InputError, match="the image is 63 x 48 but the JSON says 64 x 48"):
        split.load_image(3)
    split.images[4].path.unlink()
    with pytest.raises(InputError, match="No such file"):
        split.load_image(4)


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 1e9, 6]],
        {"size": [4, 4], "counts": "zz"},
        {"counts": [1]},
    ]
    + [
        {"size": [48, 64], "counts": counts}
        for counts in ([5, 5], [-1, 48 * 64 + 1], "zzzz", "PPPP", 7)
    ],
)
def test_bad_segmentations_are_found_when_rasterised(tmp_path: Path, segmentation: Any) -> None:
    document = random_document(0)
    document["annotations"][0]["segmentation"] = segmentation
    split = read_split(write_folder(tmp_path, document), "train")
    assert len(split.sample(0).labels)
    with pytest.raises(
        InputError, match="no usable segmentation: .*annotation id 1 of image id 100"
    ):
        split.sample(0, masks=True)


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    split = read_split(write_folder(tmp_path, random_document(0)), "train")
    Image.new("L", (64, 48), 9).save(split.images[0].path)
    Image.new("P", (64, 48)).save(split.images[1].path)
    assert split.load_image(0).shape == split.load_image(1).shape == (48, 64, 3)
    assert split.load_image(0)[0, 0].tolist() == [9, 9, 9]


def test_positions() -> None:
    assert parsing._positions([5, 2, 9, 7, 1], [7, 2, 5]).tolist() == [2, 1, -1, 0, -1]
