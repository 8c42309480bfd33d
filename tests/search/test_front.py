"""Fine-tuning of the front: every confirmed architecture gets a second file, measured like the
first, resumable, said before it is spent, and considered by a budget.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples_search import QUICK, latency_model
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro import cli
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.export.artifact import load_artifact
from rfdetr_repro.records.ap_intervals import difference
from rfdetr_repro.records.pareto import confirmed_points
from rfdetr_repro.records.record import TUNED, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.search import command, engines
from rfdetr_repro.search.budget import Budget
from rfdetr_repro.search.front import gains_table
from rfdetr_repro.search.pick import pick
from rfdetr_repro.search.request import Front, SearchRequest
from rfdetr_repro.search.run import SearchResult, plan_front, run_search
from rfdetr_repro.search.search import Search
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, InputError
from rfdetr_repro.tables.campaign import finetuning_tables
from rfdetr_repro.tables.format import render
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.trainer import Trainer

PROTOCOLS = (QUICK, replace(QUICK, mode="sustained"))
FEW = SearchSpace((48, 64), (16,), (1,), (0, 1, 2), (3, 10))
STEPS = 4


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained supernet and its data."""
    folder = tmp_path_factory.mktemp("front")
    config = EmbeddedConfig(64, train_images=6, val_images=10, test_images=2)
    data = write_embedded(folder / "data", config, workers=1)
    split = read_split(data, "train")
    preset = replace(TINY, model=replace(TINY.model, num_classes=len(split.classes.names)))
    Trainer(Recipe(preset, replace(TRAIN, steps=2), SPACE), split, folder / "run").run()
    return folder


@pytest.fixture(scope="module", autouse=True)
def known() -> Any:
    """Instead of measured engines: milliseconds that grow with tokens, layers and queries. Instead
    of the candidates, which depend on the AP of a few steps: two architectures.
    """

    def measure(search: Search, archs: list[Arch], *rest: Any) -> dict[Arch, float]:
        return {arch: latency_model(search).predict(arch) for arch in archs}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "measure_engines", measure)
        patch.setattr("rfdetr_repro.search.run.candidates", lambda *given: list(FEW)[::-5][:2])
        yield


def request_in(run: Path, data: Path, **changes: Any) -> SearchRequest:
    few = {"engines": 6, "most_engines": 6, "candidates": 2, "protocols": PROTOCOLS, "space": FEW}
    front = Front(STEPS, replace(TRAIN, checkpoint_every=1))
    wanted = {"confirm_on": ("val", "test"), "device": "cpu", "front": front}
    return SearchRequest(run, data, **{**few, **wanted, **changes})


