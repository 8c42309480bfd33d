"""Shared by ``test_layouts.py`` and others: check, coco, pictures, write_json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfdetr_repro.data.coco import read_split

WIDTH = 80
HEIGHT = 60
# x, y, width, height; class 0, 1, ...
BOXES = {"a": [(8, 8, 24, 16), (40, 20, 16, 20)], "b b": [(2, 4, 30, 30)]}
NAMES = ("cat", "dog")


def pictures(folder: Path, prefix: str = "", suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(BOXES):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{prefix}{name}{suffix}")


def corners(box: tuple[int, ...]) -> list[int]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def coco(name: Callable[[str], Any] = lambda stem: f"{stem}.jpg", **changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    document["categories"] = [{"id": 5 + number, "name": text} for number, text in enumerate(NAMES)]
    for image_id, (stem, boxes) in enumerate(BOXES.items(), 1):
        document["images"].append(
            {"id": image_id, "file_name": name(stem), "width": WIDTH, "height": HEIGHT, **changes}
        )
        for number, box in enumerate(boxes):
            row = {
                "id": 10 * image_id + number,
                "image_id": image_id,
                "category_id": 5 + number,
                "bbox": list(box),
                "iscrowd": 0,
            }
            document["annotations"].append(
                {**row, "area": box[2] * box[3], "segmentation": [corners(box)]}
            )
    return document


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def check(data: Any, split: str = "train", atol: float = 1e-4) -> Any:
    """The split holds BOXES with classes 0, 1, ... whatever its form."""
    found = read_split(data, split)
    assert len(found) == len(BOXES)
    for index, info in enumerate(found.images):
        stem = next(stem for stem in BOXES if info.path.stem.endswith(stem))
        sample = found.sample(index)
        expected = [(x, y, x + w, y + h) for x, y, w, h in BOXES[stem]]
        assert np.allclose(sample.boxes_xyxy, expected, atol=atol), (info.path, sample.boxes_xyxy)
        assert [found.classes.names[label] for label in sample.labels] == list(
            NAMES[: len(expected)]
        )
        assert sample.image.shape == (HEIGHT, WIDTH, 3)
    return found
