"""The verdicts on the paper's claims: intervals by SciPy and NumPy themselves, pairs by hand, and
the Records that come with the package.
"""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import scipy.stats
from samples_claims import BASE, VAL, study

from rfdetr_repro.claims.catalog import claims_named
from rfdetr_repro.claims.comparison import Expected
from rfdetr_repro.claims.pairs import SHARED, KnobStep
from rfdetr_repro.claims.studies import (
    ALONE,
    DRAWN,
    PRE_CONVNEXT,
    PRE_DINOV2,
    RANDOM_BACKBONE,
)
from rfdetr_repro.claims.table import (
    counted,
    effect_texts,
    findings_table,
)
from rfdetr_repro.claims.verdicts import (
    FAILS,
    HOLDS,
    NOT_RUN,
    OVER_IMAGES,
    UNDECIDED,
    Effect,
    Finding,
    judged,
    word_of,
)
from rfdetr_repro.records.record import (
    FINE_TUNING,
    NEVER_TRAINED,
    TUNED,
    ArtifactId,
    Latency,
    Machine,
    ModelId,
    Record,
)
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.protocol import Protocol


def finding(records: list[Record], name: str) -> Finding:
    (found,) = [
        one
        for claim in judged(records, claims_named(name.partition(".")[0]))
        for one in claim.findings
        if one.comparison.id == name
    ]
    return found


def test_an_interval_over_seeds_is_the_one_of_scipy():
    alone = [0.40, 0.42, 0.41, 0.39]
    shared = [0.43, 0.44, 0.45, 0.41]
    records = [
        study(ap, variant, seed)
        for variant, aps in ((ALONE, alone), (SHARED, shared))
        for seed, ap in enumerate(aps)
    ]
    found = finding(records, "1.1")
    gains = 100 * (numpy.array(shared) - numpy.array(alone))
    wanted = scipy.stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (found.effect.low, found.effect.high) == pytest.approx(wanted)
    assert found.effect.value == pytest.approx(gains.mean())
    assert found.word == HOLDS and found.pairs == 4
    assert finding(records[::-1], "1.1") == found
    swapped = {ALONE: SHARED, SHARED: ALONE}
    turned = [
        replace(one, model=replace(one.model, variant=swapped[one.model.variant]))
        for one in records
    ]
    assert finding(turned, "1.1").word == FAILS


def test_seeds_are_paired_and_two_seeds_decide_nothing():
    # seeds differ by far more than the two sides: only a paired comparison sees the effect
    base = [0.2, 0.5, 0.35]
    records = [study(ap, ALONE, seed) for seed, ap in enumerate(base)]
    records += [study(ap + 0.01 + 0.001 * seed, SHARED, seed) for seed, ap in enumerate(base)]
    assert finding(records, "1.1").word == HOLDS
    two = finding([one for one in records if one.seed < 2], "1.1")
    assert two.word == UNDECIDED and two.effect.low is None
    # a seed of one side only is no pair
    alone = finding([*records[:3], *records[4:]], "1.1")
    assert alone.pairs == 2 and alone.word == UNDECIDED


def test_an_interval_over_images_is_the_one_of_numpy_and_says_so():
    rng = numpy.random.default_rng(0)
    shared = rng.normal(0, 0.05, 1000)
    deep = 0.45 + shared
    middle = 0.39 + shared + rng.normal(0, 0.005, 1000)
    records = [
        study(0.45, arch="r128-p16-w1-d2-q25", resampled=deep),
        study(0.39, arch="r128-p16-w1-d1-q25", resampled=middle),
        study(0.10, arch="r128-p16-w1-d0-q25", resampled=deep - 0.3),
    ]
    found = finding(records, "4.1")
    wanted = 100 * numpy.quantile(middle - deep, [0.025, 0.975])
    assert (found.effect.low, found.effect.high) == pytest.approx(wanted, abs=0.01)
    assert found.effect.value == pytest.approx(-6)
    assert found.pairs == 1 and found.word == FAILS and found.effect.over == OVER_IMAGES
    # a claim about training stays undecided with the same interval
    pair = [study(0.4, ALONE, 0, resampled=deep - 0.05), study(0.45, SHARED, 0, resampled=deep)]
    trained = finding(pair, "1.1")
    assert trained.word == UNDECIDED and "needs 3 seeds" in trained.reason


def test_a_margin_in_points_decides_nothing_at_a_low_ap():
    deep = numpy.linspace(0.07, 0.09, 1000)
    records = [
        study(0.08, arch="r128-p16-w1-d2-q25", resampled=deep),
        study(0.07, arch="r128-p16-w1-d1-q25", resampled=deep - 0.01),
    ]
    found = finding(records, "4.1")
    assert found.word == UNDECIDED and "AP of 20" in found.reason


