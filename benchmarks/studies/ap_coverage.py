"""How often the 95 % interval of AP holds the true AP, by simulation with a known answer; tables of
docs/ap_intervals.md.

    python -m benchmarks.studies.ap_coverage [--repeats 400] [--resamples 1000] [--case 50x10 ...]

A population of images is a rule, not a list: objects per image and class, how hard an image is, how
a detector scores and places what it finds, and its false finds. The true AP is that of 60,000
images of the rule; the intervals come from the product's own functions on small samples of it. A
second detector sees the same images: its difference to the first is what the paired interval is to
hold; between two detectors of one rule the true difference is 0, and an interval without 0 is a
false verdict.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.evaluation import matches as coco_matches
from rfdetr_repro.evaluation.matches import Matches, Objects, average_precision, with_interval
from rfdetr_repro.records.ap_intervals import difference
from rfdetr_repro.records.record import Accuracy
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import run_main

Array = np.ndarray[Any, Any]
THRESHOLDS = (0, 5)  # IoU 0.5 and 0.75: what the population's finds are accepted at
MANY = 60_000


class Scene(NamedTuple):
    """Images: how hard each is, objects per image and class, and of every object its image, its
    class and how hard it is.
    """

    ease: Array
    count: Array
    image: Array
    label: Array
    object_ease: Array


@dataclass(frozen=True)
class Population:
    """``skill``: of the detector; ``rate``: objects per image; class k has a share proportional to
    1 / (k + 1).
    """

    images: int
    classes: int
    skill: float = 0.0
    other_skill: float = 0.0
    rate: float = 3.0

    def shares(self) -> Array:
        """Share of each class among the objects, float64 (classes,)."""
        weights = 1 / (1 + np.arange(self.classes))
        return weights / weights.sum()

    def scene(self, rng: np.random.Generator, images: int) -> Scene:
        """Draws objects and detections on ``images`` images."""
        ease = rng.normal(size=images)
        crowding = np.exp(0.5 * rng.normal(size=images) - 0.125)
        count = rng.poisson(self.rate * crowding[:, None] * self.shares())
        image = np.repeat(np.repeat(np.arange(images), self.classes), count.ravel())
        label = np.repeat(np.tile(np.arange(self.classes), images), count.ravel())
        return Scene(ease, count, image, label, rng.normal(size=len(image)))

    def detections(self, rng: np.random.Generator, scene: Scene, skill: float) -> Matches:
        """What a detector of this skill finds: ease of image and object are the scene's, the rest
        is its own luck.
        """
        quality = (
            0.9
            + skill
            + 0.7 * scene.ease[scene.image]
            + 0.7 * scene.object_ease
            + 0.6 * rng.normal(size=len(scene.image))
        )
        score = _logistic(quality + 0.8 * rng.normal(size=len(quality)))
        accepted = (quality > 0) * coco_matches._BITS[0] + (quality > 1) * coco_matches._BITS[5]
        found = quality > -0.6
        false = np.repeat(
            np.arange(len(scene.ease)), rng.poisson(1.5 * np.exp(-0.5 * scene.ease - 0.125))
        )
        false_label = rng.choice(self.classes, size=len(false), p=self.shares())
        false_score = _logistic(-0.7 - 0.3 * skill + rng.normal(size=len(false)))
        image = np.concatenate([scene.image[found], false]).astype(np.int32)
        label = np.concatenate([scene.label[found], false_label]).astype(np.int16)
        scores = np.concatenate([score[found], false_score]).astype(np.float32)
        hits = np.concatenate([accepted[found], np.zeros(len(false))]).astype(np.uint16)
        order = np.lexsort((-scores, label, image))
        return Matches(
            image[order], label[order], scores[order], hits[order], np.zeros(len(order), np.uint16)
        )

    def true_aps(self) -> tuple[float, float]:
        """Of the two detectors, on 60,000 images; equal where their skills are."""
        rng = np.random.default_rng(999)
        scene = self.scene(rng, MANY)
        first = _ap(self.detections(rng, scene, self.skill), scene)
        return first, first if self.skill == self.other_skill else _ap(
            self.detections(rng, scene, self.other_skill), scene
        )

    def samples(self, repeats: int, resamples: int) -> Iterator[tuple[Accuracy, Accuracy]]:
        """The two detectors' accuracies on small samples of images, with their intervals."""
        for seed in range(repeats):
            rng = np.random.default_rng((self.images, seed))
            scene = self.scene(rng, self.images)
            pair = []
            for skill in (self.skill, self.other_skill):
                found = self.detections(rng, scene, skill)
                whole = Accuracy(_ap(found, scene))
                pair.append(
                    with_interval(
                        whole, found, Objects(scene.count.astype(np.int32)), resamples, THRESHOLDS
                    )
                )
            yield pair[0], pair[1]


