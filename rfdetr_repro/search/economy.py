"""The saving by sharing: the same configurations are evaluated together and one by one, in one
process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from rfdetr_repro.data.loader import evaluation_batches
from rfdetr_repro.evaluation.coco import CocoEvaluator, ImageDetections
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError, StatedFailure

from .evaluation import by_backbone, shared_detections
from .search import Search

# Largest difference between the shared pass and single passes: float32 rounding, and the effect of
# nearly tied detections on an AP.
AP_GAP = 0.005
SCORE_GAP = 1e-4


def costs_of_sharing(search: Search) -> dict[str, float]:
    """Compares shared and single evaluation of configurations on two backbones of the space, a
    cheap and an expensive one. Raises :class:`StatedFailure` where their results differ.
    """
    groups = sorted(by_backbone(search.space), key=lambda group: group[0].tokens)
    rows = [
        compare_costs(search, groups[index]) for index in (len(groups) // 4, 3 * len(groups) // 4)
    ]
    total = {
        name: sum(row[name] for row in rows)
        for name in ("configurations", "shared_seconds", "single_seconds")
    }
    gaps = {
        name: max(row[name] for row in rows) for name in ("largest_ap_gap", "largest_score_gap")
    }
    if gaps["largest_ap_gap"] > AP_GAP or gaps["largest_score_gap"] > SCORE_GAP:
        detail = (
            f"by {gaps['largest_ap_gap']:.2g} AP and {gaps['largest_score_gap']:.2g} in a score"
        )
        raise StatedFailure(
            f"shared and single evaluation differ {detail}, which is more than rounding explains"
        )
    return {**total, **gaps, "speedup": total["single_seconds"] / total["shared_seconds"]}


def compare_costs(search: Search, archs: Sequence[Arch]) -> dict[str, float]:
    """Seconds for configurations of one backbone, shared and one by one, with the largest
    differences of AP and predictions.

    The shared pass runs three times, between thirds of the single passes, and the median counts, so
    that a slow phase of the machine affects both.
    """
    batch = next(iter(evaluation_batches(search.split, archs[0].input_hw, 8)))
    search.detector.features(batch.images, archs[0].patch, archs[0].windows)  # warm up
    shared_seconds = []
    single_seconds = 0.0
    gap = 0.0
    furthest = 0.0
    for part in (archs[0::3], archs[1::3], archs[2::3]):
        started = time.perf_counter()
        found = shared_detections(search.detector, search.split, archs, masks=search.masks)
        evaluator = CocoEvaluator(search.split)
        shared = {arch: _ap(evaluator, found[arch], search.masks) for arch in archs}
        shared_seconds.append(time.perf_counter() - started)
        for arch in part:
            started = time.perf_counter()
            alone = single_detections(search.detector.slice(arch), search.split, masks=search.masks)
            single = _ap(CocoEvaluator(search.split), alone, search.masks)
            single_seconds += time.perf_counter() - started
            gap = max(gap, abs(shared[arch] - single))
            furthest = max(
                furthest, *(_difference(*pair) for pair in zip(found[arch], alone, strict=True))
            )
    return {
        "configurations": len(archs),
        "shared_seconds": statistics.median(shared_seconds),
        "single_seconds": single_seconds,
        "largest_ap_gap": gap,
        "largest_score_gap": furthest,
    }


def _ap(evaluator: CocoEvaluator, found: list[ImageDetections], masks: bool) -> float:
    if masks:
        evaluator.accuracy(found, "segm", all_areas_only=True)
    ap = evaluator.accuracy(found, "bbox", all_areas_only=True).ap
    if ap is None:  # two unknown values are not equal
        raise InputError(
            "the split has no objects, so accuracies cannot be compared",
            evaluator.split.split,
            "give a split with annotations",
        )
    return ap


def _difference(one: ImageDetections, other: ImageDetections) -> float:
    return float(np.abs(one.scores - other.scores).max(initial=0.0))
