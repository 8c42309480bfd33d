"""Intervals of AP: what SciPy says of the same draws, coverage by simulation with a known answer,
and what stays unknown.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from samples_coco import random_detections, random_document, write_folder

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import Objects, influences, matches, measured, with_interval
from rfdetr_repro.records import ap_intervals
from rfdetr_repro.records.ap_intervals import (
    bootstrap_interval,
    decode,
    degrees_of_freedom,
    difference,
    encode,
    influence_interval,
    mean_interval,
    of_equal_images,
    paired,
    with_range,
)
from rfdetr_repro.records.record import Accuracy, DataId, ModelId, Record

ROOT = Path(__file__).resolve().parents[2]


def simulation():
    spec = importlib.util.spec_from_file_location(
        "ap_coverage", ROOT / "benchmarks" / "studies" / "ap_coverage.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["ap_coverage"] = module
    spec.loader.exec_module(module)
    return module


def test_quantiles_are_scipys_bca(monkeypatch):
    """Of a mean, whose influences are known, with the plain normal's quantiles; SciPy's own
    draws.
    """
    values = np.random.default_rng(0).exponential(0.2, 40)
    result = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(1)
    )
    monkeypatch.setattr(
        ap_intervals, "student_levels", lambda freedom: scipy.stats.norm.ppf([0.025, 0.975])
    )
    mean = float(values.mean())
    found = bootstrap_interval(mean, result.bootstrap_distribution, (values - mean) / len(values))
    assert found == pytest.approx(tuple(result.confidence_interval), abs=2e-4)


def test_students_quantiles_are_scipys_and_widen_the_interval():
    assert ap_intervals.student_levels(7.5) == pytest.approx(scipy.stats.t.ppf([0.025, 0.975], 7.5))
    assert degrees_of_freedom(np.array([1.0, -1.0] * 50)) == pytest.approx(100)
    assert degrees_of_freedom(np.array([1.0] + [0.0] * 99)) == 4.0
    assert degrees_of_freedom(np.zeros(9)) == 4.0


def area_ap(found, objects, weights):
    """Area under the precision envelope, mean over classes and IoU thresholds, where images weigh
    differently: loops alone.
    """
    total = weights @ objects.count
    areas = []
    for label in np.flatnonzero(total):
        rows = [row for row in np.argsort(-found.score, kind="stable") if found.label[row] == label]
        for threshold in range(10):
            bit = 1 << threshold
            hits = 0.0
            seen = 0.0
            curve = []
            for row in rows:
                if found.ignored[row] & bit:
                    continue
                weight = weights[found.image[row]]
                hit = weight * bool(found.accepted[row] & bit)
                hits, seen = hits + hit, seen + weight
                curve.append((hit, hits / seen))
            best = 0.0
            area = 0.0
            for hit, precision in reversed(curve):
                best = max(best, precision)
                area += hit * best
            areas.append(area / total[label])
    return float(np.mean(areas))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_influences_are_the_derivative_of_ap_by_an_images_weight(tmp_path, kind, seed):
    """Between the one-sided ones where two precisions are equal."""
    split = read_split(write_folder(tmp_path, random_document(seed, 12, (48, 64)), "val"), "val")
    evaluator = CocoEvaluator(split)
    found = matches(evaluator, random_detections(split, seed), kind)
    objects = Objects.of(evaluator)
    moved = influences(found, objects)
    step = 1e-4
    whole = area_ap(found, objects, np.ones(len(split)))
    for image in range(len(split)):
        at = np.eye(len(split))[image] * step
        up = (area_ap(found, objects, 1 + at) - whole) / step
        down = (whole - area_ap(found, objects, 1 - at)) / step
        assert min(up, down) - 1e-4 <= moved[image] <= max(up, down) + 1e-4
    assert moved.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("case", ["30x3", "150x10"])
def test_intervals_hold_the_true_ap_of_a_known_population(case):
    """Fixed seeds, 200 samples: the standard error of a coverage of 95 % is 1.5 %.

    More samples: docs/ap_intervals.md.
    """
    module = simulation()
    found = module.coverage(module.CASES[case], repeats=200, resamples=200)
    assert (
        0.91 <= found.single <= 0.99 and 0.91 <= found.paired <= 0.99 and found.told_apart <= 0.08
    )
    assert 0.91 <= module.coverage(module.CASES[case], repeats=200, resamples=0).single <= 0.99


def test_a_better_detector_is_told_apart_and_an_equal_one_is_not():
    module = simulation()
    population = module.Population(150, 3, 0.0, 0.6)
    changes = [difference(one, other) for one, other in population.samples(20, 200)]
    assert sum(change.distinguishable and change.low > 0 for change in changes) >= 19
    one, _ = next(population.samples(1, 200))
    assert (
        difference(one, one) == ap_intervals.Difference(0.0, 0.0, 0.0)
        and not difference(one, one).distinguishable
    )


def test_the_paired_interval_is_narrower_than_the_two_are_apart():
    one, other = next(simulation().Population(150, 3, 0.0, 0.2).samples(1, 400))
    change = difference(one, other)
    assert change.high - change.low < 0.8 * (
        (one.ap_high - one.ap_low) + (other.ap_high - other.ap_low)
    )


def test_intervals_are_the_same_again_and_survive_a_record(tmp_path):
    split = read_split(write_folder(tmp_path, random_document(3, 12, (48, 64)), "val"), "val")
    evaluator = CocoEvaluator(split)
    found = random_detections(split, 3)
    one = measured(evaluator, found, "bbox", "ab" * 32)
    assert one == measured(evaluator, list(reversed(found)), "bbox", "ab" * 32)
    assert (
        0 <= one.ap_low <= one.ap <= one.ap_high <= 1
        and one.resampled.resamples == 1000
        and one.resampled.images == 12
    )
    assert dataclasses.replace(
        one, ap_low=None, ap_high=None, resampled=None, detections=None
    ) == evaluator.accuracy(found, artifact_sha256="ab" * 32)
    record = Record("search", ModelId("rfdetr", "x"), accuracy=one)
    assert Record.from_json(record.to_json()).accuracy == one and len(record.to_json()) < 6000
    assert "aps" not in repr(one)
    assert decode(one.resampled.aps).mean() == pytest.approx(one.ap, abs=0.1)


def test_what_cannot_be_known_stays_unknown(tmp_path):
    split = read_split(write_folder(tmp_path, random_document(0, 9, (48, 64)), "val"), "val")
    evaluator = CocoEvaluator(split)
    few = measured(evaluator, random_detections(split, 0))
    assert few.ap is not None and few.ap_low is few.ap_high is few.resampled is None  # 9 images
    one, other = next(simulation().Population(30, 3).samples(1, 100))
    old = Accuracy(one.ap)
    assert (
        difference(old, one)
        is difference(one, old)
        is difference(None, one)
        is difference(one, Accuracy())
        is None
    )
    again = dataclasses.replace(
        other, resampled=dataclasses.replace(other.resampled, draws_sha256="other draws")
    )
    assert difference(one, again) is None
    without = dataclasses.replace(other, resampled=dataclasses.replace(other.resampled, aps=None))
    assert difference(one, without) is None


def test_records_are_paired_on_the_same_images_only():
    one, other = next(simulation().Population(30, 3).samples(1, 100))

    def record(accuracy, split="val", sha="a" * 64):
        return Record(
            "search", ModelId("rfdetr", "x"), DataId("set", split, sha, 30), accuracy=accuracy
        )

    assert paired(record(one), record(other)) == difference(one, other)
    assert (
        paired(record(one), record(other, sha="b" * 64)) is None
        and paired(record(one), record(other, sha=None)) is None
    )
    assert paired(record(one, sha=None), record(other, sha=None)) is None
    assert (
        paired(record(one), record(other, "test")) is None
        and paired(record(one), record(other), masks=True) is None
    )


@pytest.mark.parametrize("ap", [0.0, 1.0])
def test_images_that_all_agree_leave_room_for_others(ap):
    """Clopper and Pearson: SciPy's exact interval of 0 of 20."""
    low, high = bootstrap_interval(ap, np.full(100, ap), np.zeros(20))
    exact = scipy.stats.binomtest(0, 20).proportion_ci(0.95, "exact")
    assert (low, high) == of_equal_images(ap, 20) == influence_interval(ap, np.zeros(20))
    assert high - low == pytest.approx(exact.high, abs=1e-9) and low <= ap <= high


