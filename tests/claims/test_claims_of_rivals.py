"""Verdicts on rivals trained alike, on one data set and over data sets, against SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import scipy.stats

from rfdetr_repro.claims.catalog import claims_named
from rfdetr_repro.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED, Finding, judged
from rfdetr_repro.records.record import (
    RIVALS,
    Accuracy,
    ArtifactId,
    Budget,
    DataId,
    Latency,
    Machine,
    ModelId,
    Record,
)
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.protocol import Protocol

DATA = DataId("a", "test", "ab" * 32, 150)
FAST = "r96-p16-w1-d2-q25"
SLOW = "r160-p16-w1-d2-q25"


def findings(records: list[Record], comparison: str) -> list[Finding]:
    (claim,) = judged(records, claims_named("11"))
    return [one for one in claim.findings if one.comparison.id == comparison]


def trained_alike(
    name: str, ms: float, aps: list[float], arch: str | None = None, data: DataId = DATA
) -> list[Record]:
    """A model of ``train-rival``, with a seed for each AP on test; AP on val is the same."""
    found = []
    for seed, ap in enumerate(aps):
        for split in ("val", "test"):
            sha256 = f"{data.name}{name}{arch}{seed}".ljust(64, "0")
            found.append(
                Record(
                    "protocol",
                    ModelId(
                        "rfdetr" if arch else "dfine",
                        name,
                        size="pico",
                        arch=arch and Arch.parse(arch),
                    ),
                    data=replace(data, split=split),
                    artifact=ArtifactId(sha256, sha256, "onnxruntime-cpu", "fp32", 1),
                    accuracy=Accuracy(ap, artifact_sha256=sha256),
                    latency=Latency(ms, artifact_sha256=sha256),
                    protocol=Protocol(threads=1),
                    machine=Machine("a processor", 2, 8.0, "Linux"),
                    campaign=RIVALS,
                    seed=seed,
                )
            )
    return found


def test_rivals_are_set_against_the_rf_detr_that_is_as_fast():
    rival = [0.31, 0.32, 0.315]
    fast = [0.28, 0.29, 0.295]
    records = trained_alike("D-FINE", 5.0, rival)
    records += trained_alike("RF-DETR", 4.0, fast, FAST)
    slow = trained_alike("RF-DETR", 9.0, [0.289, 0.29, 0.295], SLOW)
    (found,) = findings(records + slow, "11.1")
    welch = scipy.stats.ttest_ind(fast, rival, equal_var=False).confidence_interval(0.95)
    low, high = 100 * welch.low, 100 * welch.high
    assert (found.effect.low, found.effect.high) == pytest.approx((low, high))
    assert found.word == FAILS and found.votes and found.effect.over == "3 training seeds"
    assert found.scale.split == "test" and found.scale.against == "D-FINE pico"
    assert "20 % faster" in found.reason and "80 % slower than the rival" in found.reason
    # without an RF-DETR that is as fast there is nothing to compare
    slow = [one for one in records if one.model.arch != Arch.parse(FAST)]
    assert [one.word for one in findings(slow, "11.1")] == [NOT_RUN]


def test_a_coarse_grid_of_architectures_does_not_decide_against_rf_detr():
    records = trained_alike("D-FINE", 5.0, [0.30, 0.32, 0.31])
    records += trained_alike("RF-DETR", 4.0, [0.28, 0.29, 0.285], FAST)
    assert findings(records, "11.1")[0].word == FAILS
    slow = trained_alike("RF-DETR", 5.5, [0.31, 0.30, 0.32], SLOW)
    (found,) = findings(records + slow, "11.1")
    assert found.word == UNDECIDED and not found.votes and "too coarse" in found.reason
    # nor do slower architectures have a part where both files are equally fast
    near = trained_alike("RF-DETR", 4.8, [0.28, 0.29, 0.285], FAST)
    assert findings([*trained_alike("D-FINE", 5.0, [0.30, 0.32, 0.31]), *near, *slow], "11.1")[
        0
    ].votes
    # where RF-DETR is ahead, slower architectures have no part in the verdict
    ahead = trained_alike("RF-DETR", 4.0, [0.38, 0.39, 0.385], FAST)
    better = [*trained_alike("D-FINE", 5.0, [0.30, 0.32, 0.31]), *ahead, *slow]
    assert findings(better, "11.1")[0].word == HOLDS
    # over data sets the next slower architectures must lose, too
    sets = [
        replace(one, data=replace(one.data, name=name))
        for name, shift in (("a", 0.0), ("b", 0.002), ("c", 0.004))
        for one in [
            *trained_alike("D-FINE", 5.0, [0.30, 0.32, 0.31], data=replace(DATA, name=name)),
            *trained_alike("RF-DETR", 4.0, [0.28 - shift] * 3, FAST, data=replace(DATA, name=name)),
            *trained_alike("RF-DETR", 5.5, [0.31 + shift] * 3, SLOW, data=replace(DATA, name=name)),
        ]
    ]
    (found,) = findings(sets, "11.2")
    assert found.word == UNDECIDED and "too coarse" in found.reason
    fast_only = [one for one in sets if one.latency.median_ms != 5.5]
    assert findings(fast_only, "11.2")[0].word == FAILS


def test_models_that_find_nothing_decide_nothing():
    records = trained_alike("D-FINE", 5.0, [0.020, 0.021, 0.022])
    records += trained_alike("RF-DETR", 4.0, [0.001, 0.001, 0.002], FAST)
    (found,) = findings(records, "11.1")
    assert found.effect.high < 0 and found.word == UNDECIDED and not found.votes
    assert found.reason.startswith("no model reaches an AP of 5")
    # nor do they count over data sets
    others = over_sets({"b": -2.0, "c": -3.0, "d": -4.0})
    (over,) = findings([*records, *others], "11.2")
    assert over.pairs == 3 and over.effect.value == pytest.approx(-3.0)


def over_sets(gains: dict[str, float], rival: str = "D-FINE") -> list[Record]:
    """Data sets on which RF-DETR has so many points more than the rival with every seed."""
    records = []
    for name, gain in gains.items():
        data = replace(DATA, name=name)
        records += trained_alike(rival, 5.0, [0.30, 0.32, 0.31], data=data)
        ours = [ap + gain / 100 for ap in (0.30, 0.32, 0.31)]
        records += trained_alike("RF-DETR", 4.0, ours, FAST, data)
    return records


def test_over_data_sets_the_interval_is_students_over_data_sets():
    gains = {"embedded-x": -2.0, "embedded-y": -4.0, "cells": -3.5, "cars": -1.0}
    (found,) = findings(over_sets(gains), "11.2")
    wanted = scipy.stats.ttest_1samp(list(gains.values()), 0).confidence_interval(0.95)
    assert (found.effect.low, found.effect.high) == pytest.approx(wanted)
    assert found.effect.value == pytest.approx(numpy.mean(list(gains.values())))
    assert found.word == FAILS and found.pairs == 4
    assert found.scale.words == "D-FINE pico; 4 data sets, 2 of them composed; test, 600 images"
    (found,) = findings(over_sets({"a": 3.0, "b": 3.5, "c": 2.5}), "11.2")
    assert found.word == HOLDS


def test_data_sets_of_one_budget_are_compared_together():
    gains = {"a": -2.0, "b": -3.0, "c": -4.0}
    long = [replace(one, budget=Budget(800, 8)) for one in over_sets(gains)]
    shorter = [
        replace(
            one,
            budget=Budget(100, 8),
            model=replace(one.model, checkpoint_sha256="cd" * 32),
        )
        for one in over_sets({"a": 9.0})
    ]
    for records in (long + shorter, shorter + long):
        (found,) = findings(records, "11.2")  # one data set of the smaller budget has no row
        assert found.effect.value == pytest.approx(-3.0) and found.pairs == 3
        assert found.scale.training == "800 steps of 8 images"
    # on the data set itself, the budgets have a row each
    rows = findings(long + shorter, "11.1")
    assert sorted((one.scale.data, one.scale.training) for one in rows) == [
        ("a", "100 steps of 8 images"),
        ("a", "800 steps of 8 images"),
        ("b", "800 steps of 8 images"),
        ("c", "800 steps of 8 images"),
    ]


def test_each_rival_is_judged_by_itself_and_two_data_sets_decide_nothing():
    records = over_sets({"a": -9.0, "b": -8.0, "c": -8.5})
    other = over_sets({"a": 5.0, "b": 5.1}, rival="LW-DETR")
    records += [one for one in other if one.model.arch is None]
    found = findings(records, "11.2")
    assert [(one.scale.words.split(";")[0], one.word) for one in found] == [
        ("D-FINE pico", FAILS),
        ("LW-DETR pico", UNDECIDED),
    ]
    assert found[1].effect.low is None and "2 data sets" in found[1].reason