def test_a_margin_in_points_is_judged_on_the_accurate_pairs():
    deep = numpy.linspace(0.42, 0.48, 1000)
    weak = numpy.linspace(0.05, 0.06, 1000)
    records = [
        study(0.45, arch="r128-p16-w1-d2-q25", resampled=deep),
        study(0.35, arch="r128-p16-w1-d1-q25", resampled=deep - 0.1),
        study(0.055, arch="r96-p20-w1-d2-q25", resampled=weak),
        study(0.050, arch="r96-p20-w1-d1-q25", resampled=weak - 0.005),
    ]
    found = finding(records, "4.1")
    assert found.word == FAILS and found.effect.value == pytest.approx(-10)
    assert found.pairs == 1 and "only pairs with an AP of 20" in found.reason
    # no margin: every pair counts
    steps = finding(records, "8.1")
    assert steps.word == NOT_RUN
    smaller = [
        study(0.45, resampled=deep),
        study(0.055, arch="r96-p16-w1-d2-q25", resampled=weak),
        study(0.045, arch="r96-p16-w2-d2-q25", resampled=weak),
    ]
    assert finding(smaller, "8.2").pairs == 1 and finding(smaller, "8.1").pairs == 1


def test_records_without_resamples_give_an_effect_and_no_verdict():
    records = [study(0.45), study(0.3, arch="r128-p16-w1-d1-q25")]
    found = finding(records, "4.1")
    assert found.effect.value == pytest.approx(-15) and found.effect.low is None
    assert found.word == UNDECIDED


def test_a_knob_is_compared_in_the_same_weights_and_with_all_else_equal():
    records = [
        study(0.45),
        study(0.40, arch="r128-p16-w1-d1-q25"),
        study(0.35, arch="r128-p16-w1-d1-q15"),  # two knobs away from the first
        study(0.50, seed=1),  # other weights
        replace(study(0.3, arch="r128-p16-w1-d0-q25"), data=replace(VAL, split="test")),
    ]
    pairs = KnobStep("decoder_layers").pairs(records)
    assert [(one.first.accuracy.ap, one.second.accuracy.ap) for one in pairs] == [(0.45, 0.40)]
    assert len(KnobStep("queries").pairs(records)) == 1


def test_the_loss_for_a_layer_is_compared_between_two_trainings_seed_by_seed():
    deep, shallow = "r128-p16-w1-d2-q25", "r128-p16-w1-d1-q25"
    losses = {ALONE: [0.10, 0.12, 0.14], DRAWN: [0.06, 0.07, 0.11]}
    records = []
    for variant, lost in losses.items():
        for seed, loss in enumerate(lost):
            top = 0.4 + 0.05 * seed + 0.1 * (variant == DRAWN)
            records += [study(top, variant, seed, deep), study(top - loss, variant, seed, shallow)]
            # another step of the knob is no part of the comparison
            records.append(study(0.0, variant, seed, "r128-p16-w1-d0-q25"))
    found = finding(records, "4.3")
    saved = 100 * (numpy.array(losses[ALONE]) - numpy.array(losses[DRAWN]))
    wanted = scipy.stats.ttest_1samp(saved, 0).confidence_interval(0.95)
    assert found.effect.value == pytest.approx(saved.mean()) and found.pairs == 3
    assert (found.effect.low, found.effect.high) == pytest.approx(wanted)
    assert finding(records, "4.5").effect.value == pytest.approx(-8)
    assert finding(records, "4.6").effect.value == pytest.approx(-12)
    # weights of a study's single model are no supernet of a search
    assert finding(records, "4.1").word == NOT_RUN
    # one seed: no interval over images is stated for a difference of differences
    assert finding([one for one in records if one.seed == 0], "4.3").effect.low is None


def test_trainings_of_another_scale_are_another_finding():
    def scaled(record: Record, words: str) -> Record:
        name = f"{record.model.name}, {words}"
        return replace(record, model=replace(record.model, name=name))

    records = [
        scaled(study(ap, variant, seed), words)
        for words in ("100 steps from the pico weights", "500 steps from the pico backbone")
        for variant, gain in ((ALONE, 0.0), (SHARED, 0.01))
        for seed, ap in enumerate((0.3 + gain, 0.3 + 2 * gain, 0.3 + gain))
    ]
    (claim,) = judged(records, claims_named("1"))
    assert [(one.pairs, one.scale.words.partition("; ")[2]) for one in claim.findings] == [
        (3, "100 steps from the pico weights"),
        (3, "500 steps from the pico backbone"),
    ]
    rows = findings_table([claim]).rows
    assert [row["scale"].text.rpartition("; ")[2] for row in rows] == [
        "100 steps from the pico weights",
        "500 steps from the pico backbone",
    ]
    assert len({row["what"].plain for row in rows}) == 1