def test_the_mean_over_data_sets_combines_their_intervals():
    """Normal samples: the half widths add by squares."""
    parts = [Accuracy(ap, ap_low=ap - 0.03, ap_high=ap + 0.04) for ap in (0.2, 0.4, 0.6, 0.8)]
    assert mean_interval(parts) == pytest.approx((0.5 - 0.03 / 2, 0.5 + 0.04 / 2))
    assert mean_interval([*parts, Accuracy(0.3)]) is None and mean_interval([]) is None


def test_stored_aps_are_exact_to_a_thousandth_of_a_point():
    aps = np.random.default_rng(0).random(1000)
    assert decode(encode(aps)) == pytest.approx(aps, abs=1e-5)


@pytest.mark.parametrize(
    ("accuracy", "text"),
    [
        (Accuracy(0.509, ap_low=0.481, ap_high=0.535), "50.9 [48.1, 53.5]"),
        (Accuracy(0.509), "50.9"),
        (Accuracy(), "-"),
    ],
)
def test_printed_ranges(accuracy, text):
    assert with_range(accuracy) == text


def test_without_ground_truth_there_is_no_interval():
    objects = Objects(np.zeros((20, 2), np.int32))
    nothing, _ = next(simulation().Population(20, 2).samples(1, 20))
    found = matches_of_nothing()
    assert with_interval(Accuracy(), found, objects) == Accuracy() and nothing.resampled is not None
    zero = with_interval(Accuracy(0.0), found, Objects(np.ones((20, 2), np.int32)), 50)
    assert zero.ap_low == 0.0 and zero.ap_high == pytest.approx(1 - 0.025 ** (1 / 20))


