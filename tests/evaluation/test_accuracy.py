"""A session mapped over a split: resize, label map, pixels, masks; a session that knows the truth
scores 1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples_coco import random_document, write_folder
from samples_export import CATEGORY_IDS, NAMES, tiny_artifact

from rfdetr_repro.bench.accuracy import (
    accuracy_of,
    detect_image,
    detect_split,
    label_map,
)
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.records.record import ArtifactId
from rfdetr_repro.runtime.session import Detections, OrtSession
from rfdetr_repro.spec.errors import InputError

SLOTS = 8


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> CocoSplit:
    document = random_document(3)
    document["annotations"] = [entry for entry in document["annotations"] if not entry["iscrowd"]]
    return read_split(write_folder(tmp_path_factory.mktemp("data"), document, "val"), "val")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> OrtSession:
    return OrtSession(tiny_artifact(tmp_path_factory.mktemp("artifact")), threads=1)


class Oracle:
    """Recognises an image by its resized pixels and returns its ground truth, padded with certain
    non-detections.
    """

    def __init__(self, split: CocoSplit, real: OrtSession) -> None:
        order = [2, 0, 1]  # the model numbers its classes in another order than the data
        self.manifest = replace(
            real.manifest,
            category_ids=tuple(CATEGORY_IDS[i] for i in order),
            class_names=tuple(NAMES[i] for i in order),
        )
        self.artifact_id = ArtifactId("a" * 64, "a" * 64, "oracle", "fp32", 1)
        self.known = {}
        for index in range(len(split)):
            sample = split.sample(index, masks=True)
            height, width = sample.image.shape[:2]
            boxes = np.zeros((1, SLOTS, 4), np.float32)
            labels = np.zeros((1, SLOTS), np.int64)
            scores = np.full((1, SLOTS), 0.01, np.float32)
            masks = np.full((1, SLOTS, height, width), -1.0, np.float32)
            for row, (box, label, mask) in enumerate(
                zip(sample.boxes_xyxy, sample.labels, sample.masks, strict=True)
            ):
                boxes[0, row], labels[0, row] = (
                    box / [width, height, width, height],
                    order.index(label),
                )
                scores[0, row], masks[0, row] = 0.9, np.where(mask, 1.0, -1.0)
            self.known[network_input([sample.image], self.manifest.input_hw).tobytes()] = (
                Detections(scores, labels, boxes, masks)
            )

    def run(self, images: np.ndarray) -> Detections:
        return self.known[images.tobytes()]


def test_input_follows_the_resize_rule() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    made = network_input([image], (32, 16))
    expected = (
        np.asarray(Image.fromarray(image).resize((16, 32), Image.Resampling.BILINEAR), np.float32)
        / 255
    )
    assert made.shape == (1, 3, 32, 16) and made.dtype == np.float32 and made.flags.c_contiguous
    np.testing.assert_allclose(made[0].transpose(1, 2, 0), expected, atol=1e-6)


def test_a_session_that_knows_the_truth_scores_one(split: CocoSplit, real: OrtSession) -> None:
    boxes, masks = accuracy_of(Oracle(split, real), split)
    assert boxes.ap == boxes.ap50 == 1.0
    assert masks is not None and masks.ap == 1.0
    assert boxes.artifact_sha256 == masks.artifact_sha256 == "a" * 64


def test_a_wrong_label_map_would_show(split: CocoSplit, real: OrtSession) -> None:
    oracle = Oracle(split, real)
    detections = [
        replace(found, labels=(found.labels + 1) % 3) for found in detect_split(oracle, split)
    ]
    from rfdetr_repro.evaluation.coco import CocoEvaluator

    assert CocoEvaluator(split).accuracy(detections).ap < 0.5


def test_detections_are_in_pixels(split: CocoSplit, real: OrtSession) -> None:
    labels = label_map(real.manifest, split)
    found = detect_image(real, split.load_image(0), 100, labels)
    assert found.boxes_xyxy.shape == (8, 4) and len(found.masks_rle or ()) == 8
    assert (
        found.boxes_xyxy[:, [0, 2]].max() <= 64
        and found.boxes_xyxy[:, [1, 3]].max() <= 48
        and found.boxes_xyxy.min() >= 0
    )
    assert found.masks_rle is not None and found.masks_rle[0]["size"] == [48, 64]


def test_classes_the_split_lacks_are_dropped(split: CocoSplit, real: OrtSession) -> None:
    more = replace(
        real.manifest, class_names=("boat", "car", "cat", "toothbrush"), category_ids=(9, 3, 17, 90)
    )
    labels = label_map(more, split)
    assert labels.tolist() == [-1, 0, 1, 2]
    # the tiny model's class 0 is now the boat
    found = detect_image(real, split.load_image(0), 100, labels)
    kept = real.run(network_input([split.load_image(0)], (32, 32))).labels[0]
    assert found.labels.tolist() == [label - 1 for label in kept if label > 0]


def test_another_data_set_is_refused(split: CocoSplit, real: OrtSession) -> None:
    renamed = replace(real.manifest, class_names=("car", "dog", "toothbrush"))
    with pytest.raises(InputError, match=r"lacks 1 category of the data \(17 'cat'\)"):
        label_map(renamed, split)


def test_progress_sees_every_image(split: CocoSplit, real: OrtSession) -> None:
    seen: list[int] = []
    detect_split(
        real, split, progress=lambda indices: (seen.append(index) or index for index in indices)
    )
    assert seen == list(range(len(split)))


def test_sides_may_differ(tmp_path: Path, real: OrtSession) -> None:
    """Width and height are not confused anywhere between file and metric."""
    document = random_document(5, side=(40, 96))
    wide = read_split(write_folder(tmp_path, document, "val"), "val")
    document["annotations"] = [entry for entry in document["annotations"] if not entry["iscrowd"]]
    clean = read_split(write_folder(tmp_path / "clean", document, "val"), "val")
    assert accuracy_of(Oracle(clean, real), clean)[0].ap == 1.0
    assert len(detect_split(real, wide)) == len(wide)
