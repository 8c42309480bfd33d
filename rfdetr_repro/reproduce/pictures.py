"""Example predictions of an artifact, drawn next to the ground truth, for the report."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.bench.accuracy import detect_image, label_map
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.segmentation import decode_mask
from rfdetr_repro.evaluation.coco import ImageDetections
from rfdetr_repro.plots.detections import Annotations, best_of_each_box
from rfdetr_repro.plots.figures import detections_figure
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.files import read_json, write_atomic

CAPTIONS = "predictions.json"
PER_PICTURE = 4
HIGHEST_THRESHOLD = 0.3


def as_annotations(found: ImageDetections, height: int, width: int) -> Annotations:
    """Detections of an image, in the form for drawing."""
    masks = None
    if found.masks_rle is not None:
        masks = np.array(
            [decode_mask(rle, height, width) for rle in found.masks_rle], dtype=bool
        ).reshape(-1, height, width)
    return best_of_each_box(Annotations(found.boxes_xyxy, found.labels, found.scores, masks))


def draw_examples(session: Session, splits: dict[str, CocoSplit], folder: Path) -> list[Path]:
    """Draws what ``session`` finds: one picture per held-out split, with its first images that have
    objects; captions go to ``predictions.json`` next to ``folder``. A picture that is there is kept
    if its caption names the file of ``session``.
    """
    known = folder.parent / CAPTIONS
    before = read_json(known) if known.exists() else []
    paths = []
    captions = []
    for name, split in splits.items():
        if name == "train":
            continue
        path = folder / f"{name}.png"
        captions.append(
            {
                "file": path.name,
                "caption": f"{name}: {split.description.rstrip('.')}. "
                f"Model {session.artifact_id.sha256[:12]}.",
            }
        )
        paths.append(path)
        if not path.exists() or captions[-1] not in before:
            path.unlink(missing_ok=True)  # so that no caption is of another file's picture
            _draw(session, split, path)
    write_atomic(known, json.dumps(captions, indent=1))
    return paths


def _draw(session: Session, split: CocoSplit, path: Path) -> None:
    labels = label_map(session.manifest, split)
    images = []
    predictions = []
    truths = []
    with_objects = (row for row in range(len(split)) if len(split.sample(row).labels))
    for row in islice(with_objects, PER_PICTURE):
        sample: Any = split.sample(row, masks=split.has_masks)
        images.append(np.array(sample.image))
        found = detect_image(session, sample.image, sample.image_id, labels)
        predictions.append(as_annotations(found, *sample.image.shape[:2]))
        truths.append(Annotations(sample.boxes_xyxy, sample.labels, None, sample.masks))
    names = split.classes.names
    min_score = _threshold(predictions, sum(len(truth.labels) for truth in truths))
    detections_figure(
        images, predictions, path, truths=truths, class_names=names, min_score=min_score
    )


def _threshold(predictions: list[Annotations], objects: int) -> float:
    """The score threshold at which as many predictions are drawn as there are objects, at most 0.3,
    because the scores of a briefly trained model are low.
    """
    scores = np.sort(
        np.concatenate(
            [[0.0], *(found.scores for found in predictions if found.scores is not None)]
        )
    )[::-1]
    return min(
        HIGHEST_THRESHOLD,
        float(np.floor(100 * scores[min(max(objects, 1), len(scores)) - 1]) / 100),
    )