class Coverage(NamedTuple):
    """Shares of the samples; ``width`` and ``bias`` in AP as fractions."""

    single: float  # true AP inside the interval
    paired: float  # true difference inside the paired interval
    # paired intervals without 0: false verdicts where the skills are equal, power where they are
    # not
    told_apart: float
    width: float
    bias: float


def coverage(population: Population, repeats: int, resamples: int) -> Coverage:
    """Coverage and width of the intervals over ``repeats`` simulated data sets."""
    first, second = population.true_aps()
    inside = []
    paired = []
    apart = []
    widths = []
    errors = []
    for one, other in population.samples(repeats, resamples):
        assert one.ap is not None and one.ap_low is not None and one.ap_high is not None
        inside.append(one.ap_low <= first <= one.ap_high)
        widths.append(one.ap_high - one.ap_low)
        errors.append(one.ap - first)
        if resamples:
            change = difference(one, other)
            assert change is not None
            paired.append(change.low <= second - first <= change.high)
            apart.append(change.distinguishable)
    means = [
        float(np.mean(column)) if column else float("nan")
        for column in (inside, paired, apart, widths, errors)
    ]
    return Coverage(*means)


def _ap(found: Matches, scene: Scene) -> float:
    ap = average_precision(found, Objects(scene.count), np.arange(len(scene.ease)), THRESHOLDS)
    assert ap is not None
    return ap


def _logistic(value: Array) -> Array:
    return 1 / (1 + np.exp(-value))


CASES = {
    "30x3": Population(30, 3),
    "40x1 sparse": Population(40, 1, rate=0.8),
    "50x10": Population(50, 10),
    "150x3": Population(150, 3),
    "150x10": Population(150, 10),
    "150x3, other better": Population(150, 3, 0.0, 0.2),
    "100x3 high AP": Population(100, 3, 1.5, 1.5),
    "100x3 low AP": Population(100, 3, -1.0, -1.0),
    "400x3": Population(400, 3),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of coverages."""
    parser = argparse.ArgumentParser(
        description="Coverage of the 95 % interval of AP by simulation."
    )
    parser.add_argument(
        "--repeats", type=whole(1, 10**6), default=400, help="samples of images per case"
    )
    parser.add_argument(
        "--resamples",
        type=whole(0, 10**6),
        default=1000,
        help="of the images; 0: intervals by influences",
    )
    parser.add_argument("--case", choices=tuple(CASES), action="append", help="default all")
    args = parser.parse_args(argv)
    print("| images x classes | true AP | bias | coverage | width | paired coverage | told apart |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in args.case or CASES:
        found = coverage(CASES[name], args.repeats, args.resamples)
        truth = CASES[name].true_aps()[0]
        numbers = (
            f"{100 * truth:.1f} | {100 * found.bias:+.1f} | {100 * found.single:.1f} % | "
            f"{100 * found.width:.1f}"
        )
        print(
            f"| {name} | {numbers} | {100 * found.paired:.1f} % | {100 * found.told_apart:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
