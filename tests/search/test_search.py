"""The search on a tiny supernet: race and exhaustive agree, a killed race goes on, targets, plan,
and what is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_search import ERROR, QUICK, latency_model, search_in
from tiny import SPACE, TINY

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.evaluation.matches import accuracy_and_matches, with_interval
from rfdetr_repro.records.store import Store
from rfdetr_repro.search import command
from rfdetr_repro.search import engines as engines_module
from rfdetr_repro.search import plan as plan_module
from rfdetr_repro.search.deployment import Deployment
from rfdetr_repro.search.engines import Fit, fit_latency
from rfdetr_repro.search.evaluation import GOALS, by_backbone, shared_detections
from rfdetr_repro.search.plan import Job, plan
from rfdetr_repro.search.race import Rules
from rfdetr_repro.search.request import SearchRequest
from rfdetr_repro.search.run import plan_search
from rfdetr_repro.search.search import Search, missing_classes
from rfdetr_repro.search.targets import Targets, candidates, describe_picks
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.protocol import Protocol

RULES = Rules(first=0.3, fewest=1, growth=2, confidence=0.9, margin=0.0, resamples=40)


def test_what_a_race_leaves_has_the_exhaustive_accuracy(
    run: Path, place: Path, tmp_path: Path
) -> None:
    search = search_in(run, place)
    raced, outcome = search.race(latency_model(search), ERROR, rules=RULES)
    assert 0 < len(raced) < len(SPACE) and outcome.evaluations() < len(SPACE) * len(search.split)
    other = search_in(Path(shutil.copytree(place / "run", tmp_path / "other")), place)
    whole = {
        record.model.arch: record for record in other.evaluate_all(latency_model(other), ERROR)
    }
    for record in raced:
        theirs = whole[record.model.arch]
        assert record.id == theirs.id and record.latency == theirs.latency
        for ours, exact in (
            (record.accuracy, theirs.accuracy),
            (record.mask_accuracy, theirs.mask_accuracy),
        ):
            assert (ours is None) == (exact is None)
            if ours is not None and exact is not None:
                assert [ours.ap, ours.ap50, ours.ap75] == pytest.approx(
                    [exact.ap, exact.ap50, exact.ap75], abs=1e-6
                )
    assert {record.id for record in search.store.read()} == {record.id for record in raced}


def test_the_exhaustive_search_has_each_configurations_own_accuracy(run: Path, place: Path) -> None:
    """Matched together, and configuration by configuration by the evaluator: equal, to the last
    bit, box and mask AP, AP50, AP75 and interval.
    """
    evaluation = search_in(run, place).evaluation
    group = next(iter(by_backbone(SPACE)))
    detections = shared_detections(evaluation.detector, evaluation.split, group, masks=True)
    together = evaluation.accuracies(group)
    for arch in group:
        for kind in ("bbox", "segm"):
            alone, found = accuracy_and_matches(
                evaluation.evaluator, detections[arch], kind, all_areas_only=True
            )
            expected = with_interval(alone, found, evaluation.objects, resamples=0)
            assert together[arch][kind] == expected and expected.ap is not None


def test_a_killed_race_computes_nothing_twice(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfdetr_repro.search import evaluation

    seen: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    real = evaluation.shared_detections

    def counted(detector: Any, split: Any, archs: Any, *, masks: bool, indices: Any) -> Any:
        if len(seen) == 5 and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        seen.append((tuple(arch.key for arch in archs), tuple(indices)))
        return real(detector, split, archs, masks=masks, indices=indices)

    killed: list[bool] = []
    monkeypatch.setattr(evaluation, "shared_detections", counted)
    search = search_in(run, place)
    with pytest.raises(KeyboardInterrupt):
        search.race(latency_model(search), ERROR, rules=RULES)
    first = search_in(run, place)
    records, _ = first.race(latency_model(first), ERROR, rules=RULES)
    # the items finished before the kill were read from their files
    assert killed and len(seen) == len(set(seen))
    before = len(seen)
    lines = (run / "records.jsonl").read_bytes()
    again = search_in(run, place)
    assert [one.id for one in again.race(latency_model(again), ERROR, rules=RULES)[0]] == [
        one.id for one in records
    ]
    assert len(seen) == before and (run / "records.jsonl").read_bytes() == lines
    for file in (run / "race").iterdir():
        file.write_bytes(b"torn")
    with pytest.raises(InputError, match="not a stage of a race"):
        again.race(latency_model(again), ERROR, rules=RULES)


def test_spaces_that_do_not_fit_are_refused(run: Path, place: Path) -> None:
    with pytest.raises(InputError, match="no backbone of the search space was trained"):
        search_in(run, place, space=SearchSpace((80,), (20,), (1,), (0, 1), (5,)))
    deep = replace(SPACE, decoder_layers=(0, TINY.model.decoder_layers + 1))
    with pytest.raises(InputError, match="a larger decoder than the checkpoint holds"):
        search_in(run, place, space=deep)
    search = search_in(run, place, masks=False)
    with pytest.raises(InputError, match="a race for mask_ap needs mask"):
        search.race(latency_model(search), ERROR, goal=GOALS["mask_ap"], rules=RULES)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Instead of engines: additive latencies with 20 % noise on the first 8 configurations asked
    for; counts who asked.
    """
    asked: list[int] = []

    def measure(
        search: Search, archs: list[Arch], protocol: Protocol, progress: Any
    ) -> dict[Arch, float]:
        asked.append(len(archs))
        model = latency_model(search)
        rng = np.random.default_rng(1)
        noise = np.where(np.arange(len(archs)) < 8, rng.normal(0, 0.2, len(archs)), 0.0)
        return {
            arch: model.predict(arch) * float(np.exp(one))
            for arch, one in zip(archs, noise, strict=True)
        }

    monkeypatch.setattr(engines_module, "measure_engines", measure)
    return asked


