"""Search methods on a small benchmark: what each pays, and what it loses."""

from __future__ import annotations

import random

import numpy as np
import pytest
from samples_nasbench import SMALL, small_bench

from rfdetr_repro.evaluation.matches import THRESHOLDS, Objects, average_precision
from rfdetr_repro.search.nasbench_methods import METHODS, Trial, by_rank, frontier, matches_on
from rfdetr_repro.search.nasbench_regret import (
    SHARES,
    at_shares,
    curve,
    found_after,
    hypervolume,
    mean_and_reach,
    run_method,
)
from rfdetr_repro.spec.errors import InputError

ARCHS = list(SMALL)
PLAIN = [method for method in METHODS if "Optuna" not in method]


def trial() -> Trial:
    bench = small_bench()
    latency_ms = {arch: bench.latency(arch).ms for arch in ARCHS}
    return Trial(bench, SMALL, latency_ms, 0, random.Random(0))


@pytest.mark.parametrize("method", PLAIN)
def test_a_method_pays_and_ends_without_much_regret(method: str) -> None:
    bench = small_bench()
    found = curve(method, bench, SMALL, repeats=3)
    assert bench.evaluations == 0  # each run pays for itself
    assert (found.evaluations <= 1).all() and (found.evaluations > 0.15).all()
    assert (found.passes >= found.evaluations - 1e-12).all() and (found.passes <= 1).all()
    assert (found.decisions_s >= 0).all()
    shown = found.regret[~np.isnan(found.regret)]
    assert (shown >= -1e-12).all() and (shown <= 1).all()
    most = 0.5 if "5 %" in method else 0.25  # it halves on two images
    assert found.regret[:, -1].mean() < most


def test_exhaustive_methods_lose_nothing_in_the_end() -> None:
    for method in ("random search", "regularised evolution"):
        steps, passes, _ = run_method(method, small_bench(), SMALL, "onnxruntime-1", 0, 1)
        assert steps[-1].evaluations == len(ARCHS) * 40
        assert passes == len({arch.backbone for arch in ARCHS}) * 40
        found = curve(method, small_bench(), SMALL, repeats=2)
        np.testing.assert_allclose(found.regret[:, -1], 0, atol=1e-12)
        assert not np.isnan(found.found).any()


def test_runs_differ_and_repeat() -> None:
    first, again, other = (
        run_method("random search", small_bench(), SMALL, "onnxruntime-1", 0, repeat)[0]
        for repeat in (1, 1, 2)
    )
    assert first == again != other


def test_optuna_where_it_is_installed() -> None:
    pytest.importorskip("optuna")
    assert curve("Optuna's TPE", small_bench(), SMALL, repeats=2).regret[:, -1].mean() < 0.3


def test_the_frontier_and_ranks() -> None:
    one = trial()
    for arch in ARCHS:
        one.ask(arch)
    front = frontier(ARCHS, one)
    for arch in ARCHS:
        beaten = any(
            one.latency_ms[other] <= one.latency_ms[arch] and one.seen[other] >= one.seen[arch]
            for other in ARCHS
            if other != arch
        )
        assert beaten == (arch not in front)
    ranked = by_rank(ARCHS, one)
    assert sorted(ranked) == sorted(ARCHS) and ranked[: len(front)] == front


def test_matches_for_the_race_have_the_answers_ap() -> None:
    bench = small_bench()
    places = sorted(bench.order()[:17])
    for arch in ARCHS[::5]:
        found = matches_on(bench, arch, 0, places)
        objects = Objects(bench.part().objects)
        expected = bench.query(arch, images=places).ap
        assert average_precision(found, objects, np.array(places), range(THRESHOLDS)) == expected


def test_regret_over_evaluations() -> None:
    paid = np.array([0.1, 0.3, 0.3, 0.9])
    lost = np.array([0.5, 0.2, 0.004, 0.001])
    np.testing.assert_allclose(
        at_shares(paid, lost, (0.05, 0.1, 0.2, 0.3, 1.0)), [np.nan, 0.5, 0.5, 0.004, 0.001]
    )
    assert found_after(paid, lost) == 0.3
    assert np.isnan(found_after(paid, lost + 1))
    assert found_after(paid, 0 * lost) == 0.1
    mean, reach = mean_and_reach(np.array([1.0, 2.0, 3.0]))
    assert mean == 2 and reach == pytest.approx(2.4841, abs=1e-3)
    assert all(np.isnan(mean_and_reach(np.array([1.0]))))
    assert len(SHARES) == 11


def test_hypervolume_is_the_area_below_the_best_so_far() -> None:
    fast, middle, slow = ARCHS[:3]
    latency_ms = {fast: 1.0, middle: 2.0, slow: 4.0}
    points = {fast: 0.2, middle: 0.5, slow: 0.3}
    assert hypervolume(points, latency_ms) == pytest.approx(0.2 + 0.5 * 2.2)
    assert hypervolume({middle: 0.5}, latency_ms) == pytest.approx(0.5 * 2.2)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(InputError, match="unknown method"):
        curve("hope", small_bench(), SMALL)
