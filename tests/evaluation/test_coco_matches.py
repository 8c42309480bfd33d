"""Matches kept per image: their AP is the evaluator's, whole, in parts and resampled."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_coco import random_detections, random_document, write_folder

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections, images_by_id
from rfdetr_repro.evaluation.matches import (
    THRESHOLDS,
    Matches,
    Objects,
    Resamples,
    accuracy_and_matches,
    average_precision,
    matches,
    resampled_ap,
)
from rfdetr_repro.spec.errors import InputError

ALL = range(THRESHOLDS)


def split_of(folder: Path, seed: int) -> CocoSplit:
    return read_split(write_folder(folder, random_document(seed, 12, (48, 64)), "val"), "val")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_ap_of_the_matches_is_the_evaluators(tmp_path: Path, kind: str, seed: int) -> None:
    """Crowds, ties, empty images and absent classes included (see samples_coco)."""
    split = split_of(tmp_path, seed)
    evaluator = CocoEvaluator(split)
    found = random_detections(split, seed)
    expected = evaluator.accuracy(found, kind, all_areas_only=True)
    whole = matches(evaluator, found, kind)
    objects = Objects.of(evaluator)
    images = np.arange(len(split))
    assert average_precision(whole, objects, images, ALL) == pytest.approx(expected.ap, abs=1e-15)
    assert average_precision(whole, objects, images, [0]) == pytest.approx(expected.ap50, abs=1e-15)
    order = np.random.default_rng(seed).permutation(len(found))
    parts = [
        matches(evaluator, [found[index] for index in part], kind)
        for part in np.array_split(order, 3)
    ]
    assert all(
        np.array_equal(*pair)
        for pair in zip(Matches.join(parts).columns(), whole.columns(), strict=True)
    )


def pycocotools_ap(
    split: CocoSplit, found: list[ImageDetections], drawn: list[int], kind: str = "bbox"
) -> float:
    """AP of a data set in which image number i of ``split``, by id, stands ``drawn[i]`` times: by
    pycocotools, written out.
    """
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    images = []
    annotations = []
    results = []
    of_image = {one.image_id: one for one in found}
    for place, index in enumerate(images_by_id(split)):
        info = split.images[index]
        for _ in range(drawn[place]):
            images.append({"id": len(images) + 1, "width": info.width, "height": info.height})
            here = [
                entry
                for entry in split.ground_truth()["annotations"]
                if entry["image_id"] == info.id
            ]
            annotations += [
                {**entry, "id": len(annotations) + n, "image_id": len(images)}
                for n, entry in enumerate(here, 1)
            ]
            one = of_image.get(info.id)
            for row in range(0 if one is None else len(one.scores)):
                x0, y0, x1, y1 = one.boxes_xyxy[row].astype(float)
                label = split.classes.category_ids[one.labels[row]]
                result = {
                    "image_id": len(images),
                    "category_id": label,
                    "score": float(one.scores[row]),
                }
                results.append({**result, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    truth = coco.COCO()
    categories = [{"id": number, "name": str(number)} for number in split.classes.category_ids]
    truth.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": categories,
        "info": {},
    }
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = cocoeval.COCOeval(truth, truth.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
    values = run.eval["precision"][:, :, :, 0, -1]
    return float(values[values > -1].mean())


def untied(found: list[ImageDetections], seed: int) -> list[ImageDetections]:
    """The same detections with scores that differ: repeats of an image would rank equal ones of its
    class otherwise.
    """
    rng = np.random.default_rng(seed)
    return [replace(one, scores=rng.random(len(one.scores)).astype(np.float32)) for one in found]


@pytest.mark.parametrize("seed", range(6))
def test_a_resample_is_pycocotools_evaluation_of_the_images_drawn(
    tmp_path: Path, seed: int
) -> None:
    """Every image as often as it was drawn, with crowds, images without objects or detections and
    classes that are not drawn.
    """
    split = split_of(tmp_path, seed)
    evaluator = CocoEvaluator(split)
    found = untied(random_detections(split, seed, most=30), seed)
    whole = matches(evaluator, found)
    objects = Objects.of(evaluator)
    assert (whole.ignored > 0).any() or seed
    weights = np.random.default_rng(seed).multinomial(
        len(split), np.full(len(split), 1 / len(split)), 4
    )
    weights[0] = 1
    expected = [pycocotools_ap(split, found, drawn) for drawn in weights.tolist()]
    assert resampled_ap(whole, objects, weights, ALL) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_a_subset_of_the_images_has_its_own_average_precision(
    tmp_path: Path, kind: str, seed: int
) -> None:
    """Weights 0 and 1, equal scores and some thresholds alone included; every image twice changes
    nothing.
    """
    split = split_of(tmp_path, seed)
    evaluator = CocoEvaluator(split)
    whole = matches(evaluator, random_detections(split, seed), kind)
    objects = Objects.of(evaluator)
    weights = (np.random.default_rng(seed).random((5, len(split))) < 0.6).astype(int)
    for thresholds in (ALL, [0], [5, 9]):
        exact = [
            average_precision(whole, objects, np.flatnonzero(drawn), thresholds)
            for drawn in weights
        ]
        found = resampled_ap(whole, objects, weights, thresholds)
        assert found == pytest.approx(exact, abs=1e-6)
        assert resampled_ap(whole, objects, 2 * weights, thresholds) == pytest.approx(
            found, abs=1e-6
        )


def test_many_objects_reach_the_recall_levels_that_the_evaluator_counts(tmp_path: Path) -> None:
    """Some levels are doubles above their hundredth, such as 35 * 0.01: 35 of 100 objects do not
    reach that one in COCO.
    """
    for total in (7, 20, 40, 100, 200):
        number = np.arange(total, dtype=np.int32)
        hit = np.where(number % 3 == 0, 1, 0).astype(np.uint16)
        score = np.linspace(1, 0, total).astype(np.float32)
        found = Matches(number, np.zeros(total, np.int16), score, hit, np.zeros_like(hit))
        objects = Objects(np.ones((total, 1), np.int32))
        weights = np.ones((1, total), int)
        exact = average_precision(found, objects, number, [0])
        assert resampled_ap(found, objects, weights, [0]) == pytest.approx([exact], abs=1e-6)


def test_equal_resamples_are_one(tmp_path: Path) -> None:
    split = split_of(tmp_path, 1)
    evaluator = CocoEvaluator(split)
    whole = matches(evaluator, random_detections(split, 1))
    objects = Objects.of(evaluator)
    resamples = Resamples.of(objects, np.ones((50, len(split)), int))
    assert resamples.weights.shape == (len(split), 1)
    exact = average_precision(whole, objects, np.arange(len(split)), ALL)
    assert resamples.average_precision(whole, ALL) == pytest.approx([exact] * 50, abs=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        np.ones(12, int),
        np.ones((2, 11), int),
        np.full((2, 12), 0.5),
        np.full((2, 12), -1),
        np.ones((0, 12), int),
    ],
)
def test_weights_that_are_no_resamples(weights: np.ndarray) -> None:
    with pytest.raises(InputError, match="resamples of"):
        Resamples.of(Objects(np.ones((12, 3), np.int32)), weights)


def test_more_than_a_float_counts_is_refused() -> None:
    one = np.zeros(1, np.int32)
    found = Matches(
        one,
        one.astype(np.int16),
        np.ones(1, np.float32),
        np.ones(1, np.uint16),
        np.zeros(1, np.uint16),
    )
    with pytest.raises(InputError, match="too many detections"):
        resampled_ap(found, Objects(np.ones((1, 1), np.int32)), np.full((1, 1), 1 << 24), [0])


def test_no_detections_and_no_objects(tmp_path: Path) -> None:
    split = split_of(tmp_path, 0)
    evaluator = CocoEvaluator(split)
    nothing = matches(evaluator, [])
    objects = Objects.of(evaluator)
    assert average_precision(nothing, objects, np.arange(len(split)), ALL) == 0.0
    assert (
        average_precision(
            nothing, Objects(np.zeros_like(objects.count)), np.arange(len(split)), ALL
        )
        is None
    )
    assert resampled_ap(nothing, objects, np.ones((3, len(split)), int), ALL).tolist() == [0.0] * 3


@pytest.mark.parametrize("areas", [True, False], ids=["all areas only", "every area"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_one_matching_gives_both_accuracy_and_matches(
    tmp_path: Path, seed: int, kind: str, areas: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits as two: crowds, ties, empty images, images without detections included."""
    split = split_of(tmp_path, seed)
    evaluator = CocoEvaluator(split)
    found = random_detections(split, seed)
    given = found[1:]  # one image without an entry
    expected = evaluator.accuracy(given, kind, areas), matches(evaluator, given, kind)
    runs = []
    plain = CocoEvaluator._run
    monkeypatch.setattr(
        CocoEvaluator, "_run", lambda *rest: runs.append(Counted(plain(*rest))) or runs[-1]
    )
    accuracy, same = accuracy_and_matches(evaluator, given, kind, areas)
    assert [run.evaluations for run in runs] == [1]
    assert accuracy == expected[0]
    for one, other in zip(same.columns(), expected[1].columns(), strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


class Counted:
    """A run of the evaluator's library that counts how often it matches."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.evaluations = 0

    def evaluate(self) -> None:
        self.evaluations += 1
        self.run.evaluate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)