def test_more_engines_are_measured_while_the_error_is_too_large(
    run: Path, place: Path, measured: list[int]
) -> None:
    search = search_in(run, place)
    told = []
    assert len(SPACE) >= 16
    _, error, count = fit_latency(search, Fit(8, most=16, median=0.1, p95=10.0), tell=told.append)
    assert measured[0] == 8 and measured == sorted(set(measured)) and count == measured[-1] > 8
    assert told[0].startswith("8 engines (") and (
        error.median <= 0.1 or "exceeds its bound" in told[-1]
    )
    told.clear()
    fit_latency(search, Fit(8, most=8, median=1e-9), tell=told.append)
    assert "exceeds its bound" in told[-1] and measured[-1] == 8


def test_targets_are_met_or_named() -> None:
    archs = [Arch(64, 16, 1, depth, 10) for depth in range(3)]
    latency = dict(zip(archs, (2.0, 3.0, 5.0), strict=True))
    Targets((2.1, 3.2), 0.1).check(latency)
    with pytest.raises(
        InputError,
        match="no configuration within 10% of 8 ms; the nearest is r64-p16-w1-d2-q10 at 5 ms",
    ):
        Targets.parse("2,8").check(latency)
    for wrong in ("fast", "", "0", "-1,2"):
        with pytest.raises(InputError):
            Targets.parse(wrong)


def test_candidates_for_targets_lie_near_them(run: Path, place: Path) -> None:
    search = search_in(run, place)
    records = search.evaluate_all(latency_model(search), ERROR)
    latencies = sorted({record.latency.median_ms for record in records if record.latency})
    targets = Targets((latencies[0], latencies[-1]), 0.05)
    chosen = candidates(records, 4, "ap", targets)
    predicted = [latency_model(search).predict(arch) for arch in chosen]
    assert chosen and all(
        any(targets.reaches(target, ms) for target in targets.latencies_ms) for ms in predicted
    )
    assert len(candidates(records, 1)) == 1 and len(candidates(records, 3)) <= 3


def test_a_target_is_judged_by_the_latency_that_the_model_speaks_of(run: Path, place: Path) -> None:
    search = search_in(run, place)
    arch = next(iter(SPACE))
    confirmed = search.confirm(
        arch, [search.split], [replace(QUICK, mode=mode) for mode in ("buffered", "sustained")]
    )
    slow, fast = (
        replace(one, latency=replace(one.latency, median_ms=ms))
        for one, ms in zip(confirmed, (7.0, 5.0), strict=True)
    )
    for mode, near, far in (("sustained", 5.1, 7.0), ("buffered", 7.1, 5.0)):
        (line,) = describe_picks(Targets((near,), 0.1), [slow, fast], "ap", mode)
        assert arch.key in line and f" ms {mode}" in line
        (line,) = describe_picks(Targets((far,), 0.1), [slow, fast], "ap", mode)
        assert "no confirmed configuration is within 10%" in line