@pytest.fixture(scope="module")
def tuned(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, list[str]]:
    """A search that was killed while it trained the second model, and while it measured it."""
    run = Path(shutil.copytree(start / "run", tmp_path_factory.mktemp("tuned") / "run"))
    told: list[str] = []
    request = request_in(run, start / "data", tell=told.append)
    for name, count in (
        ("rfdetr_repro.train.progress.TrainingDisplay.on_step", STEPS + 2),
        ("rfdetr_repro.bench.confirm.measure_interleaved", 2),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(name, dies_at(name, count))
            run_search(request)
    told.clear()
    return run_search(request), told


def dies_at(name: str, count: int) -> Any:
    from pkgutil import resolve_name

    real = resolve_name(name)
    calls: list[int] = []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return real(*args, **kwargs)

    return called


def of_mode(records: list[Record], mode: str = "buffered") -> list[Record]:
    return [one for one in records if one.protocol and one.protocol.mode == mode]


def test_every_confirmed_architecture_has_a_file_before_and_after(
    tuned: tuple[SearchResult, list[str]],
) -> None:
    result, told = tuned
    assert len(result.tuned) == len(result.confirmed) == 2 * 2 * 2  # models, splits, protocols
    for before, after in zip(result.confirmed, result.tuned, strict=True):
        assert before.model.arch == after.model.arch and before.data == after.data
        assert before.protocol == after.protocol and before.machine == after.machine
        assert (before.model.variant, after.model.variant) == (None, TUNED)
        assert before.artifact and after.artifact
        assert before.artifact.sha256 != after.artifact.sha256
        assert before.model.checkpoint_sha256 != after.model.checkpoint_sha256
        assert after.accuracy and after.latency and after.data
        assert (after.accuracy.resampled is not None) == (after.data.split == "val")  # 10 images
        assert after.accuracy.artifact_sha256 == after.latency.artifact_sha256
    stored = Store(result.search.store.path).read()
    assert len([one for one in stored if one.model.variant == TUNED]) == len(result.tuned)
    # what was searched is as before: fine-tuned files are not part of its frontier
    assert len(confirmed_points(stored)) == 2
    assert any("of 2 are trained already" in line for line in told)


def test_running_again_computes_nothing(
    tuned: tuple[SearchResult, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = tuned

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed again")

    for name in (
        "train.trainer.Trainer.train_step",
        "train.plan.plan",
        "search.deployment.Deployed._exported",
        "bench.confirm.measure_interleaved",
    ):
        monkeypatch.setattr(f"rfdetr_repro.{name}", refuse)
    before = result.search.store.path.read_bytes()
    again = run_search(result.request)
    assert again.tuned == result.tuned and result.search.store.path.read_bytes() == before
    other = replace(result.request, front=Front(STEPS + 1, result.request.front.recipe))
    with pytest.raises(InputError, match="other data or settings"):
        run_search(other)


def test_the_table_shows_the_change_with_its_interval(
    tuned: tuple[SearchResult, list[str]],
) -> None:
    result, _ = tuned
    table = gains_table(result.confirmed, result.tuned, "buffered")
    shown = render([table], "text")
    assert max(map(len, shown.splitlines())) <= 80
    assert "\n".join(result.lines()).endswith(shown.rstrip("\n"))
    before, after = of_mode(result.confirmed), of_mode(result.tuned)
    rows = [row for row in table.rows if row["kind"].text == "boxes"]
    assert len(rows) == len(before) == 4
    for row, old, new in zip(rows, before, after, strict=True):
        assert old.accuracy and new.accuracy and new.model.arch and new.data
        assert (row["arch"].text, row["split"].text) == (new.model.arch.key, new.data.split)
        change = difference(old.accuracy, new.accuracy)
        assert (row["interval"].text == "unknown") == (change is None)
        assert float(row["after"].text) == pytest.approx(100 * new.accuracy.ap, abs=0.051)
        assert float(row["change"].text) == pytest.approx(
            100 * (new.accuracy.ap - old.accuracy.ap), abs=0.051
        )
    # val has ten images, enough for an interval
    assert {row["interval"].text == "unknown" for row in rows if row["split"].text == "val"} == {
        False
    }
    (stored,) = finetuning_tables(Store(result.search.store.path).read())
    assert len(stored.rows) == 4  # models and splits


def test_a_budget_considers_the_fine_tuned_files(
    tuned: tuple[SearchResult, list[str]], tmp_path: Path
) -> None:
    result, _ = tuned
    run = Path(shutil.copytree(result.request.run, tmp_path / "run"))
    store = Store(run / "records.jsonl")
    # made the most accurate of all, which a few steps do not guarantee
    (best, *_) = [one for one in of_mode(result.tuned) if one.data and one.data.split == "val"]
    assert best.accuracy and best.artifact
    store.append(replace(best, accuracy=replace(best.accuracy, ap=0.99, ap_high=0.99)))
    found = pick(run, Budget(1e3))
    assert found.artifact.sha256 == best.artifact.sha256 and TUNED in found.describe()
    assert load_artifact(run / "best-1000ms.onnx").manifest.model.variant == TUNED


def test_the_number_and_the_time_are_said_before(start: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(start / "run", tmp_path / "run"))
    (line,) = plan_front(request_in(run, start / "data"))
    assert line.startswith(f"fine-tuning: at most 2 models, {STEPS} steps each, about ")
    assert sorted(path.name for path in run.iterdir()) == sorted(
        path.name for path in (start / "run").iterdir()
    )
    assert plan_front(request_in(run, start / "data", front=None)) == []
    told: list[str] = []

    def stop(line: str) -> None:
        told.append(line)
        if line.startswith("fine-tuning 1 of"):
            raise Killed

    with pytest.raises(Killed):
        run_search(request_in(run, start / "data", tell=stop))
    counted, time, _ = told[-3:]
    assert counted == f"fine-tuning: 2 models, {STEPS} steps each"
    assert time.startswith("fine-tuning: about ") and "of training" in time
    assert not (run / "finetuned").exists()


def test_data_that_cannot_be_trained_on_are_refused_before_anything_is_spent(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(start / "run", tmp_path / "run"))
    data = Path(shutil.copytree(start / "data", tmp_path / "data"))
    (annotations,) = data.glob("**/*train*.json")
    annotations.unlink()
    monkeypatch.setattr(Store, "append", dies_at("rfdetr_repro.records.store.Store.append", 1))
    given = ["search", "--model", str(run), "--data", str(data), "--device", "cpu"]
    assert cli.main([*given, "--finetune-front"]) == EXIT_BAD_INPUT
    assert "train" in capsys.readouterr().err
    assert cli.main([*given, "--finetune-steps", "5"]) == EXIT_BAD_INPUT
    assert "--finetune-steps without --finetune-front" in capsys.readouterr().err
    split = {"val": read_split(start / "data", "val")}
    with pytest.raises(InputError, match="no split 'train' to fine-tune on"):
        SearchRequest(run, split, front=Front())
    with pytest.raises(InputError, match="steps = 0 is not a whole number"):
        Front(0)
    arguments = command.parser().parse_args([*given[1:], "--finetune-front"])
    assert command.front_of(arguments) == Front()
