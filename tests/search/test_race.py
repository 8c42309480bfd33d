"""The race on made-up detectors: who stays, what it costs, and that what it returns is the
exhaustive search's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rfdetr_repro.evaluation.matches import THRESHOLDS, Matches, Objects, average_precision
from rfdetr_repro.search.race import (
    Outcome,
    Rules,
    chances_of,
    image_order,
    predictive_weights,
    race,
    resampled,
    spared_backbones,
    stage_ends,
)
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

IMAGES = 240
CLASSES = 4
ALL = range(THRESHOLDS)
OBJECTS = Objects(np.random.default_rng(0).integers(0, 2, (IMAGES, CLASSES)).astype(np.int32))
ARCHS = [Arch(64, 16, 1, depth, queries) for depth in range(4) for queries in (5, 10, 20, 40)]
LATENCY = {arch: 1.0 + arch.decoder_layers + arch.queries / 40 for arch in ARCHS}


def detections(quality: float, seed: int) -> Matches:
    """One detection per object, right with probability ``quality`` at every threshold, and ranked a
    little better if right.
    """
    rng = np.random.default_rng(seed)
    image, label = np.nonzero(OBJECTS.count)
    right = rng.random(len(image)) < quality
    score = rng.random(len(image)) + 0.3 * right
    accepted = np.where(right, (1 << THRESHOLDS) - 1, 0).astype(np.uint16)
    return Matches(
        image.astype(np.int32),
        label.astype(np.int16),
        score.astype(np.float32),
        accepted,
        np.zeros_like(accepted),
    )


def quality(arch: Arch) -> float:
    """Depth pays, and so do queries up to 20."""
    return 0.3 + 0.12 * arch.decoder_layers + 0.06 * np.log2(min(arch.queries, 20) / 5)


FOUND = {arch: detections(quality(arch), seed=number) for number, arch in enumerate(ARCHS)}
EXACT = {arch: average_precision(FOUND[arch], OBJECTS, np.arange(IMAGES), ALL) for arch in ARCHS}


def evaluate(archs: Sequence[Arch], places: Sequence[int]) -> dict[Arch, Matches]:
    return {
        arch: Matches(
            *(column[np.isin(FOUND[arch].image, places)] for column in FOUND[arch].columns())
        )
        for arch in archs
    }


def run(**rules: float) -> Outcome:
    return race(LATENCY, OBJECTS, evaluate, ALL, Rules(**rules))  # type: ignore[arg-type]


def hypervolume(points: dict[Arch, float]) -> float:
    """Area under the best AP so far, up to 10 % beyond the slowest of all."""
    end = 1.1 * max(LATENCY.values())
    area = 0.0
    best = 0.0
    ordered = sorted(points, key=lambda arch: LATENCY[arch])
    for arch, after in zip(ordered, [*(LATENCY[arch] for arch in ordered[1:]), end], strict=True):
        best = max(best, points[arch])
        area += best * (after - LATENCY[arch])
    return area


def test_survivors_have_the_exhaustive_accuracy_and_nearly_its_frontier() -> None:
    """Ten of the sixteen are on the frontier, most of them close to another: little can be left
    out, and little is lost.
    """
    found = []
    spent = []
    for seed in range(6):
        outcome = run(seed=seed)
        assert outcome.accuracy == {arch: EXACT[arch] for arch in outcome.accuracy}
        # one backbone: it is needed as long as any configuration is
        assert outcome.backbone_passes() == IMAGES
        left = [key for stage in outcome.stages for key in stage.left]
        assert len(left) == len(set(left)) and outcome.stages[-1].images == IMAGES
        found.append(hypervolume(outcome.accuracy) / hypervolume(EXACT))
        spent.append(outcome.evaluations() / (len(ARCHS) * IMAGES))
    assert np.mean(found) >= 0.993 and min(found) >= 0.98 and max(found) <= 1.0 + 1e-9
    assert np.mean(spent) <= 0.85


def test_full_confidence_loses_nobody() -> None:
    outcome = run(confidence=0.999999, margin=0.0, resamples=50)
    front = []
    best = -1.0
    for arch in sorted(ARCHS, key=lambda arch: LATENCY[arch]):
        if EXACT[arch] > best:
            front.append(arch)
            best = EXACT[arch]
    assert set(front) <= set(outcome.accuracy)


def test_each_image_is_evaluated_once() -> None:
    seen: dict[Arch, list[int]] = {arch: [] for arch in ARCHS}

    def counted(archs: Sequence[Arch], places: Sequence[int]) -> dict[Arch, Matches]:
        for arch in archs:
            seen[arch] += places
        return evaluate(archs, places)

    outcome = race(LATENCY, OBJECTS, counted, ALL, Rules())
    assert all(len(places) == len(set(places)) for places in seen.values())
    assert all(sorted(seen[arch]) == list(range(IMAGES)) for arch in outcome.accuracy)
    assert sum(map(len, seen.values())) == outcome.evaluations()
    assert outcome.decision_s > 0 and outcome.evaluation_s > 0 and "decisions" in outcome.took()


def test_the_chance_is_certain_once_all_images_are_seen() -> None:
    weights = predictive_weights(range(IMAGES), IMAGES, Rules())
    assert (weights == 1).all()
    slow = detections(0.5, 1)
    fast = detections(0.6, 2)
    # the second and equal is no better
    pairs = [([fast, slow], [1.0, 0.0]), ([slow, fast], [1.0, 1.0]), ([slow, slow], [1.0, 0.0])]
    for pair, expected in pairs:
        ap = resampled(pair, OBJECTS, range(IMAGES), ALL, Rules())
        assert chances_of(ap, Rules()) == expected


def area(ap: dict[Arch, float], end: float) -> float:
    """Area below the best AP so far, step by step."""
    total = 0.0
    for arch in ap:
        slower = [LATENCIES[other] for other in ap if LATENCIES[other] > LATENCIES[arch]]
        best = max(ap[other] for other in ap if LATENCIES[other] <= LATENCIES[arch])
        total += best * (min([*slower, end]) - LATENCIES[arch])
    return total


SEVERAL = [Arch(side, 16, 1, depth, 10) for side in (64, 96, 128, 160) for depth in (0, 1)]
LATENCIES = {arch: arch.input_hw[0] / 32 + 0.9 * arch.decoder_layers for arch in SEVERAL}


def test_dropped_backbones_cost_no_more_than_is_allowed() -> None:
    rng = np.random.default_rng(4)
    end = 1.05 * max(LATENCIES.values())
    quality = np.array([0.2, 0.25, 0.251, 0.26, 0.4, 0.41, 0.412, 0.42])[:, None]
    ap = quality + 0.01 * rng.random((8, 100))
    latency = dict(sorted(LATENCIES.items(), key=lambda pair: pair[1]))
    ap = ap[[SEVERAL.index(arch) for arch in latency]]
    for allowed in (0.0, 0.01, 0.05, 0.5):
        spared = spared_backbones(latency, ap, end, allowed, Rules())
        cost = {arch.backbone: lost for arch, lost in spared.items()}
        assert sum(cost.values()) <= allowed and len(cost) < 4
        # a backbone goes whole
        assert all((arch in spared) == (arch.backbone in cost) for arch in SEVERAL)
        lost = []
        for column in ap.T:
            of_all = dict(zip(latency, column, strict=True))
            rest = {arch: value for arch, value in of_all.items() if arch not in spared}
            lost.append((area(of_all, end) - area(rest, end)) / area(of_all, end))
        assert np.mean(lost) <= allowed + 1e-12
    # the backbone of 96 px gains nothing over that of 64 px, and that of 160 px little
    assert {arch.input_hw[0] for arch in spared_backbones(latency, ap, end, 0.05, Rules())} >= {96}
    assert not spared_backbones(latency, 0 * ap, end, 0.5, Rules())


def test_a_race_of_several_backbones_pays_less_and_loses_little() -> None:
    """Two of four backbones are much alike; the race without the rule keeps paying for both."""
    quality = {64: 0.3, 96: 0.305, 128: 0.6, 160: 0.605}
    found = {
        arch: detections(quality[arch.input_hw[0]] + 0.02 * arch.decoder_layers, seed=number)
        for number, arch in enumerate(SEVERAL)
    }
    exact = {
        arch: average_precision(one, OBJECTS, np.arange(IMAGES), ALL) or 0.0
        for arch, one in found.items()
    }

    def of_images(archs: Sequence[Arch], places: Sequence[int]) -> dict[Arch, Matches]:
        return {
            arch: Matches(*(c[np.isin(found[arch].image, places)] for c in found[arch].columns()))
            for arch in archs
        }

    end = 1.05 * max(LATENCIES.values())
    passes = {}
    for loss in (0.0, 0.02):
        outcomes = [
            race(LATENCIES, OBJECTS, of_images, ALL, Rules(loss=loss, margin=0.0, seed=seed))
            for seed in range(4)
        ]
        passes[loss] = sum(one.backbone_passes() for one in outcomes)
        for outcome in outcomes:
            assert outcome.accuracy == {arch: exact[arch] for arch in outcome.accuracy}
            if loss:
                assert area(outcome.accuracy, end) >= (1 - 2 * loss) * area(exact, end)
            else:
                assert not any(stage.spared for stage in outcome.stages)
    assert passes[0.02] < 0.9 * passes[0.0]


def test_a_prediction_covers_the_whole_split() -> None:
    """In 90 of 100 draws of the images seen, AP on all images lies within the central 90 % of the
    predictions, or nearly.
    """
    from rfdetr_repro.evaluation.matches import resampled_ap

    found = detections(0.5, 3)
    exact = 0.0
    inside = 0
    exact = resampled_ap(found, OBJECTS, np.ones((1, IMAGES), int), ALL)[0]
    for seed in range(100):
        seen = image_order(OBJECTS, seed)[:60]
        weights = predictive_weights(seen, IMAGES, Rules(resamples=100, seed=seed))
        assert (weights.sum(1) == IMAGES).all() and (weights[:, seen] >= 1).all()
        low, high = np.percentile(resampled_ap(found, OBJECTS, weights, ALL), [5, 95])
        inside += low <= exact <= high
    assert 75 <= inside <= 100


def test_every_beginning_shows_all_classes() -> None:
    rare = OBJECTS.count.copy()
    rare[:, 0] = 0
    rare[::40, 0] = 1
    rare[5] = 0  # an image without objects
    order = image_order(Objects(rare), 0)
    assert sorted(order) == list(range(IMAGES)) and order != image_order(Objects(rare), 1)
    share = rare[order[:48]].sum(0) / rare.sum(0)
    assert (share > 0.1).all() and share[0] <= 0.5


def test_stages_grow_to_the_end() -> None:
    assert list(stage_ends(150, Rules(first=0.1, fewest=1, growth=2))) == [15, 30, 60, 150]
    assert list(stage_ends(3, Rules(first=0.1, fewest=1))) == [1, 2, 3] and list(
        stage_ends(1, Rules())
    ) == [1]
    assert (
        list(stage_ends(600, Rules(growth=2)))[:2] == [30, 60]
        and next(stage_ends(50, Rules())) == 30
    )
    assert list(stage_ends(100, Rules(first=1.0))) == [100]


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0},
        {"first": 1.5},
        {"growth": 1},
        {"confidence": 1},
        {"margin": -1},
        {"resamples": 3},
        {"fewest": 0},
        {"loss": 1.0},
        {"loss": -0.1},
    ],
)
def test_rules_that_make_no_race(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="are impossible"):
        Rules(**wrong)  # type: ignore[arg-type]
