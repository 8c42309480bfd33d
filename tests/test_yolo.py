"""YOLO folders: boxes, polygons, and labels that must be refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.errors import InputError


def yolo_folder(folder: Path, labels: dict[str, str], names: Any = ("cat", "dog"), **entries: Any) -> Path:
    for name, text in labels.items():
        image = folder / "train" / "images" / f"{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 50)).save(image)
        label = folder / "train" / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    described = {"names": list(names) if isinstance(names, tuple) else names, "train": "../train/images", **entries}
    (folder / "data.yaml").write_text(json.dumps(described))  # JSON is YAML
    return folder


def test_yolo_boxes_and_polygons(tmp_path: Path) -> None:
    boxes = yolo_folder(tmp_path / "boxes", {"a": "0 0.5 0.5 0.2 0.4\n1 0.1 0.2 0.2 0.4\n", "b": "", "c": "\n"})
    split = read_split(boxes, "train")
    assert split.classes.names == ("cat", "dog") and split.classes.category_ids == (0, 1) and not split.has_masks
    sample = split.sample(0)
    assert np.allclose(sample.boxes_xyxy, [[40, 15, 60, 35], [0, 0, 20, 20]]) and sample.labels.tolist() == [0, 1]
    assert len(split) == 3 and len(split.sample(1).labels) == 0
    polygons = yolo_folder(tmp_path / "polygons", {"a": "1 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8"}, names={0: "cat", 1: "dog"})
    # JSON has text keys; YAML written by people has numbers
    (polygons / "data.yaml").write_text("names: {0: cat, 1: dog}\ntrain: train/images\nval: train/images\n")
    sample = read_split(polygons, "val").sample(0, masks=True)
    assert np.allclose(sample.boxes_xyxy, [[10, 10, 50, 40]]) and sample.masks.sum() == 40 * 30


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.5 0.5 0.2", r"a\.txt:1.*5 \(class"),
        ("0 0.5 0.5 0.2 0.4\n7 0.5 0.5 0.2 0.4", r"class id 7 has no name.*a\.txt:2"),
        ("0 0.5 x 0.2 0.4", "no number"),
        ("inf 0.5 0.5 0.2 0.4", "no number"),
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
