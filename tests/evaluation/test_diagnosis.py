"""Per-class AP, precision, recall and F1, the best threshold and the confusion matrix, against
pycocotools and against cases with known answers.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_coco import annotation, random_detections, random_document, write_folder

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections
from rfdetr_repro.evaluation.diagnosis import Diagnosis, Threshold, diagnose

KINDS = ["bbox", "segm"]


def split_of(folder: Path, document: dict[str, Any]) -> CocoSplit:
    return read_split(write_folder(folder, document, "val"), "val")


def pycoco(split: CocoSplit, detections: list[ImageDetections], kind: str) -> Any:
    """pycocotools' evaluation, evaluated and accumulated."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    results = []
    for image in detections:
        for row, (x0, y0, x1, y1) in enumerate(image.boxes_xyxy.astype(np.float64).tolist()):
            shape = (
                {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                if kind == "bbox"
                else {"segmentation": image.masks_rle[row]}
            )
            number = split.classes.category_ids[image.labels[row]]
            score = float(image.scores[row])
            results.append(
                {"image_id": image.image_id, "category_id": number, "score": score, **shape}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = json.loads(json.dumps(split.ground_truth()))
        truth.createIndex()
        run = cocoeval.COCOeval(truth, truth.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
    return run


def above(detections: list[ImageDetections], threshold: float) -> list[ImageDetections]:
    kept = []
    for one in detections:
        rows = np.flatnonzero(one.scores >= np.float32(threshold))
        rles = None if one.masks_rle is None else [one.masks_rle[row] for row in rows]
        kept.append(
            ImageDetections(
                one.image_id, one.boxes_xyxy[rows], one.scores[rows], one.labels[rows], rles
            )
        )
    return kept


def counted(run: Any, split: CocoSplit) -> np.ndarray:
    """(right, detections, objects) of each class, counted in pycocotools' matching at IoU 0.5."""
    table = np.zeros((len(split.classes), 3), int)
    place = {number: label for label, number in enumerate(split.classes.category_ids)}
    for entry in run.evalImgs:
        if entry is None or entry["aRng"] != run.params.areaRng[0]:
            continue
        kept = ~np.asarray(entry["dtIgnore"][0], bool)
        right = (np.asarray(entry["dtMatches"][0]) > 0) & kept
        objects = (~np.asarray(entry["gtIgnore"], bool)).sum()
        table[place[entry["category_id"]]] += [right.sum(), kept.sum(), objects]
    return table


def known(value: float) -> float | None:
    return None if np.isnan(value) else value


@pytest.fixture(params=range(4), ids=lambda seed: f"seed{seed}")
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[CocoSplit, list[ImageDetections]]:
    seed = int(request.param)
    document = random_document(seed, 14, (130, 150) if seed % 2 else (48, 64))
    if seed == 3:  # a class whose objects are crowd regions alone
        for entry in document["annotations"]:
            entry["iscrowd"] = int(entry["iscrowd"] or entry["category_id"] == 17)
    split = split_of(tmp_path, document)
    return split, random_detections(split, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_ap_of_classes_and_sizes_and_pr_curves_equal_pycocotools(
    case: tuple[CocoSplit, list[ImageDetections]], kind: str
) -> None:
    split, detections = case
    found = diagnose(CocoEvaluator(split), detections, kind).as_json()
    precision = pycoco(split, detections, kind).eval["precision"][..., -1]

    def mean(values: np.ndarray) -> float | None:
        return float(values[values > -1].mean()) if (values > -1).any() else None

    for label, row in enumerate(found["classes"]):
        assert row["ap"] == pytest.approx(mean(precision[:, :, label, 0]), abs=1e-12)
        assert row["ap50"] == pytest.approx(mean(precision[0, :, label, 0]), abs=1e-12)
        for area, size in enumerate("sml", start=1):
            assert row[f"ap_{size}"] == pytest.approx(mean(precision[:, :, label, area]), abs=1e-12)
        curve = found["pr_curves"]["classes"][label]
        whole = precision[0, :, label, 0]
        assert (curve is None) == bool((whole == -1).all())
        assert curve is None or curve == pytest.approx(whole, abs=1e-6)
    for area, row in enumerate(found["sizes"], start=1):
        assert row["ap"] == pytest.approx(mean(precision[..., area]), abs=1e-12)
        assert (row["ap"] is None) == (row["objects"] == 0)
    assert found["mean"]["ap"] == pytest.approx(mean(precision[..., 0]), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_precision_recall_and_f1_are_those_of_the_detections_above_the_threshold(
    case: tuple[CocoSplit, list[ImageDetections]], kind: str
) -> None:
    """The oracle matches anew what is left above each threshold; the best one is the best of all
    scores.
    """
    split, detections = case
    evaluator = CocoEvaluator(split)
    means = {}
    for score in (0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9):
        found = diagnose(evaluator, detections, kind, Threshold(score)).as_json()
        right, shown, objects = counted(pycoco(split, above(detections, score), kind), split).T
        with np.errstate(invalid="ignore", divide="ignore"):
            present = np.where(objects > 0, 1.0, np.nan)
            expected = {
                "precision": right / shown * present,
                "recall": right / objects * present,
                "f1": 2 * right / (shown + objects) * present,
            }
        for name, values in expected.items():
            got = [row[name] for row in found["classes"]]
            assert got == [pytest.approx(known(value), abs=1e-6) for value in values]
            mean = values[~np.isnan(values)].mean()
            assert found["mean"][name] == pytest.approx(mean, abs=1e-6)
            place = found["score_curves"]["score"].index(score)
            assert found["score_curves"]["mean"][name][place] == pytest.approx(mean, abs=1e-6)
        assert [row["right"] for row in found["classes"]] == right.tolist()
        assert [row["objects"] for row in found["classes"]] == objects.tolist()
        means[score] = found["mean"]["f1"]
    best = diagnose(evaluator, detections, kind).threshold
    assert best.chosen_on == "val" and best.score is not None
    highest = max(means.values())
    chosen = diagnose(evaluator, detections, kind).as_json()
    assert chosen["mean"]["f1"] == pytest.approx(highest, abs=1e-6)
    assert "optimistic" in chosen["threshold"]["says"]


def test_the_best_threshold_of_a_class_is_that_of_all_scores(
    case: tuple[CocoSplit, list[ImageDetections]],
) -> None:
    split, detections = case
    evaluator = CocoEvaluator(split)
    rows = diagnose(evaluator, detections).as_json()["classes"]
    for label, row in enumerate(rows):
        f1 = {
            score: diagnose(evaluator, detections, "bbox", Threshold(score)).as_json()["classes"][
                label
            ]["f1"]
            for score in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
        }
        if row["objects"] == 0 or not max(f1.values()):
            assert row["best_threshold"] is None
            continue
        given = diagnose(evaluator, detections, "bbox", Threshold(row["best_threshold"]))
        assert given.as_json()["classes"][label]["f1"] == max(f1.values())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_of_the_confusion_matrix_add_up(
    case: tuple[CocoSplit, list[ImageDetections]], kind: str
) -> None:
    split, detections = case
    found = diagnose(CocoEvaluator(split), detections, kind, Threshold(0.3))
    right, shown, objects = counted(pycoco(split, above(detections, 0.3), kind), split).T
    matrix = found.confusion
    assert matrix is not None
    assert matrix[:-1].sum(1).tolist() == objects.tolist()
    assert matrix[:, :-1].sum(0).tolist() == shown.tolist()
    assert np.diag(matrix)[:-1].tolist() == right.tolist() and matrix[-1, -1] == 0


def scene(
    folder: Path, objects: list[tuple[int, list[float], bool]], found: list[tuple[int, Any, float]]
) -> tuple[CocoSplit, list[ImageDetections]]:
    """One image of 100 x 100 px with objects (label, xyxy, crowd) and detections (label, xyxy,
    score); masks are the boxes.
    """
    document = random_document(0, 1, (100, 100))
    document["annotations"] = []
    keys = [category["id"] for category in document["categories"]]

    def bitmap(box: list[float]) -> np.ndarray:
        mask = np.zeros((100, 100), bool)
        x0, y0, x1, y1 = map(int, box)
        mask[y0:y1, x0:x1] = True
        return mask

    for number, (label, box, crowd) in enumerate(objects, start=1):
        document["annotations"].append(annotation(number, 100, keys[label], bitmap(box), crowd))
    split = split_of(folder, document)
    rles = [annotation(1, 1, 1, bitmap(box))["segmentation"] for _, box, _ in found]
    labels = np.array([label for label, _, _ in found], np.int64)
    boxes = np.array([box for _, box, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in found], np.float32)
    return split, [ImageDetections(100, boxes, scores, labels, rles)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_whose_confusion_is_known(tmp_path: Path, kind: str) -> None:
    objects = [
        (0, [0, 0, 20, 20], False),  # found
        (0, [30, 0, 50, 20], False),  # taken for class 1, whose box fits better than class 0's
        (1, [60, 0, 80, 20], False),  # found at 0.3 alone, which is below the threshold
        (1, [0, 50, 20, 70], False),  # found, and the detection of class 0 there is left over
        (1, [70, 70, 100, 100], True),  # a crowd
    ]
    detections = [
        (0, [0, 0, 20, 20], 0.9),
        (1, [30, 0, 50, 20], 0.8),
        (1, [60, 0, 80, 20], 0.3),
        (1, [0, 50, 20, 69], 0.6),
        (0, [0, 50, 20, 70], 0.7),
        (1, [75, 75, 95, 95], 0.9),  # in the crowd: not counted
        (2, [40, 40, 60, 60], 0.55),  # on nothing; its class has no object
    ]
    found = diagnose(
        CocoEvaluator(scene(tmp_path, objects, detections)[0]),
        scene(tmp_path, objects, detections)[1],
        kind,
        Threshold(0.5),
    )
    assert found.confusion is not None
    assert found.confusion.tolist() == [
        [1, 1, 0, 0],
        [0, 1, 0, 1],
        [0, 0, 0, 0],
        [1, 0, 1, 0],
    ]
    rows = found.as_json()["classes"]
    assert [(row["precision"], row["recall"]) for row in rows] == [
        (0.5, 0.5),
        (0.5, 0.5),
        (None, None),
    ]
    assert rows[2]["detections"] == 1 and rows[2]["ap"] is None
    (worst,) = found.as_json()["worst"]
    assert (worst["missed"], worst["wrong"]) == (2, 3)
    assert worst["wrong_scores"] == pytest.approx(0.8 + 0.7 + 0.55, abs=1e-6)
    assert found.badness is not None and found.badness[0] == pytest.approx(2 + 2.05, abs=1e-6)


def test_every_left_over_pair_is_that_of_the_best_iou(tmp_path: Path) -> None:
    """Where pairs compete, the sum over random scenes equals a search through all orders by falling
    IoU, written anew.
    """
    rng = np.random.default_rng(5)
    for number in range(20):
        corners = rng.integers(0, 30, (6, 2))
        boxes = np.c_[corners, corners + 40].tolist()
        objects = [(0, box, False) for box in boxes[:3]]
        detections = [(1, box, 0.9) for box in boxes[3:]]
        split, found = scene(tmp_path / str(number), objects, detections)
        matrix = diagnose(CocoEvaluator(split), found, "bbox", Threshold(0.5)).confusion

        def iou(a: list[int], b: list[int]) -> float:
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            inner = max(width, 0) * max(height, 0)
            return inner / (2 * 1600 - inner)

        pairs = sorted(
            (
                (iou(a, b), i, j)
                for (i, a), (j, b) in itertools.product(enumerate(boxes[3:]), enumerate(boxes[:3]))
            ),
            key=lambda pair: -pair[0],
        )
        taken: list[tuple[int, int]] = []
        for value, i, j in pairs:
            if value >= 0.5 and all(i != a and j != b for a, b in taken):
                taken.append((i, j))
        assert matrix is not None and matrix[0, 1] == len(taken)
        assert matrix[0, -1] == matrix[-1, 1] == 3 - len(taken)


@pytest.mark.parametrize("detections", [[], [(0, [60, 60, 90, 90], 0.9)]])
def test_where_nothing_is_found_the_threshold_is_unknown(
    tmp_path: Path, detections: list[Any]
) -> None:
    split, found = scene(tmp_path, [(0, [0, 0, 20, 20], False)], detections)
    content = diagnose(CocoEvaluator(split), found).as_json()
    assert content["threshold"]["score"] is None and content["confusion"] is None
    assert content["mean"]["ap"] == 0.0 and content["mean"]["f1"] is None
    assert content["worst"] == [] and content["classes"][0]["precision"] is None
    assert "No threshold is known" in content["threshold"]["says"]
    given = diagnose(CocoEvaluator(split), found, "bbox", Threshold(0.5)).as_json()
    assert given["classes"][0]["recall"] == 0.0 and given["worst"][0]["missed"] == 1
    assert given["classes"][0]["precision"] == (0.0 if detections else None)


def test_a_split_without_objects_has_unknown_numbers(tmp_path: Path) -> None:
    split, found = scene(tmp_path, [(0, [0, 0, 20, 20], True)], [(0, [0, 0, 20, 20], 0.9)])
    content = diagnose(CocoEvaluator(split), found, "bbox", Threshold(0.5)).as_json()
    assert set(content["mean"].values()) == {None}
    assert content["pr_curves"]["mean"] is None
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_the_threshold_has_few_digits_and_separates_the_same_scores(tmp_path: Path) -> None:
    objects = [(0, [0, 0, 20, 20], False), (0, [30, 0, 50, 20], False)]
    detections = [
        (0, [0, 0, 20, 20], 0.41327),
        (0, [30, 0, 50, 20], 0.41311),
        (0, [60, 60, 90, 90], 0.41302),
    ]
    split, found = scene(tmp_path, objects, detections)
    one: Diagnosis = diagnose(CocoEvaluator(split), found)
    assert one.threshold.score == 0.4131
    assert one.as_json()["mean"] | {"ap": 0, "ap50": 0} == {
        "ap": 0,
        "ap50": 0,
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
    }