def test_never_drawn_patches_are_paired_by_tokens():
    # 128 / 16 and 144 / 18 have 8 x 8 tokens
    records = [study(0.45, arch=BASE, seed=seed) for seed in range(3)]
    records += [
        study(0.451 + 0.001 * seed, NEVER_TRAINED, seed, arch="r144-p18-w1-d2-q25")
        for seed in range(3)
    ]
    checkpoints = [
        replace(one, model=replace(one.model, checkpoint_sha256=str(one.seed))) for one in records
    ]
    found = finding(checkpoints, "2.1")
    assert found.pairs == 3 and found.word == HOLDS
    assert found.effect.value == pytest.approx(0.2)


def test_fine_tuning_is_paired_although_the_weights_differ():
    records = [
        study(0.4 + 0.02 * (variant == TUNED) + 0.003 * seed * (variant == TUNED), variant, seed)
        for variant in ("nas", TUNED)
        for seed in range(3)
    ]
    records = [replace(one, campaign=FINE_TUNING, source="search") for one in records]
    found = finding(records, "3.1")
    assert found.effect.value == pytest.approx(2.3) and found.word == FAILS  # more than a little
    less = [
        replace(one, accuracy=replace(one.accuracy, ap=0.4 + 0.2 * (one.accuracy.ap - 0.4)))
        for one in records
    ]
    assert finding(less, "3.1").word == HOLDS


def timed(file: int, mode: str, ms: float, split: str = "val") -> Record:
    sha256 = f"{file:064x}"
    wait = 200.0 if mode == "buffered" else 0.0
    return Record(
        "protocol",
        ModelId("rfdetr", "rfdetr", arch=Arch.parse(BASE)),
        data=replace(VAL, split=split),
        artifact=ArtifactId(sha256, sha256, "onnxruntime-cpu", "fp32", 1),
        latency=Latency(
            ms,
            ci_low_ms=0.9 * ms,
            ci_high_ms=1.1 * ms,
            artifact_sha256=sha256,
            session="one",
        ),
        protocol=Protocol(mode=mode, buffer_ms=wait),
        machine=Machine("a processor", 2, 8.0, "Linux"),
    )


def test_latencies_of_one_file_count_once_and_are_relative():
    closed = [2.0, 4.0, 8.0, 5.0]
    waiting = [1.8, 3.5, 7.4, 4.4]
    records = [
        timed(file, mode, ms, split)
        for mode, times in (("sustained", closed), ("buffered", waiting))
        for file, ms in enumerate(times)
        for split in ("val", "test")
    ]
    found = finding(records, "9.1")
    changes = 100 * (numpy.array(waiting) / numpy.array(closed) - 1)
    wanted = scipy.stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert found.pairs == 4 and found.word == HOLDS and not found.votes  # of no GPU
    assert (found.effect.low, found.effect.high) == pytest.approx(wanted)
    assert found.effect.over == "4 files, 1 session" and "about a GPU" in found.reason
    (claim,) = judged(records, claims_named("9.1"))
    assert claim.word == UNDECIDED
    on_gpu = [replace(one, machine=replace(one.machine, gpu="a GPU")) for one in records]
    (claim,) = judged(on_gpu, claims_named("9.1"))
    assert claim.word == HOLDS
    few = finding([one for one in records if one.artifact.sha256 < f"{2:064x}"], "9.1")
    assert few.word == UNDECIDED and few.effect.low is None


def test_files_measured_on_an_unsteady_machine_decide_nothing():
    records = [
        timed(file, mode, ms)
        for mode, times in (("sustained", [2.0, 4.0, 8.0, 5.0]), ("buffered", [1.8, 3.5, 7.4, 9.0]))
        for file, ms in enumerate(times)
    ]
    *steady, last = records
    unsteady = replace(last, latency=replace(last.latency, ci_low_ms=None, ci_high_ms=None))
    assert finding(records, "9.1").word == UNDECIDED
    found = finding([*steady, unsteady], "9.1")
    assert found.pairs == 3 and found.word == HOLDS
    assert "left out: 1 file, measured on an unsteady machine" in found.reason
    nothing = [
        replace(one, latency=replace(one.latency, ci_low_ms=None, ci_high_ms=None))
        for one in records
    ]
    none = finding(nothing, "9.1")
    assert none.pairs == 4 and none.word == UNDECIDED and none.effect.low is None
    assert "no file was measured on a machine steady enough" in none.reason


