"""The place of each stage in a campaign, and what its lines say about the stages that follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rfdetr_repro.reproduce import pictures
from rfdetr_repro.reproduce.outlook import later_steps, stage_names, stage_of
from rfdetr_repro.reproduce.run import Reproduction, Stages
from rfdetr_repro.spec import stage as stages
from rfdetr_repro.spec.campaign import EMBEDDED, Pretraining
from rfdetr_repro.spec.logs import progress_bar
from rfdetr_repro.spec.train_config import TrainConfig

SECONDS = {"latency": 100.0, "search": 50.0, "confirm": 200.0, "report": 30.0}


def test_the_stages_of_a_campaign() -> None:
    names = stage_names(EMBEDDED)
    assert names[:2] == ("data", "train") and names[-1] == "report" and len(names) == 11
    assert "finetune" not in stage_names(replace(EMBEDDED, finetune_steps=0))
    two = replace(EMBEDDED, pretraining=Pretraining(Path("other"), TrainConfig()))
    assert stage_names(two)[:3] == ("data", "pretraining", "train")


def test_what_a_stage_knows_of_later_ones() -> None:
    names = stage_names(EMBEDDED)
    train = stage_of("train", "training the supernet", names, SECONDS, 300)
    assert train is not None and (train.number, train.of) == (2, 11)
    assert (train.rest_s, train.rest_steps) == (380.0, 300)
    assert train.all_left_s(60.0, 0.5) == 60 + 380 + 150
    confirm = stage_of("confirm", "", names, SECONDS, 300)
    assert confirm is not None and confirm.rest_s == 30.0 and confirm.rest_steps == 300
    report = stage_of("report", "", names, SECONDS, 300)
    assert report is not None and report.all_left_s(1.0, None) == 1.0
    unknown = stage_of("train", "", names, {}, 300)
    assert unknown is not None and unknown.all_left_s(60.0, 0.5) is None
    assert stage_of("something else", "", names, SECONDS, 0) is None


def test_steps_of_later_stages_count_every_model_that_is_fine_tuned() -> None:
    assert later_steps(EMBEDDED) == 300
    assert later_steps(replace(EMBEDDED, finetune_front=True)) == EMBEDDED.candidates * 300
    assert later_steps(replace(EMBEDDED, finetune_steps=0)) == 0


def test_the_work_of_a_stage_knows_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tqdm.tqdm", lambda items, desc, **rest: desc)
    kept = Stages(tmp_path / "stages.json").of(EMBEDDED)
    kept.keep("outlook", lambda: SECONDS)
    seen: list[Any] = []

    def work() -> tuple[int, str]:
        seen.append(stages.current())
        seen.append(progress_bar([1], "exporting engines"))
        return 1, "done"

    kept.run("latency", "measuring", work)
    assert seen[0] == stages.Stage(3, 11, "measuring", 280.0, 300)
    assert seen[1] == "stage 3/11 exporting engines"
    assert stages.current() is None
    assert "stage 3 of 11 [latency] measuring\n" in capsys.readouterr().out
    kept.run("an extra", "more", work)
    assert seen[2] is None and "\n[an extra] more\n" in "\n" + capsys.readouterr().out


def test_a_repeated_stage_names_the_model_that_is_chosen_now(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    for detail in ("first", "second"):
        for name in ("search", "evaluation"):
            Stages(path).of(EMBEDDED).run(name, "", lambda detail=detail: (None, detail))
    rows = Stages(path).rows
    assert (rows["search"]["detail"], rows["evaluation"]["detail"]) == ("first", "second")


def test_pictures_are_those_of_the_model_that_their_captions_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(session: Any, split: Any, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(session.artifact_id.sha256)
        drawn.append(path.name)

    drawn: list[str] = []
    monkeypatch.setattr(pictures, "_draw", draw)
    splits: Any = dict.fromkeys(("train", "val", "test"), SimpleNamespace(description="Parts."))
    both = ["val.png", "test.png"]
    for model, expected in (("a", both), ("a", []), ("b", both)):
        drawn.clear()
        session: Any = SimpleNamespace(artifact_id=SimpleNamespace(sha256=12 * model))
        paths = pictures.draw_examples(session, splits, tmp_path / "predictions")
        assert drawn == expected
        assert [path.read_text() for path in paths] == [12 * model] * 2
        captions = json.loads((tmp_path / "predictions.json").read_text())
        assert all(one["caption"].endswith(f"Model {12 * model}.") for one in captions)


def test_every_stage_of_the_flow_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages of the whole flow, with its work left out, are those that are announced."""
    ran: list[str] = []

    class Anything:
        def __getattr__(self, name: str) -> Any:
            return Anything()

        def __call__(self, *rest: Any, **named: Any) -> Any:
            return Anything()

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *rest: Any) -> None:
            pass

    def run(self: Stages, name: str, title: str, work: Any, earlier_s: float = 0.0) -> Any:
        ran.append(name)
        return Anything()

    monkeypatch.setattr(Stages, "run", run)
    monkeypatch.setattr(
        Stages, "keep", lambda self, name, compute: {"at": "now", "arch": "r64-p16-w1-d1-q5"}
    )
    monkeypatch.setattr(Reproduction, "follow_data", lambda self, splits: None)
    monkeypatch.setattr(Reproduction, "search", lambda self, splits: Anything())
    monkeypatch.setattr("rfdetr_repro.reproduce.run.write_summary", lambda *rest, **named: None)
    for campaign in (
        EMBEDDED,
        replace(EMBEDDED, finetune_front=True),
        replace(EMBEDDED, follow_data=True),
        replace(EMBEDDED, finetune_steps=0),
    ):
        ran.clear()
        Reproduction(campaign, tmp_path / "run", "test").run()
        assert tuple(ran) == stage_names(campaign)
