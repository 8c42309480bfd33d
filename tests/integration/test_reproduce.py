"""The main job on a tiny campaign: resumable after a kill at any stage, nothing computed twice,
shared equals one by one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import TINY, TRAIN

from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.predict import main as predict
from rfdetr_repro.records.record import FINE_TUNING, TUNED
from rfdetr_repro.records.store import Store
from rfdetr_repro.reproduce.run import Reproduction
from rfdetr_repro.reproduce.summary import _difference
from rfdetr_repro.reproduce.training import train
from rfdetr_repro.search.economy import AP_GAP
from rfdetr_repro.search.evaluation import shared_detections
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.campaign import EMBEDDED, Campaign
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.command import main as tables
from rfdetr_repro.train.run import Run, TrainRequest
from rfdetr_repro.train.trainer import MODEL

SPACE = SearchSpace((48, 64), (16,), (1, 2), (0, 2), (3, 10))
QUICK = Protocol(mode="buffered", buffer_ms=0.0, warmup=1, min_samples=3, max_samples=3)


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedded(
        tmp_path_factory.mktemp("set"),
        EmbeddedConfig(64, train_images=6, val_images=4, test_images=3),
        workers=1,
    )


@pytest.fixture(scope="module")
def tiny_campaign(data: Path) -> Campaign:
    sustained = replace(QUICK, mode="sustained")
    return replace(
        EMBEDDED,
        preset=TINY,
        weights=None,
        space=SPACE,
        train=TRAIN,
        data=data,
        engines=6,
        candidates=2,
        finetune_steps=4,
        buffered=QUICK,
        sustained=sustained,
        search_masks=True,
    )


@pytest.fixture(scope="module")
def finished(tiny_campaign: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """A run that was killed in the middle of every stage that can be, and then finished."""
    folder = tmp_path_factory.mktemp("run")
    for stage in ("train", "latency", "evaluate", "confirm", "predictions"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            _kill_in(stage, patch)
            Reproduction(tiny_campaign, folder, "test").run()
    whole = Reproduction(tiny_campaign, folder, "test")
    whole.run()
    return whole


def _kill_in(stage: str, patch: pytest.MonkeyPatch) -> None:
    """Lets the stage begin its work and die in it."""
    if stage == "train":
        patch.setattr("rfdetr_repro.train.progress.TrainingDisplay.on_step", _raise_at(5))
    elif stage in ("latency", "evaluate", "confirm"):
        patch.setattr(
            "rfdetr_repro.records.store.Store.append",
            _append_then_die(1 if stage == "latency" else 3),
        )
    else:
        patch.setattr("rfdetr_repro.reproduce.pictures.detections_figure", _raise_at(0))


def _raise_at(step: int):  # type: ignore[no-untyped-def]
    def update(*args: object, **kwargs: object) -> None:
        if step == 0 or args[1].step == step:  # type: ignore[attr-defined]
            raise Killed

    return update


def _append_then_die(count: int):  # type: ignore[no-untyped-def]
    real = Store.append
    done = []

    def append(self: Store, record):  # type: ignore[no-untyped-def]
        stored = real(self, record)
        done.append(record)
        if len(done) == count:
            raise Killed
        return stored

    return append


@pytest.mark.slow
def test_every_configuration_and_the_confirmed_ones_have_records(
    finished: Reproduction, tiny_campaign: Campaign
) -> None:
    records = finished.store.read()
    searched = [
        record for record in records if record.source == "search" and record.model.variant is None
    ]
    assert {record.model.arch for record in searched} == set(SPACE)
    assert all(
        record.latency.method == "modelled" and record.accuracy.ap is not None
        for record in searched
    )
    confirmed = [record for record in records if record.source == "protocol"]
    assert {record.data.split for record in confirmed} == {"val", "test"}
    assert {record.protocol.mode for record in confirmed} == {"buffered", "sustained"}
    for record in confirmed:
        assert (
            record.accuracy.artifact_sha256
            == record.latency.artifact_sha256
            == record.artifact.sha256
        )
    lines = [
        json.loads(line) for line in (finished.folder / "records.jsonl").read_text().splitlines()
    ]
    results = {
        (line["id"], json.dumps([line.get("accuracy"), line.get("mask_accuracy")]), _samples(line))
        for line in lines
    }
    # killed four times, nothing measured twice
    assert len(results) == len({line["id"] for line in lines})
    for record in confirmed:
        decided = (
            record.protocol.mode == tiny_campaign.latency_mode and record.campaign != FINE_TUNING
        )
        assert (record.latency.predicted_ms is not None) == decided
    assert {record.latency.confirmed_error is not None for record in searched} == {True}


def _samples(line: dict) -> str | None:
    return (line.get("latency") or {}).get("samples_sha256")


def test_the_report_and_the_summary_are_whole(finished: Reproduction) -> None:
    assert (finished.folder / "report.pdf").read_bytes().startswith(b"%PDF")
    assert "not COCO AP" in (finished.folder / "report.html").read_text()
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert (
        summary["search"]["configurations"] == len(SPACE)
        and summary["search"]["one_by_one"]["speedup"] > 0
    )
    stages = {"data", "train", "latency", "search", "confirm", "family", "finetune"}
    assert {stage["name"] for stage in summary["stages"]} >= stages
    assert len(list((finished.folder / "predictions").glob("*.png"))) == 2


def test_the_chosen_model_is_evaluated_on_test_with_a_threshold_of_val(
    finished: Reproduction,
) -> None:
    found = json.loads((finished.folder / "evaluation" / "metrics.json").read_text())
    chosen = finished.chosen().record
    best = max(
        record.accuracy.ap
        for record in finished.store.read()
        if record.source == "protocol"
        and record.data.split == "val"
        and record.protocol.mode == "buffered"
    )
    assert chosen.accuracy.ap == best and found["artifact"] == chosen.artifact.sha256
    assert (found["split"], found["num_images"]) == ("test", 3)
    for kind in ("boxes", "masks"):
        threshold = found["diagnosis"][kind]["threshold"]
        assert (threshold["chosen_on"], threshold["evaluated_on"]) == ("val", "test")
        assert (finished.folder / "evaluation" / f"{kind}-pr.svg").exists()
    page = (finished.folder / "report.html").read_text()
    assert "What the chosen model does well and badly" in page
    assert "threshold chosen on val" in finished.stages.rows["evaluation"]["detail"]


def test_running_again_computes_nothing(
    finished: Reproduction, tiny_campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed again")

    for name in (
        "train.trainer.Trainer.train_step",
        "search.deployment.Deployed._exported",
        "search.evaluation.shared_detections",
        "bench.confirm.measure_interleaved",
    ):
        monkeypatch.setattr(f"rfdetr_repro.{name}", refuse)
    before = (finished.folder / "records.jsonl").read_bytes()
    Reproduction(tiny_campaign, finished.folder, "test").run()
    assert (finished.folder / "records.jsonl").read_bytes() == before


def test_the_front_is_fine_tuned_in_a_finished_run(
    finished: Reproduction, tiny_campaign: Campaign, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    front = Reproduction(replace(tiny_campaign, finetune_front=True), folder, "test")
    front.run()
    records = front.store.read()
    before = {record.model.arch for record in records if record.source == "protocol"}
    tuned = [
        record
        for record in records
        if record.model.variant == TUNED and record.campaign == tiny_campaign.name
    ]
    confirmed = {
        record.model.arch
        for record in records
        if record.source == "protocol" and record.model.variant is None
    }
    assert {record.model.arch for record in tuned} == confirmed <= before
    assert {record.data.split for record in tuned} == {"val", "test"}
    assert front.stages.rows["front"]["detail"].startswith(f"{len(confirmed)} model")
    assert len(list((folder / "finetuned").glob("r*/artifacts/*.onnx"))) == len(confirmed)
    assert f"{tuned[0].artifact.sha256[:12]}" in (folder / "report.html").read_text()


def test_it_trains_on_a_gpu_where_there_is_one(
    tiny_campaign: Campaign,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: list[TrainRequest] = []

    def accepted(request: TrainRequest) -> Run:
        given.append(request)
        return Run(request.folder, request.folder / MODEL, 1, 60.0, "float32", None)

    monkeypatch.setattr("rfdetr_repro.ops.device.choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("rfdetr_repro.train.run.train", accepted)
    train(tiny_campaign, {"train": SimpleNamespace(has_masks=True)}, tmp_path, None)
    assert given[0].device == torch.device("cuda") and "on cuda" in capsys.readouterr().out


def test_another_recipe_in_the_same_folder_is_refused(
    finished: Reproduction, tiny_campaign: Campaign
) -> None:
    other = replace(tiny_campaign, train=replace(TRAIN, lr=1e-3))
    with pytest.raises(InputError, match="other data or settings"):
        Reproduction(other, finished.folder, "test").run()


def test_shared_search_equals_one_by_one(finished: Reproduction) -> None:
    splits, _ = finished.data()
    search = finished.search(splits).search
    split = splits["val"]
    evaluator = CocoEvaluator(split)
    archs = [arch for arch in SPACE if arch.backbone == (64, 64, 16, 2)]
    assert archs
    shared = shared_detections(search.detector, split, archs, masks=True)
    with torch.inference_mode():
        for arch in archs:
            alone = single_detections(search.detector.slice(arch), split, masks=True)
            for ours, theirs in zip(shared[arch], alone, strict=True):
                assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
            # products of other sizes may add in another order: what is nearly tied changes places
            for kind in ("bbox", "segm"):
                ours_ap, theirs_ap = (
                    evaluator.accuracy(found, kind).ap for found in (shared[arch], alone)
                )
                assert ours_ap == pytest.approx(theirs_ap, abs=AP_GAP), (arch, kind)


@pytest.mark.parametrize(
    ("ap", "score", "fails"),
    [(0.0, 0.0, False), (1e-3, 1e-6, False), (0.02, 1e-6, True), (0.0, 0.1, True)],
)
def test_rounding_is_no_failure_and_more_is_one(
    finished: Reproduction, monkeypatch: pytest.MonkeyPatch, ap: float, score: float, fails: bool
) -> None:
    row = {
        "configurations": 9,
        "shared_seconds": 1.0,
        "single_seconds": 4.0,
        "largest_ap_gap": ap,
        "largest_score_gap": score,
    }
    monkeypatch.setattr("rfdetr_repro.search.economy.compare_costs", lambda search, group: row)
    search = SimpleNamespace(space=SPACE)
    if fails:
        with pytest.raises(StatedFailure, match="more than rounding explains"):
            finished.costs(search)
    else:
        found = finished.costs(search)
        assert found["speedup"] == 4.0 and _difference(found) == (
            "equal" if ap == 0 else "0.1 points apart at most"
        )


def test_tables_and_prediction_of_the_run(
    finished: Reproduction, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not tables(["--table", "frontier", "--records", str(finished.folder / "records.jsonl")])
    assert "SYNTHETIC" in capsys.readouterr().out
    image = data / "val" / "000000.jpg"
    predict(
        [
            str(image),
            "--checkpoint",
            str(finished.folder / "supernet.safetensors"),
            "--threshold",
            "0",
            "--out",
            str(tmp_path),
        ]
    )
    (row,) = json.loads((tmp_path / "predictions.json").read_text())
    assert (
        row["image"] == "000000.jpg"
        and len(row["objects"]) == 10
        and (tmp_path / "000000.png").exists()
    )