def test_the_slowest_tenth_is_compared_relative_to_the_median_where_it_is_stated():
    def tailed(file: int, mode: str, ms: float, p90_ms: float | None) -> Record:
        record = timed(file, mode, ms)
        return replace(record, latency=replace(record.latency, p90_ms=p90_ms))

    tails = {"sustained": [1.2, 1.3, 1.25, 1.1], "buffered": [1.1, 1.1, 1.2, 1.05]}
    records = [
        tailed(file, mode, 2.0 + file, (2.0 + file) * tail)
        for mode, found in tails.items()
        for file, tail in enumerate(found)
    ]
    records += [tailed(9, "sustained", 3.0, 4.0), tailed(9, "buffered", 3.0, None)]
    found = finding(records, "9.2")
    changes = 100 * (numpy.array(tails["buffered"]) - numpy.array(tails["sustained"]))
    wanted = scipy.stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert found.pairs == 4 and found.effect.value == pytest.approx(changes.mean())
    assert (found.effect.low, found.effect.high) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("expected", "low", "high", "word"),
    [
        (Expected("", least=0), 0.1, 2, HOLDS),
        (Expected("", least=0), -0.1, 2, UNDECIDED),
        (Expected("", least=0), -2, -0.1, FAILS),
        (Expected("", most=0), -2, -0.1, HOLDS),
        (Expected("", least=-1, most=1), -0.9, 0.9, HOLDS),
        (Expected("", least=-1, most=1), -1.1, 0.9, UNDECIDED),
        (Expected("", least=-1, most=1), 1.1, 1.2, FAILS),
    ],
)
def test_the_word_follows_from_interval_and_region(expected, low, high, word):
    assert word_of(expected, low, high) == word


def test_rows_of_a_comparison_that_disagree_leave_the_claim_undecided():
    deep = numpy.full(1000, 0.45) + numpy.linspace(-0.01, 0.01, 1000)
    test = replace(VAL, split="test")
    good = [study(0.45, resampled=deep)]
    good.append(study(0.449, arch="r128-p16-w1-d1-q25", resampled=deep - 0.001))
    bad = [study(0.45, resampled=deep)]
    bad.append(study(0.3, arch="r128-p16-w1-d1-q25", resampled=deep - 0.15))
    claims = claims_named("4.1")
    assert [part.id for claim in claims for part in claim.comparisons] == ["4.1"]
    on_test = [replace(one, data=test) for one in bad]
    assert judged(good, claims)[0].word == HOLDS
    assert judged(bad, claims)[0].word == FAILS
    found = judged([*good, *on_test], claims)[0]
    assert sorted(one.word for one in found.findings) == [FAILS, HOLDS]
    assert found.word == UNDECIDED
    assert counted(one.word for one in found.findings) == "1 holds, 1 fails"
    # a row without an interval has no say
    silent = [replace(one, accuracy=replace(one.accuracy, resampled=None)) for one in on_test]
    assert judged([*good, *silent], claims)[0].word == HOLDS


def test_small_numbers_keep_their_sign():
    assert effect_texts(Effect(0.05, -0.04, 0.14), "AP") == ("+0.05", "-0.04", "+0.14")
    assert effect_texts(Effect(-3.46, -5.3, -1.6), "AP") == ("-3.5", "-5.3", "-1.6")
    assert effect_texts(Effect(26.04, 13.2, 38.8), "latency") == ("+26.0 %", "+13.2 %", "+38.8 %")
    assert effect_texts(Effect(0.0, None, None), "AP") == ("+0.0",)


def test_a_failing_part_fails_the_claim_and_parts_not_run_leave_it_undecided():
    deep = numpy.full(1000, 0.45) + numpy.linspace(-0.01, 0.01, 1000)
    records = [study(0.45, resampled=deep)]
    good = study(0.449, arch="r128-p16-w1-d1-q25", resampled=deep - 0.001)
    bad = study(0.3, arch="r128-p16-w1-d1-q25", resampled=deep - 0.15)
    assert judged([*records, good], claims_named("4"))[0].word == UNDECIDED
    assert judged([*records, bad], claims_named("4"))[0].word == FAILS


def test_forms_of_backbones_decide_nothing_about_ways_of_pretraining():
    sides = ((PRE_DINOV2, 0.21), (PRE_CONVNEXT, 0.26), (RANDOM_BACKBONE, 0.21), (ALONE, 0.29))
    records = [
        study(ap + 0.001 * seed * place, variant, seed)
        for place, (variant, ap) in enumerate(sides)
        for seed in range(3)
    ]
    (claim,) = judged(records, claims_named("6"))
    found = {one.comparison.id: one for one in claim.findings}
    assert found["6.1"].word == HOLDS and found["6.1"].votes
    assert found["6.5"].word == FAILS and not found["6.5"].votes
    assert found["6.5"].reason.startswith("the claim is about ways of pretraining")
    assert claim.word == UNDECIDED