def matches_of_nothing():
    from rfdetr_repro.evaluation.matches import Matches

    return Matches(
        *(np.zeros(0, kind) for kind in (np.int32, np.int16, np.float32, np.uint16, np.uint16))
    )


def test_evaluate_and_fine_tuning_print_the_interval(tmp_path):
    """An improvement that every resample shows is told as one; a change within the noise is not."""
    from samples_intervals import noise, sure, tuned
    from samples_run import protocol_record

    from rfdetr_repro.evaluate import interval_sentence
    from rfdetr_repro.search.finetune import lines
    from rfdetr_repro.spec.arch import Arch

    start = sure(protocol_record(Arch(96, 16, 1, 0, 10)), 0.40, 0.34, 0.46)
    told = interval_sentence(dataclasses.asdict(start.accuracy))
    assert "34.0 to 46.0" in told and "400 resamples of the 150 images, seed 0" in told
    assert "unknown" in interval_sentence(dataclasses.asdict(Accuracy(0.4)))
    for ap, size, wanted in ((0.42, 0.002, True), (0.405, 0.02, False)):
        after = tuned(sure(start, ap, 0.3, 0.5, noise(size)), "nas+fine-tuning", "cd")
        rows = lines([tuned(start, "nas", "ab"), after])
        (row,) = [row for row in rows if " boxes " in row and " AP " in row]
        assert ("not distinguishable" not in row) is wanted and "[" in row
        assert any(" masks " in row and "unknown" in row for row in rows)
