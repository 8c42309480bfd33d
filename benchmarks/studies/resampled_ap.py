"""What the compiled resampled AP saves against NumPy: the same resamples of the same matches.

    python -m benchmarks.studies.resampled_ap [--rounds 7]

NumPy computes the area below the envelope of precision for all resamples of a class and threshold
at once, as this project did before its compiled module, which counts COCO's 101 recall levels
instead; the two differ by less than 1/101 of an AP. Matches: those of an architecture of the
benchmark of architecture search on 150 images, and made-up matches with the statistics of COCO on
200 images. CPU times of one thread, taken in turns; printed are the median of the rounds' ratios
and the exact interval of that median, of at least 95 % from six rounds on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.studies.search_parts import COCO_CLASSES, interval
from rfdetr_repro.evaluation.matches import THRESHOLDS, Matches, Objects, Resamples
from rfdetr_repro.nasbench.bench import NasBench
from rfdetr_repro.search.nasbench_methods import matches_on
from rfdetr_repro.search.plan import made_up_matches
from rfdetr_repro.search.race import Rules, predictive_weights
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.presets import PAPER_SPACE

Array = np.ndarray[Any, Any]
ARCH = "r160-p16-w1-d2-q25"
COCO_IMAGES = 200


def in_numpy(found: Matches, objects: Objects, weights: Array) -> Array:
    """AP of each resample, float64 (B,), by the area below the envelope of precision."""
    drawn = np.asarray(weights.any(axis=0))[found.image]
    total = weights @ objects.count
    area = np.zeros((len(weights), total.shape[1]))
    times = weights.astype(np.float32)
    for label in np.flatnonzero(total.any(axis=0)):
        rows = np.flatnonzero(drawn & (found.label == label))
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        of_image = times[:, found.image[rows]]
        for threshold in range(THRESHOLDS if len(rows) else 0):
            bit = np.uint16(1 << threshold)
            counted = (found.ignored[rows] & bit) == 0
            hit = ((found.accepted[rows] & bit) != 0) & counted
            gained = of_image * hit
            true = np.cumsum(gained, axis=1)
            seen = true + np.cumsum(of_image * (counted & ~hit), axis=1)
            ratio = true / np.maximum(seen, 1e-9)
            envelope = np.maximum.accumulate(ratio[:, ::-1], axis=1)[:, ::-1]
            area[:, label] += (gained * envelope).sum(1)
    there = total > 0
    per_class = np.where(there, area / np.maximum(total, 1) / THRESHOLDS, 0.0)
    return per_class.sum(1) / np.maximum(there.sum(1), 1)


def cases() -> Iterator[tuple[str, Matches, Objects]]:
    """Names, matches and objects."""
    bench = NasBench.load()
    part = bench.part()
    found = matches_on(bench, bench.archs[bench.place(ARCH)], 0, range(part.images))
    yield f"{ARCH}, {part.images} images", found, Objects(part.objects)
    made_up = made_up_matches(COCO_IMAGES, max(PAPER_SPACE.queries), COCO_CLASSES)
    yield f"statistics of COCO, {COCO_IMAGES} images", *made_up


def cpu_s(work: Callable[[], object]) -> float:
    """CPU time in s of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compared(name: str, found: Matches, objects: Objects, rounds: int) -> str:
    """The line to print for a case."""
    images = len(objects.count)
    weights = predictive_weights(range(images // 2), images, Rules())
    former = partial(in_numpy, found, objects, weights)
    resamples = Resamples.of(objects, weights)
    compiled = partial(resamples.average_precision, found, range(THRESHOLDS))
    apart = float(np.abs(former() - compiled()).max())
    ratios = sorted(cpu_s(former) / cpu_s(compiled) for _ in range(rounds))
    low, high = interval(ratios)
    spread = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return (
        f"{name}, {len(weights)} resamples: {np.median(ratios):.1f} times less CPU time{spread}; "
        f"AP differs by at most {apart:.4f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser("benchmarks.studies.resampled_ap", description=__doc__)
    parser.add_argument("--rounds", type=whole(2, 1000), default=7)
    args = parser.parse_args(argv)
    for name, found, objects in cases():
        print(compared(name, found, objects, args.rounds), flush=True)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
