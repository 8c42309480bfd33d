"""Annotations and detections with the statistics of COCO val2017, made up: for timing and comparing
evaluators, not for accuracy.

80 classes, 7.4 objects to an image (1 % of the images have none, 1.2 % of the objects are crowds),
a third of them persons, sizes over three areas, outlines of 12 to 40 corners. Detections are what a
DETR gives: ``per_image`` (query, class) pairs, best first, two thirds near an object, of which many
share a query and therefore box and mask (40 to an image).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle_code

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.evaluation.coco import ImageDetections

CLASSES = 80
QUERIES = 40
OBJECTS = 7.4
CROWD_SHARE = 0.012
EMPTY_SHARE = 0.01
NOT_USED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of COCO's category ids 1..90
CATEGORY_IDS = [number for number in range(1, 91) if number not in NOT_USED]
SHARES = 1 / np.arange(1, CLASSES + 1) ** 1.1
SHARES /= SHARES.sum()


def make_split(folder: Path, images: int, seed: int = 0) -> CocoSplit:
    """Writes a split of empty image files and reads it back."""
    rng = np.random.default_rng(seed)
    document = {"images": [], "annotations": []}
    document["categories"] = [{"id": number, "name": f"class {number}"} for number in CATEGORY_IDS]
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for image_id in rng.permutation(np.arange(1, 8 * images, 8)).tolist():
        width, height = (640, 480) if rng.random() < 0.7 else (480, 640)
        info = {
            "id": image_id,
            "file_name": f"{image_id:012d}.jpg",
            "width": width,
            "height": height,
        }
        document["images"].append(info)
        (folder / "val" / info["file_name"]).touch()
        count = 0 if rng.random() < EMPTY_SHARE else 1 + rng.negative_binomial(1, 1 / OBJECTS)
        for _ in range(count):
            document["annotations"].append(_annotation(rng, info, len(document["annotations"]) + 1))
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return read_split(folder, "val")


def _annotation(rng: np.random.Generator, info: dict[str, Any], number: int) -> dict[str, Any]:
    width = info["width"]
    height = info["height"]
    size = np.clip(np.exp(rng.normal(np.log(48), 1.1, 2)), 4, [width - 1, height - 1])
    x, y = rng.uniform(0, [width - size[0], height - size[1]])
    outline = _outline(rng, int(rng.integers(12, 41)), (x, y, *size))
    rle = rle_code.merge(rle_code.frPyObjects([outline], height, width))
    crowd = rng.random() < CROWD_SHARE
    text = {"size": [height, width], "counts": rle["counts"].decode()}
    return {
        "id": number,
        "image_id": info["id"],
        "category_id": CATEGORY_IDS[rng.choice(CLASSES, p=SHARES)],
        "bbox": [round(value, 2) for value in (x, y, *size)],
        "area": float(rle_code.area(rle)),
        "iscrowd": int(crowd),
        "segmentation": text if crowd else [outline],
    }


def _outline(rng: np.random.Generator, corners: int, box_xywh: tuple[float, ...]) -> list[float]:
    """A star-shaped polygon that fills its box, flat x, y, x, y, ..."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = rng.uniform(0.6, 1.0, corners)[:, None] * np.stack(
        [np.cos(angles), np.sin(angles)], axis=1
    )
    points = (points - points.min(0)) / np.ptp(points, axis=0)
    return (np.array(box_xywh[:2]) + points * np.array(box_xywh[2:])).round(2).ravel().tolist()


def make_detections(
    split: CocoSplit, per_image: int, masks: bool, seed: int = 1
) -> list[ImageDetections]:
    """Detections of every image but each hundredth, which has none."""
    rng = np.random.default_rng(seed)
    of_image = dict[int, list[dict[str, Any]]]()
    for annotation in split.ground_truth()["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    return [
        _detect(rng, info, of_image.get(info.id, []), per_image, masks)
        for info in split.images
        if info.id % 800 != 1
    ]


def _detect(
    rng: np.random.Generator, info: Any, truth: list[dict[str, Any]], count: int, masks: bool
) -> ImageDetections:
    size = np.array([info.width, info.height])
    boxes = np.concatenate(
        [rng.uniform(0, 0.8 * size, (QUERIES, 2)), np.exp(rng.normal(np.log(40), 1, (QUERIES, 2)))],
        axis=1,
    )
    labels = rng.choice(CLASSES, QUERIES, p=SHARES)
    confidence = rng.normal(-3, 1, QUERIES)
    near = np.flatnonzero(rng.random(QUERIES) < 2 / 3) if truth else np.zeros(0, int)
    for query in near.tolist():
        entry = truth[rng.integers(len(truth))]
        error = rng.exponential(0.15)
        whole = np.array([*entry["bbox"][2:]] * 2)
        boxes[query] = entry["bbox"] + rng.normal(0, error, 4) * whole
        labels[query], confidence[query] = (
            CATEGORY_IDS.index(entry["category_id"]),
            rng.normal(1 - 8 * error, 1),
        )
    boxes[:, 2:] = np.clip(boxes[:, 2:], 2, size)
    boxes[:, :2] = np.clip(boxes[:, :2], 0, size - 2)
    boxes[:, 2:] = np.minimum(boxes[:, 2:], size - boxes[:, :2])
    # a query's own class first, then other classes it was given with less confidence
    pick = np.arange(count) % QUERIES
    found = np.where(np.arange(count) < QUERIES, labels[pick], rng.choice(CLASSES, count, p=SHARES))
    logits = confidence[pick] - 2.0 * (np.arange(count) // QUERIES) + rng.normal(0, 0.3, count)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
    rles = None
    if masks:
        outlines = [_outline(rng, 24, tuple(box)) for box in boxes]
        each = rle_code.frPyObjects(outlines, info.height, info.width)
        rles = [each[query] for query in pick[order].tolist()]
    return ImageDetections(info.id, corners[pick[order]], scores[order], found[order], rles)