@pytest.mark.parametrize(("backend", "ending"), [("onnxruntime", "onnx"), ("torch", "safetensors")])
def test_a_plan_times_the_file_of_the_deployment(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch, backend: str, ending: str
) -> None:
    written = []
    for name in ("export_onnx", "export_torch"):
        monkeypatch.setattr(plan_module, name, lambda _, path, meta: written.append(path.suffix))
    plan_search(SearchRequest(run, place / "data", deployment=Deployment(backend)))
    assert written == [f".{ending}"]


def test_a_plan_adds_up_and_writes_nothing(run: Path, place: Path) -> None:
    search = search_in(run, place)
    before = sorted(path.name for path in run.rglob("*"))
    job = Job(SPACE, 100, Fit(6, 12), candidates=2, protocols=(QUICK,), rules=RULES)
    found = plan(search.detector, job)
    spent = (
        found.latency_s
        + found.passes_s
        + found.decisions_s
        + 2 * (found.engine_s + found.confirm_s)
    )
    assert found.total_s == pytest.approx(spent) and found.decisions_s > 0
    assert found.groups == len({arch.backbone for arch in SPACE}) and found.latency_s == 12 * (
        found.engine_s + found.measure_s
    )
    low = min(found.timed.values())
    high = max(found.timed.values())
    assert (
        100 * found.groups * low <= found.passes_s * 1.0001
        and found.passes_s <= 100 * found.groups * high * 1.0001
    )
    lines = "\n".join(found.lines())
    assert (
        f"{len(SPACE)} configurations of {found.groups} backbones; 100 images" in lines
        and "at least 30%" in lines
    )
    assert "decisions of the race: " in lines and "decisions" not in "\n".join(
        replace(found, job=replace(job, rules=None)).lines()
    )
    assert sorted(path.name for path in run.rglob("*")) == before


def test_the_command_races_for_targets(
    run: Path,
    place: Path,
    measured: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "rfdetr_repro.spec.campaign.EMBEDDED",
        replace(EMBEDDED, buffered=QUICK, sustained=replace(QUICK, mode="sustained")),
    )
    arguments = [
        "--run",
        str(run),
        "--data",
        str(place / "data"),
        "--strategy",
        "race",
        "--engines",
        "8",
        "--first",
        "0.4",
    ]
    assert run_main(command.main, [*arguments, "--targets-ms", "1000"]) == 1
    # 20 % of noise, and a tolerance of 10 %
    assert "too inaccurate for these targets" in capsys.readouterr().err
    assert run_main(command.main, [*arguments, "--targets-ms", "1000", "--tolerance", "0.9"]) == 2
    assert "the nearest is r" in capsys.readouterr().err
    for wrong in ("val,elsewhere", "val,train", "test"):
        assert (
            run_main(command.main, [*arguments, "--confirm-on", wrong]) == 2
            and "--confirm-on" in capsys.readouterr().err
        )
    chosen = [
        "--candidates",
        "2",
        "--targets-ms",
        "1.5",
        "--tolerance",
        "0.9",
        "--confirm-on",
        "val,test",
    ]
    assert run_main(command.main, [*arguments, *chosen]) == 0
    out = capsys.readouterr().out
    protocol = [
        record for record in Store(run / "records.jsonl").read() if record.source == "protocol"
    ]
    files = {
        split: {one.artifact.sha256 for one in protocol if one.data.split == split}
        for split in ("val", "test")
    }
    assert files["val"] == files["test"] != set()
    assert "of the image evaluations" in out and "target 1.5 ms: " in out and " ms buffered" in out
    assert "decisions " in out and "latency model on the confirmed files: median" in out
    predicted = {one.protocol.mode: one.latency.predicted_ms for one in protocol}
    assert predicted["buffered"] is not None and predicted["sustained"] is None
    stages = json.loads((run / "race.json").read_text())
    assert stages[-1]["images"] == 9 and stages[0]["entered"] == len(SPACE)
    with Store(run / "records.jsonl").exclusive():
        assert run_main(command.main, arguments) == 2
    assert "another run" in capsys.readouterr().err


def test_classes_without_objects_are_named(place: Path) -> None:
    split = read_split(place / "data", "val")
    seen = {entry["category_id"] for entry in split.ground_truth()["annotations"]}
    absent = [
        name
        for name, number in zip(split.classes.names, split.classes.category_ids, strict=True)
        if number not in seen
    ]
    assert missing_classes(split) == absent
