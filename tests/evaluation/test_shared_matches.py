"""Matches of many models at once are those of the evaluator, model by model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_coco import random_detections, random_document, write_folder

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import (
    Objects,
    accuracy_and_matches,
    accuracy_of,
    matches,
    with_interval,
)
from rfdetr_repro.evaluation.shared_matches import SharedMatcher
from rfdetr_repro.spec.errors import InputError


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(("seed", "most"), [(0, 100), (1, 100), (2, 100), (3, 2)])
def test_matches_are_those_of_the_evaluator(
    tmp_path: Path, kind: str, seed: int, most: int
) -> None:
    """Crowds, ties, images without detections or objects, and a limit of two per class."""
    folder = write_folder(tmp_path, random_document(seed, 12, (48, 64)), "val")
    split = read_split(folder, "val")
    evaluator = CocoEvaluator(split, max_dets=most)
    found = {name: random_detections(split, 10 * seed + name) for name in range(5)}
    shared = SharedMatcher(evaluator).matches(found, kind)
    objects = Objects.of(evaluator)
    accepted = 0
    for name, detections in found.items():
        alone = matches(evaluator, detections, kind)
        for column, other in zip(alone.columns(), shared[name].columns(), strict=True):
            assert column.dtype == other.dtype
            np.testing.assert_array_equal(column, other)
        accepted += int((alone.accepted > 0).sum())
        # AP and its interval too, to the last bit
        exact, entries = accuracy_and_matches(evaluator, detections, kind, all_areas_only=True)
        expected = with_interval(exact, entries, objects, resamples=0)
        assert accuracy_of(shared[name], objects, most) == expected and expected.ap_low is not None
    assert accepted > 50


def test_models_of_different_images_are_refused(tmp_path: Path) -> None:
    split = read_split(write_folder(tmp_path, random_document(0, 6), "val"), "val")
    one = random_detections(split, 0)
    other = [replace(one[1], image_id=one[2].image_id), *one[1:]]
    with pytest.raises(InputError, match="different images"):
        SharedMatcher(CocoEvaluator(split)).matches({0: one, 1: other})
    wrong = [replace(one[0], scores=one[0].scores * np.nan), *one[1:]]
    with pytest.raises(InputError, match="not finite"):
        SharedMatcher(CocoEvaluator(split)).matches({0: one, 1: wrong})
    with pytest.raises(InputError, match="unknown kind"):
        SharedMatcher(CocoEvaluator(split)).matches({0: one}, "boxes")
