"""Matches kept per image: their AP is the evaluator's, whole, in parts and resampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples_coco import random_detections, random_document, write_folder

from rfdetr_repro.coco_eval import CocoEvaluator
from rfdetr_repro.coco_matches import THRESHOLDS, Matches, Objects, average_precision, matches, resampled_ap
from rfdetr_repro.data.coco import CocoSplit, read_split

ALL = range(THRESHOLDS)


def split_of(folder: Path, seed: int) -> CocoSplit:
    return read_split(write_folder(folder, random_document(seed, 12, (48, 64)), "val"), "val")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_ap_of_the_matches_is_the_evaluators(tmp_path: Path, kind: str, seed: int) -> None:
    """Crowds, ties, empty images and absent classes included (see samples_coco)."""
    split = split_of(tmp_path, seed)
    evaluator, found = CocoEvaluator(split), random_detections(split, seed)
    expected = evaluator.accuracy(found, kind, all_areas_only=True)
    whole, objects, images = matches(evaluator, found, kind), Objects.of(evaluator), np.arange(len(split))
    assert average_precision(whole, objects, images, ALL) == pytest.approx(expected.ap, abs=1e-15)
    assert average_precision(whole, objects, images, [0]) == pytest.approx(expected.ap50, abs=1e-15)
    order = np.random.default_rng(seed).permutation(len(found))
    parts = [matches(evaluator, [found[index] for index in part], kind) for part in np.array_split(order, 3)]
    assert all(np.array_equal(*pair) for pair in zip(Matches.join(parts).columns(), whole.columns(), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_is_the_evaluation_of_the_images_drawn(tmp_path: Path, seed: int) -> None:
    """Weights 0 and 1 choose a subset: its area under the envelope lies within 1/101 of the evaluator's 101 samples."""
    split = split_of(tmp_path, seed)
    evaluator, found = CocoEvaluator(split), random_detections(split, seed)
    whole, objects = matches(evaluator, found), Objects.of(evaluator)
    rng = np.random.default_rng(seed)
    weights = (rng.random((5, len(split))) < 0.6).astype(int)
    areas = resampled_ap(whole, objects, weights, ALL)
    for drawn, area in zip(weights, areas, strict=True):
        exact = average_precision(whole, objects, np.flatnonzero(drawn), ALL)
        assert exact is not None and abs(area - exact) < 1 / 101
    doubled = resampled_ap(whole, objects, 2 * weights, ALL)
    assert doubled == pytest.approx(areas, rel=1e-5)  # every image twice changes no ratio


def test_no_detections_and_no_objects(tmp_path: Path) -> None:
    split = split_of(tmp_path, 0)
    evaluator = CocoEvaluator(split)
    nothing, objects = matches(evaluator, []), Objects.of(evaluator)
    assert average_precision(nothing, objects, np.arange(len(split)), ALL) == 0.0
    assert average_precision(nothing, Objects(np.zeros_like(objects.count)), np.arange(len(split)), ALL) is None
    assert resampled_ap(nothing, objects, np.ones((3, len(split)), int), ALL).tolist() == [0.0] * 3
