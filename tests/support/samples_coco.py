"""Small random COCO folders and detections for the data and evaluation tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle_code
from PIL import Image

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.evaluation.coco import ImageDetections

CATEGORIES = ((3, "car"), (17, "cat"), (90, "toothbrush"))


def picture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ellipse(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random filled ellipse, bool (height, width), never empty."""
    y, x = np.mgrid[:height, :width]
    centre_y = rng.uniform(0, height)
    centre_x = rng.uniform(0, width)
    radius_y = rng.uniform(2, height / 3)
    radius_x = rng.uniform(2, width / 3)
    return ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 <= 1


def annotation(
    number: int, image_id: int, category_id: int, mask: np.ndarray, crowd: bool = False
) -> dict[str, Any]:
    rle = rle_code.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = [float(value) for value in rle_code.toBbox(rle)]
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": float(mask.sum()),
    }
    return {
        **entry,
        "iscrowd": int(crowd),
        "segmentation": {"size": rle["size"], "counts": bytes(rle["counts"]).decode()},
    }


def random_document(
    seed: int, images: int = 6, side: tuple[int, int] = (48, 64), most: int = 5
) -> dict[str, Any]:
    """A COCO object with images 100, 97, 94, ...; the second image has no annotation; every fifth
    annotation is a crowd.
    """
    rng, (height, width) = np.random.default_rng(seed), side
    names = [f"{100 - 3 * index:06d}.png" for index in range(images)]
    document: dict[str, Any] = {"info": {"description": "random"}, "annotations": []}
    document["images"] = [
        {"id": 100 - 3 * index, "file_name": name, "width": width, "height": height}
        for index, name in enumerate(names)
    ]
    document["categories"] = [{"id": key, "name": name} for key, name in CATEGORIES]
    for image in document["images"]:
        for _ in range(0 if image["id"] == 97 else int(rng.integers(1, most + 1))):
            number = len(document["annotations"]) + 1
            category_id = CATEGORIES[rng.integers(len(CATEGORIES))][0]
            mask = ellipse(rng, height, width)
            document["annotations"].append(
                annotation(number, image["id"], category_id, mask, crowd=number % 5 == 0)
            )
    return document


def write_folder(
    folder: Path, document: dict[str, Any], split: str = "train", roboflow: bool = False
) -> Path:
    """Writes the document and noise images; returns the data folder."""
    images = folder / split
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for image in document["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / image["file_name"])
    path = (
        images / "_annotations.coco.json"
        if roboflow
        else folder / "annotations" / f"instances_{split}.json"
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return folder


def random_detections(
    split: CocoSplit, seed: int, most: int = 12, masks: bool = True
) -> list[ImageDetections]:
    """Detections near the ground truth and elsewhere, with equal scores among them; the last image
    has none at all.
    """
    rng = np.random.default_rng(seed)
    result = []
    truth = split.ground_truth()["annotations"]
    label_of = {category_id: label for label, category_id in enumerate(split.classes.category_ids)}
    for info in split.images[:-1]:
        here = [entry for entry in truth if entry["image_id"] == info.id]
        count = int(rng.integers(0, most + 1))
        boxes = np.zeros((count, 4), np.float32)
        labels = np.zeros(count, np.int64)
        rles = []
        for row in range(count):
            if here and rng.random() < 0.7:
                entry = here[rng.integers(len(here))]
                x, y, w, h = entry["bbox"] + rng.normal(0, 2, 4) * np.array([1, 1, 0.5, 0.5])
                labels[row] = label_of[entry["category_id"]]
            else:
                x, y, w, h = (
                    rng.uniform(0, info.width),
                    rng.uniform(0, info.height),
                    *rng.uniform(1, info.width / 2, 2),
                )
                labels[row] = rng.integers(len(split.classes))
            w, h = max(w, 1.0), max(h, 1.0)
            boxes[row] = x, y, x + w, y + h
            bitmap = np.zeros((info.height, info.width), np.uint8)
            bitmap[max(0, int(y)) : max(1, int(y + h)), max(0, int(x)) : max(1, int(x + w))] = 1
            if masks:
                rles.append(rle_code.encode(np.asfortranarray(bitmap)))
        scores = rng.choice([0.1, 0.2, 0.3, 0.5, 0.5, 0.7, 0.9], count).astype(np.float32)
        result.append(ImageDetections(info.id, boxes, scores, labels, rles if masks else None))
    return result
