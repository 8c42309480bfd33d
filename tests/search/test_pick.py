"""A budget is a ceiling: the most accurate measured file below it, under a plain name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples_run import SPACE, protocol_record, search_record
from samples_search import latency_model
from test_search_run import PROTOCOLS, request_in

from rfdetr_repro import cli
from rfdetr_repro.export.artifact import load_artifact
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search import engines
from rfdetr_repro.search.budget import ALLOWANCE, Budget
from rfdetr_repro.search.pick import best_within, considered, pick
from rfdetr_repro.search.run import run_search
from rfdetr_repro.search.targets import candidates
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, EXIT_FAILED, InputError, StatedFailure
from rfdetr_repro.spec.files import sha256_file

ARCHS = list(SPACE)


def numbers(record: Record, statistic: str = "median_ms") -> tuple[float, float]:
    assert record.latency is not None and record.accuracy is not None
    ms, ap = getattr(record.latency, statistic), record.accuracy.ap
    assert ms is not None and ap is not None
    return ms, ap


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
@pytest.mark.parametrize(("quantile", "statistic"), [("median", "median_ms"), ("p90", "p90_ms")])
def test_it_is_the_best_of_what_is_measured_within_the_budget(
    share: float, quantile: str, statistic: str
) -> None:
    records = [
        protocol_record(arch, split, mode)
        for arch in ARCHS
        for split in ("val", "test")
        for mode in ("buffered", "sustained")
    ]
    of_mode = [
        one
        for one in records
        if one.protocol and one.protocol.mode == "buffered" and one.data and one.data.split == "val"
    ]
    all_ms = sorted(numbers(one, statistic)[0] for one in of_mode)
    budget = Budget(all_ms[int(share * (len(all_ms) - 1))], quantile)
    found = best_within(considered(records, budget), budget).record
    within = [one for one in of_mode if numbers(one, statistic)[0] <= budget.ms]
    assert found in within
    assert numbers(found)[1] == max(numbers(one)[1] for one in within)


def test_a_target_may_be_exceeded_and_a_budget_may_not() -> None:
    records = [protocol_record(arch) for arch in ARCHS]
    slowest = max(numbers(one)[0] for one in records)
    budget = Budget(slowest * 0.999)
    assert numbers(best_within(considered(records, budget), budget).record)[0] <= budget.ms


def test_where_all_are_slower_the_fastest_is_named() -> None:
    records = [protocol_record(arch) for arch in ARCHS]
    fastest = min(records, key=lambda one: numbers(one)[0])
    budget = Budget(numbers(fastest)[0] * 0.9)
    assert fastest.model.arch is not None
    with pytest.raises(StatedFailure, match=f"the nearest is {fastest.model.arch.key} with median"):
        best_within(considered(records, budget), budget)


def test_what_may_be_within_the_budget_is_measured_and_nothing_else() -> None:
    records = [search_record(arch) for arch in ARCHS]
    middle = sorted(numbers(one)[0] for one in records)[len(records) // 2]
    chosen = candidates(records, 3, "ap", budget=Budget(middle))
    by_arch = {one.model.arch: one for one in records}
    assert 1 <= len(chosen) <= 3
    assert all(numbers(by_arch[arch])[0] <= middle * (1 + ALLOWANCE) for arch in chosen)
    aps = [numbers(by_arch[arch])[1] for arch in chosen]
    possible = [one for one in records if numbers(one)[0] <= middle * (1 + ALLOWANCE)]
    assert aps[0] == max(numbers(one)[1] for one in possible)
    assert aps == sorted(aps, reverse=True)
    assert len(candidates(records, 3, "ap", budget=Budget(1e-6))) == 1


def test_without_a_measured_file_there_is_nothing_to_choose() -> None:
    with pytest.raises(StatedFailure, match="there is no measured file to compare with 5 ms"):
        best_within([], Budget(5.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ms": 0.0}, "a budget of 0.0 ms"),
        ({"ms": float("nan")}, "a budget of nan ms"),
        ({"quantile": "p50"}, "unknown quantile 'p50'"),
        ({"metric": "recall"}, "unknown metric 'recall'"),
    ],
)
def test_an_impossible_budget_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget(**{"ms": 5.0, **changes})


def test_a_search_by_another_mode_or_with_targets_is_refused(tmp_path: Path) -> None:
    from rfdetr_repro.search.targets import Targets

    for changes, message in (
        ({"budget": Budget(5.0, mode="sustained")}, "sustained latency and ap in a search by"),
        ({"budget": Budget(5.0), "targets": Targets((5.0,))}, "a budget and targets"),
    ):
        with pytest.raises(InputError, match=message):
            request_in(tmp_path, tmp_path, **changes)


def test_a_search_under_a_budget_ends_with_a_file_of_a_plain_name(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(search: Any, archs: list[Arch], *rest: Any) -> dict[Arch, float]:
        return {arch: latency_model(search).predict(arch) for arch in archs}

    monkeypatch.setattr(engines, "measure_engines", measure)
    run_search(request_in(run, place, budget=Budget(1e3), protocols=PROTOCOLS))
    capsys.readouterr()
    assert cli.main(["pick", str(run), "--budget-ms", "1000"]) == 0
    out = capsys.readouterr().out
    found = load_artifact(run / "best-1000ms.onnx")
    measured = considered(Store(run / "records.jsonl").read(), Budget(1e3))
    best = max(measured, key=lambda one: (numbers(one.record)[1], -numbers(one.record)[0]))
    assert found.sha256 == best.artifact.sha256 == sha256_file(run / "best-1000ms.onnx")
    assert (run / "labels.txt").read_text().splitlines() == list(found.manifest.class_names)
    assert out.startswith(f"best under 1000 ms: {run / 'best-1000ms.onnx'}")
    assert f"--model {run / 'best-1000ms.onnx'}" in out
    before = sorted(path.name for path in run.iterdir())
    assert cli.main(["pick", str(run), "--budget-ms", "0.0001"]) == EXIT_FAILED
    assert "no measured file is within 0.0001 ms; the nearest is" in capsys.readouterr().err
    assert cli.main(["pick", str(run), "--budget-ms", "9", "--quantile", "p99"]) == EXIT_BAD_INPUT
    assert "has a buffered latency (p99)" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before
    (run / "artifacts" / "wrong.json").write_text("{")
    other = replace(best.record, machine=replace(best.record.machine, cpu="another"))
    kept = (run / "records.jsonl").read_bytes()
    assert best.record.data is not None
    changed = replace(best.record, data=replace(best.record.data, sha256="f" * 64))
    for incomparable in (other, changed):
        (run / "records.jsonl").write_bytes(kept)
        Store(run / "records.jsonl").append(incomparable)
        assert cli.main(["pick", str(run), "--budget-ms", "1000"]) == EXIT_BAD_INPUT
        assert "measurements that cannot be compared" in capsys.readouterr().err
    (run / "records.jsonl").write_bytes(kept)
    assert pick(run, Budget(1e3)).artifact.sha256 == best.artifact.sha256


@pytest.mark.parametrize("verb", [["reproduce"], ["search", "--run", ".", "--data", "."]])
def test_a_quantile_without_a_budget_is_refused(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*verb, "--quantile", "p95"]) == EXIT_BAD_INPUT
    assert "--quantile without --budget-ms" in capsys.readouterr().err


def test_the_certainty_of_the_latency_is_said() -> None:
    records = [protocol_record(arch) for arch in ARCHS]
    fast = min(records, key=lambda one: numbers(one)[0])
    assert fast.latency is not None and fast.latency.ci_high_ms is not None
    from rfdetr_repro.search.pick import _proved

    for record, ms, proved in (
        (fast, fast.latency.ci_high_ms, True),
        (fast, fast.latency.ci_high_ms * 0.999, False),
        (replace(fast, latency=replace(fast.latency, ci_high_ms=None, ci_low_ms=None)), 1e3, None),
    ):
        (measured,) = considered([record], Budget(ms))
        assert _proved(measured, Budget(ms)) is proved
