"""YOLO folders: boxes, polygons, and labels that must be refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfdetr_repro.data.census import take_census
from rfdetr_repro.data.coco import has_split, read_split
from rfdetr_repro.spec.errors import InputError


def yolo_folder(
    folder: Path, labels: dict[str, str], names: Any = ("cat", "dog"), **entries: Any
) -> Path:
    for name, text in labels.items():
        image = folder / "train" / "images" / f"{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 50)).save(image)
        label = folder / "train" / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    described = {
        "names": list(names) if isinstance(names, tuple) else names,
        "train": "../train/images",
        **entries,
    }
    (folder / "data.yaml").write_text(json.dumps(described))  # JSON is YAML
    return folder


def test_yolo_boxes_and_polygons(tmp_path: Path) -> None:
    boxes = yolo_folder(
        tmp_path / "boxes", {"a": "0 0.5 0.5 0.2 0.4\n1 0.1 0.2 0.2 0.4\n", "b": "", "c": "\n"}
    )
    split = read_split(boxes, "train")
    assert (
        split.classes.names == ("cat", "dog")
        and split.classes.category_ids == (0, 1)
        and not split.has_masks
    )
    sample = split.sample(0)
    assert np.allclose(
        sample.boxes_xyxy, [[40, 15, 60, 35], [0, 0, 20, 20]]
    ) and sample.labels.tolist() == [0, 1]
    assert len(split) == 3 and len(split.sample(1).labels) == 0
    polygons = yolo_folder(
        tmp_path / "polygons",
        {"a": "1 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8"},
        names={0: "cat", 1: "dog"},
    )
    # JSON has text keys; YAML written by people has numbers
    (polygons / "data.yaml").write_text(
        "names: {0: cat, 1: dog}\ntrain: train/images\nval: train/images\n"
    )
    sample = read_split(polygons, "val").sample(0, masks=True)
    assert np.allclose(sample.boxes_xyxy, [[10, 10, 50, 40]]) and sample.masks.sum() == 40 * 30


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.5 0.5 0.2", r"a\.txt:1.*5 \(class"),
        ("0 0.5 0.5 0.2 0.4\n7 0.5 0.5 0.2 0.4", r"class id 7 has no name.*a\.txt:2"),
        ("0 0.5 x 0.2 0.4", "not a number"),
        ("inf 0.5 0.5 0.2 0.4", "not a number"),
        ("0 nan 0.5 0.2 0.4", "not finite"),
        ("0.5 0.5 0.5 0.2 0.4", "class id 0.5"),
        ("0 30 20 10 10", "outside 0..1"),
    ],
)
def test_broken_yolo_labels_are_named(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read_split(yolo_folder(tmp_path, {"a": text}), "train")


def test_broken_yolo_files(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path / "a", {"a": "0 0.5 0.5 0.2 0.4"})
    with pytest.raises(InputError, match="no split 'val'"):
        read_split(folder, "val")
    with pytest.raises(InputError, match="does not exist"):
        read_split(yolo_folder(tmp_path / "b", {"a": ""}, val="gone/images"), "val")
    with pytest.raises(InputError, match="no class names"):
        read_split(yolo_folder(tmp_path / "c", {"a": ""}, names="cat"), "train")
    (folder / "data.yaml").write_text("names: [cat\n")
    with pytest.raises(InputError, match="not YAML"):
        read_split(folder, "train")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[yes, no, off]", ("yes", "no", "off")),
        ("[010, 1.10, null, 1e3, 2020-99-99]", ("010", "1.10", "null", "1e3", "2020-99-99")),
        ("{'0': cat, '1': dog}", ("cat", "dog")),
        ("{1: dog, 0: cat}", ("cat", "dog")),
        ("{0: ~, 1: !!float x}", ("~", "x")),
    ],
)
def test_names_are_as_they_are_written(
    names: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"})
    (folder / "data.yaml").write_text(f"names: {names}\ntrain: train/images\n")
    assert read_split(folder, "train").classes.names == expected


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB + "names: *y\ntrain: train/images\n", "references"),
        ("names: " + "[" * 5000 + "\n", "nested too deeply|not YAML"),
        ("names: [[a], b]\ntrain: train/images\n", "a class name that is not a text"),
        ("names: {0: a, 0: b}\ntrain: train/images\n", "key '0' occurs twice"),
        (
            "names: [a]\nnames: [b]\ntrain: train/images\n",
            r"key 'names' occurs twice.*data\.yaml:2",
        ),
        ("names: {0: a, 00: b}\ntrain: train/images\n", "two class names share an id"),
        ("names: {x: a}\ntrain: train/images\n", "no class names"),
        (
            "names: [a, b]\nnc: 3\ntrain: train/images\n",
            "nc states 3 classes, but there are 2 names",
        ),
        ("names: [a, b]\nnc: two\ntrain: train/images\n", "nc: two is not a number"),
        ("names: [a]\ntrain: {a: b}\n", "is not a path"),
        ("names: [a]\ntrain: [[train/images]]\n", "is not a path"),
        ("names: [a]\ntrain: train/images\nval: {a: b}\n", "val: .* is not a path"),
        ("names: [a]\ntrain: train/images\npath: [a, b]\n", "path: .* is not a path"),
        ('names: [a]\ntrain: train/images\npath: "a\\0b"\n', "path: .* is not a path"),
        ("names: [a, '']\ntrain: train/images\n", "has the name ''"),
        ('names: [a, "\\x1b[2J"]\ntrain: train/images\n', "write a name of printable"),
        (f"names: [a]\ntrain: {'x' * 5000}\n", "does not exist"),
        (f"names: [a]\npath: {'x' * 5000}\ntrain: gone\n", "does not exist"),
        ('names: [a]\ntrain: "a\\0b"\n', "is not a path"),
        ("names: [a]\ntrain: /proc\n", "not a data set"),
        ("names: [a]\ntrain: /\n", "a whole disk is not a data set"),
        ("names: [a]\ntrain: /dev/null\n", "neither a folder nor a file"),
        ("names: [a]\ntrain: train/images\nkpt_shape: 17\n", "kpt_shape"),
        ("names: [a]\ntrain: train/images\nkpt_shape: [17, 5]\n", "kpt_shape"),
    ],
)
def test_data_files_that_are_refused_in_one_short_line(
    text: str, reason: str, tmp_path: Path
) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"})
    (folder / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=reason) as error:
        read_split(folder, "train")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_key_points_follow_a_box(tmp_path: Path) -> None:
    box = "0 0.5 0.5 0.2 0.4"
    points = " 0.1 0.2 2 0.3 0.4 0 0.5 0.6 1"
    split = read_split(
        yolo_folder(tmp_path / "a", {"a": f"{box}{points}\n{box}"}, kpt_shape=[3, 3]), "train"
    )
    assert np.allclose(split.sample(0).boxes_xyxy, [[40, 15, 60, 35]] * 2) and not split.has_masks
    with pytest.raises(InputError, match="kpt_shape needs 5 numbers.*and 9 of key points"):
        read_split(yolo_folder(tmp_path / "b", {"a": f"{box} 0.1 0.2"}, kpt_shape=[3, 3]), "train")


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        ("train.txt", "./train/images/a.jpg\n./train/images/b.jpg\n"),
        ("lists/train.txt", "../train/images/a.jpg\n../train/images/b.jpg\n"),
        ("train/images/list.txt", "./a.jpg\n./b.jpg\n"),
        ("train.txt", "train\\images\\a.jpg\r\ntrain\\images\\b.jpg\r\n"),
        ("train.txt", "\ufefftrain/images/a.jpg\n\n# a remark\ntrain/images/b.jpg"),
        (
            "train.txt",
            "train/images/a.jpg\ntrain/images/b.jpg\ntrain/images/a.jpg\n./train/images/b.jpg\n",
        ),
        ("train.txt", "data/train/images/a.jpg\ndata/train/images/b.jpg\n"),  # CVAT
    ],
)
def test_lists_of_images(place: str, lines: str, tmp_path: Path) -> None:
    folder = yolo_folder(
        tmp_path, {"a": "0 0.5 0.5 0.2 0.4", "b": "1 0.5 0.5 0.2 0.4", "c": ""}, train=place
    )
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_bytes(lines.encode())
    split = read_split(folder, "train")
    assert [info.path.name for info in split.images] == ["a.jpg", "b.jpg"] and len(
        split.ground_truth()["annotations"]
    ) == 2
    (folder / place).write_text("train/images/A.jpg\n")
    with pytest.raises(
        InputError, match=r"train/images/A.jpg does not exist.*txt:1.*there is a.jpg"
    ):
        read_split(folder, "train")


def test_missing_label_files(tmp_path: Path) -> None:
    """None at all is a mistake; some are images without objects, and counted; a broken link is a
    mistake.
    """
    folder = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.4", "b": ""})
    label = folder / "train" / "labels" / "b.txt"
    label.unlink()
    assert take_census(read_split(folder, "train")).without_label_file == 1
    label.symlink_to("gone.txt")
    with pytest.raises(InputError, match="broken link"):
        read_split(folder, "train")
    (folder / "train" / "labels").rename(folder / "train" / "label")
    with pytest.raises(
        InputError, match=r"no label file found for any of 2 images.*train/labels/a\.txt"
    ):
        read_split(folder, "train")


def test_what_archives_of_a_mac_hold_beside_the_pictures_is_no_picture(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"})
    (folder / "train" / "images" / "._a.jpg").write_bytes(b"Mac OS X")
    (folder / "train" / "images" / "__MACOSX").mkdir()
    (folder / "train" / "images" / "__MACOSX" / "b.jpg").write_bytes(b"Mac OS X")
    assert [info.path.name for info in read_split(folder, "train").images] == ["a.jpg"]


def test_no_picture_is_left_out_without_a_word(tmp_path: Path) -> None:
    """Other formats are read, or refused by their names."""
    folder = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"})
    images = folder / "train" / "images"
    for name in ("b.avif", "c.gif", "d.JFIF"):
        kind = "JPEG" if name == "d.JFIF" else None
        Image.new("RGB", (10, 10)).save(images / name, kind)
    assert [info.path.name for info in read_split(folder, "train").images] == [
        "a.jpg",
        "b.avif",
        "c.gif",
        "d.JFIF",
    ]
    (images / "e.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(InputError, match=r"the format is unknown.*e\.heic.*save the picture as"):
        read_split(folder, "train")
    dropped = read_split(folder, "train", drop_bad=True).dropped
    assert dropped == {"image that cannot be decoded": 1}


def test_bad_lines_are_dropped_on_request(tmp_path: Path) -> None:
    lines = (
        "0 0.5 0.5 0.2 0.4\n9 0.5 0.5 0.2 0.4\n0 nan 0.5 0.2 0.4\n0 30 20 5 5\n0 0.5\nx 1 1 1 1\n"
    )
    folder = yolo_folder(tmp_path, {"a": lines})
    with pytest.raises(InputError, match=r"class id 9 has no name.*a\.txt:2.*--drop-bad"):
        read_split(folder, "train")
    split = read_split(folder, "train", drop_bad=True)
    assert (
        len(split.sample(0).labels) == 1
        and sum(split.dropped.values()) == 5
        and len(split.dropped) == 5
    )
    assert not has_split(folder, "test")


def test_a_label_belongs_to_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    """A phone's picture: 50 x 100 when turned as its EXIF asks; labels are parts of that."""
    folder = yolo_folder(tmp_path, {"a": "0 0.5 0.25 0.4 0.1"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 50)).save(folder / "train" / "images" / "a.jpg", exif=exif)
    info = read_split(folder, "train").images[0]
    assert (info.width, info.height) == (50, 100)
