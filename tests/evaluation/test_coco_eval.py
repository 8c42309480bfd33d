"""AP equals pycocotools' exactly, for boxes and masks, with crowds, ties, empty images and absent
classes.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples_coco import random_detections, random_document, write_folder

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections, masks_to_rle
from rfdetr_repro.spec.errors import InputError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_ccby"


def oracle(
    split: CocoSplit, detections: list[ImageDetections], kind: str, max_dets: int = 100
) -> list[float | None]:
    """AP, AP50, AP75, small, medium, large by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    results = []
    for image in detections:
        for row, (x0, y0, x1, y1) in enumerate(image.boxes_xyxy.astype(np.float64).tolist()):
            category_id = split.classes.category_ids[image.labels[row]]
            entry = {
                "image_id": image.image_id,
                "category_id": category_id,
                "score": float(image.scores[row]),
            }
            shape = (
                {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                if kind == "bbox"
                else {"segmentation": image.masks_rle[row]}
            )
            results.append({**entry, **shape})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = json.loads(json.dumps(split.ground_truth()))
        truth.createIndex()
        run = cocoeval.COCOeval(truth, truth.loadRes(results), kind)
        run.params.maxDets = [max_dets]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., -1]  # (thresholds, recalls, classes, areas)
    cuts = [
        precision[..., 0],
        precision[0, ..., 0],
        precision[5, ..., 0],
        *(precision[..., area] for area in (1, 2, 3)),
    ]
    return [float(cut[cut > -1].mean()) if (cut > -1).any() else None for cut in cuts]


def assert_equals_oracle(
    split: CocoSplit, detections: list[ImageDetections], kind: str, max_dets: int = 100
) -> None:
    accuracy = CocoEvaluator(split, max_dets).accuracy(detections, kind)
    assert list(astuple(accuracy)[:6]) == pytest.approx(
        oracle(split, detections, kind, max_dets), abs=1e-12
    )
    assert accuracy.max_dets == max_dets


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_random_detections(tmp_path: Path, kind: str, seed: int) -> None:
    side = (48, 64) if seed % 2 else (120, 150)
    split = read_split(write_folder(tmp_path, random_document(seed, 12, side), "val"), "val")
    assert any(entry["iscrowd"] for entry in split.ground_truth()["annotations"])
    detections = random_detections(split, seed)
    assert_equals_oracle(split, detections, kind)
    assert_equals_oracle(split, detections, kind, max_dets=2)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_pycocotools_on_real_annotations(tmp_path: Path, kind: str) -> None:
    if not REAL.is_dir():
        pytest.skip(f"no real COCO images at {REAL.name}")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_bytes(
        (REAL / "instances.json").read_bytes()
    )
    (tmp_path / "val").symlink_to(REAL / "images", target_is_directory=True)
    split = read_split(tmp_path, "val")
    assert len(split) == 13 and len(split.classes) == 80
    assert_equals_oracle(split, random_detections(split, 1, most=60), kind)


def test_perfect_detections_and_none_at_all(tmp_path: Path) -> None:
    document = random_document(3)
    for entry in document["annotations"]:
        entry["iscrowd"] = 0
    split = read_split(write_folder(tmp_path, document, "val"), "val")
    label_of = {category_id: label for label, category_id in enumerate(split.classes.category_ids)}
    detections = []
    for info in split.images:
        here = [entry for entry in document["annotations"] if entry["image_id"] == info.id]
        boxes = np.array([entry["bbox"] for entry in here], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([label_of[entry["category_id"]] for entry in here], np.int64)
        rles = [entry["segmentation"] for entry in here]
        detections.append(
            ImageDetections(info.id, boxes, np.full(len(here), 0.5, np.float32), labels, rles)
        )
    evaluator = CocoEvaluator(split)
    for kind in ("bbox", "segm"):
        accuracy = evaluator.accuracy(detections, kind, artifact_sha256="ab")
        assert (accuracy.ap, accuracy.ap50, accuracy.ap75) == pytest.approx((1, 1, 1))
        # no object beyond 96 x 96 px: absent, not -1
        assert accuracy.artifact_sha256 == "ab" and accuracy.ap_l is None
        quick = evaluator.accuracy(detections, kind, all_areas_only=True)
        assert quick.ap == accuracy.ap and quick.ap_s is None
        assert evaluator.accuracy([], kind).ap == 0.0
        assert evaluator.accuracy(detections[:2], kind).ap < 1.0  # images without detections count


def test_annotation_id_zero_counts_as_a_match(tmp_path: Path) -> None:
    document = random_document(3)
    document["annotations"] = [{**document["annotations"][0], "id": 0, "iscrowd": 0}]
    split = read_split(write_folder(tmp_path, document, "val"), "val")
    entry = split.ground_truth()["annotations"][0]
    x, y, w, h = entry["bbox"]
    label = split.classes.category_ids.index(entry["category_id"])
    found = ImageDetections(
        entry["image_id"], np.float32([[x, y, x + w, y + h]]), np.float32([0.9]), np.array([label])
    )
    assert CocoEvaluator(split).accuracy([found]).ap == pytest.approx(1.0)


def test_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    split = read_split(write_folder(tmp_path, random_document(0), "val"), "val")
    CocoEvaluator(split).accuracy(random_detections(split, 0), "segm")
    assert capfd.readouterr() == ("", "")


def test_refuses_detections_that_do_not_fit(tmp_path: Path) -> None:
    split = read_split(write_folder(tmp_path, random_document(0), "val"), "val")
    evaluator = CocoEvaluator(split)
    good = random_detections(split, 0, masks=False)[0]
    one = ImageDetections(
        good.image_id, np.float32([[1, 1, 5, 5]]), np.float32([0.5]), np.array([0])
    )
    with pytest.raises(InputError, match="not in the split"):
        evaluator.accuracy([replace(one, image_id=5)])
    with pytest.raises(InputError, match=r"label outside 0\.\.2"):
        evaluator.accuracy([replace(one, labels=np.array([3]))])
    with pytest.raises(InputError, match="not finite"):
        evaluator.accuracy([replace(one, scores=np.float32([np.nan]))])
    with pytest.raises(InputError, match="lack masks"):
        evaluator.accuracy([one], "segm")
    with pytest.raises(InputError, match="kind of evaluation"):
        evaluator.accuracy([one], "keypoints")


@pytest.mark.parametrize(
    "shape", [(6, 20, 20, 80, 80), (3, 10, 13, 33, 47), (2, 40, 40, 20, 17), (2, 5, 5, 2100, 2500)]
)
def test_masks_to_rle_equals_torch_interpolation(shape: tuple[int, ...]) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    count, h, w, height, width = shape
    torch.manual_seed(0)
    logits = torch.nn.functional.avg_pool2d(torch.randn(count, h, w), 3, 1, 1)
    logits[0] = -1.0
    logits[1] = 1.0
    enlarged = torch.nn.functional.interpolate(
        logits[None], size=(height, width), mode="bilinear", align_corners=False
    )[0]
    rles = masks_to_rle(logits, height, width)
    found = mask_api.decode(rles).transpose(2, 0, 1).astype(bool)
    differs = found != (enlarged > 0).numpy()
    assert not (differs & (enlarged.abs() > 1e-5).numpy()).any()
    assert not found[0].any() and found[1].all()
    canonical = [mask_api.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in found]
    assert [rle["counts"] for rle in rles] == [rle["counts"] for rle in canonical]
    assert masks_to_rle(logits[:0], height, width) == []
