"""Many tiny data sets through the real flow: RF100-VL's layout, kill and resume, a broken data set
among good ones, and Ray.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, TRAIN

from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.records.data_sets import DECIDING, VARIANTS, results_of
from rfdetr_repro.records.record import MEAN
from rfdetr_repro.records.store import Store
from rfdetr_repro.reproduce.rf100 import runner
from rfdetr_repro.reproduce.rf100.command import _chosen, main, parser
from rfdetr_repro.reproduce.rf100.data_set_run import Wanted
from rfdetr_repro.reproduce.rf100.data_sets import check_data_set, find_data_sets
from rfdetr_repro.search.request import Cluster
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import EXIT_OK, InputError
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.command import build_tables

SPACE = SearchSpace((48, 64), (16,), (1, 2), (0, 2), (3, 10))
QUICK = Protocol(mode="buffered", buffer_ms=0.0, warmup=1, min_samples=3, max_samples=3)
NAMES = ("bees", "cracks")


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets as RF100-VL has them: NAME/{train,valid,test}/_annotations.coco.json
    beside the pictures, with the category that Roboflow puts before the classes.
    """
    root = tmp_path_factory.mktemp("rf100-vl")
    for seed, name in enumerate(NAMES):
        made = write_embedded(
            tmp_path_factory.mktemp("made"),
            EmbeddedConfig(64, train_images=6, val_images=4, test_images=3, seed=seed),
            workers=1,
        )
        for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
            target = root / name / folder
            shutil.copytree(made / split, target)
            document = json.loads((made / "annotations" / f"instances_{split}.json").read_text())
            document["info"] = {"description": "Exported from roboflow.com"}
            document["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
            for annotation in document["annotations"]:
                annotation["segmentation"] = []
            (target / "_annotations.coco.json").write_text(json.dumps(document))
        (root / name / "README.dataset.txt").write_text("# notes of the export")
    return root


def request(folder: Path, **changes: Any) -> runner.Request:
    campaign = replace(
        EMBEDDED,
        preset=replace(TINY, model=replace(TINY.model, masks=False)),
        weights=None,
        space=SPACE,
        train=TRAIN,
        engines=6,
        most_engines=6,
        candidates=2,
        finetune_steps=4,
        buffered=QUICK,
        sustained=replace(QUICK, mode="sustained"),
    )
    # a wide tolerance: latencies of a loaded machine decide nothing here
    wanted = Wanted(TINY.arch, tolerance=0.99)
    return replace(runner.Request(campaign, wanted, folder, "both", "test"), **changes)


def go(asked: runner.Request, root: Path) -> runner.Outcome:
    """What the command does after its arguments, with the tiny model's own sizes."""
    found, failed = runner.check_all(find_data_sets([root]), 16)
    sizing = runner.kept_sizing(asked, found, TINY.arch)
    return runner.run(asked, found, failed, sizing)


@pytest.fixture(scope="module")
def finished(benchmark_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> runner.Outcome:
    """A run that was killed in the first training, in the second confirmation and between two data
    sets, and then finished.
    """
    folder = tmp_path_factory.mktemp("run")
    from rfdetr_repro.search.search import Search

    real = Search.confirm_together
    calls: list[Any] = []

    def confirm_then_die(self: Search, *rest: Any, **named: Any) -> Any:
        found = real(self, *rest, **named)
        calls.append(found)
        if len(calls) == 2:
            raise Killed
        return found

    def die(*rest: Any, **named: Any) -> Any:
        raise Killed

    for where, what in (
        ("rfdetr_repro.train.progress.TrainingDisplay.on_step", die),
        ("rfdetr_repro.search.search.Search.confirm_together", confirm_then_die),
        ("rfdetr_repro.reproduce.rf100.runner._collect", die),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(where, what)
            go(request(folder), benchmark_folder)
    outcome = go(request(folder), benchmark_folder)
    assert outcome.failed == []
    assert len(calls) == 2  # the first data set was confirmed once, before the kill
    return outcome


@pytest.mark.slow
def test_every_data_set_has_fixed_found_and_tuned(finished: runner.Outcome) -> None:
    results = results_of(finished.records)
    assert [one.name for one in results] == list(NAMES)
    for one in results:
        assert set(one.of) == set(VARIANTS)
        assert one.arch("fixed architecture") == TINY.arch
        assert one.arch("nas") == one.arch("nas+fine-tuning") and one.arch("nas") in set(SPACE)
        assert one.facts.images == 6 and 1 <= one.facts.classes <= 18
        assert 0 < one.facts.mean_object_area < 1
        for record in one.of.values():
            assert record.accuracy.artifact_sha256 == record.artifact.sha256
    # fixed and found are of one supernet, the tuned file is of another
    weights = {v: results[0].of[v].model.checkpoint_sha256 for v in VARIANTS}
    assert weights["nas"] == weights["fixed architecture"] != weights["nas+fine-tuning"]


def test_means_are_over_all_data_sets(finished: runner.Outcome) -> None:
    found = [record for record in finished.records if record.source == MEAN]
    assert {record.model.variant for record in found} == set(VARIANTS)
    results = results_of(finished.records)
    for record in found:
        expected = sum(one.ap(record.model.variant) for one in results) / len(NAMES)
        assert record.accuracy.ap == pytest.approx(expected)
        assert record.data.name == "both" and record.data.split.startswith(DECIDING)
        assert len(record.parts) == len(NAMES)


def test_the_tables_of_a_run(finished: runner.Outcome) -> None:
    rows, means, lines = build_tables("rf100", finished.records)
    assert [row["data"].text for row in rows.rows] == list(NAMES)
    assert len(means.rows) == 6 and len(lines.rows) == 8
    assert lines.rows[0]["their_slope"].text == "-0.009"


def test_a_finished_run_is_only_read(
    finished: runner.Outcome, benchmark_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(finished.folder)

    def refuse(*rest: Any) -> Any:
        raise AssertionError("a finished data set was run again")

    before = {record.id: record for record in Store(path / runner.RECORDS).read()}
    monkeypatch.setattr(runner.Work, "one", refuse)
    again = go(request(path), benchmark_folder)
    same = {r.id: r.to_json() for r in again.records if r.source != MEAN}
    assert same == {r.id: r.to_json() for r in before.values() if r.source != MEAN}


def test_other_settings_need_another_folder(
    finished: runner.Outcome, benchmark_folder: Path
) -> None:
    asked = request(Path(finished.folder))
    other = replace(asked, campaign=replace(asked.campaign, finetune_steps=5))
    with pytest.raises(InputError, match="begun with other settings"):
        go(other, benchmark_folder)


def test_a_failing_data_set_does_not_stop_the_others(
    finished: runner.Outcome,
    benchmark_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One is finished, one cannot be read, one fails while it runs: the last two are one line."""
    root = tmp_path / "three"
    shutil.copytree(benchmark_folder, root)
    shutil.copytree(root / "bees", root / "dials")
    (root / "dials" / "valid" / "_annotations.coco.json").write_text('{"images": [')
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out)
    shutil.rmtree(out / "cracks")

    def fail(self: runner.Work, item: Any, folder: Path) -> None:
        raise ZeroDivisionError("of the test\nsecond line")

    monkeypatch.setattr(runner.Work, "_run", fail)
    outcome = go(request(out), root)
    lines = dict(outcome.failed)
    assert set(lines) == {"cracks", "dials"} and all("\n" not in one for one in lines.values())
    assert "dials" in lines["dials"] and "ZeroDivisionError: of the test" in lines["cracks"]
    assert "Traceback" in (out / "cracks" / runner.ERROR).read_text()
    assert [one.name for one in results_of(outcome.records)] == ["bees"]
    assert not any(record.source == MEAN for record in outcome.records)


@pytest.mark.parity
def test_workers_of_ray_do_the_same(benchmark_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    asked = request(tmp_path / "out", cluster=Cluster(count=1))
    asked = replace(asked, campaign=replace(asked.campaign, finetune_steps=0))
    outcome = go(asked, benchmark_folder / NAMES[0])
    assert outcome.failed == []
    assert [one.name for one in results_of(outcome.records)] == [NAMES[0]]


def test_folders_of_data_sets_are_found(benchmark_folder: Path, tmp_path: Path) -> None:
    found = find_data_sets([benchmark_folder])
    assert [one.name for one in found] == list(NAMES)
    assert find_data_sets([benchmark_folder / "bees"])[0].root == benchmark_folder / "bees"
    (benchmark_folder / ".cache").mkdir(exist_ok=True)
    assert len(find_data_sets([benchmark_folder])) == 2
    with pytest.raises(InputError, match="two data sets are called bees"):
        find_data_sets([benchmark_folder, benchmark_folder / "bees"])
    with pytest.raises(InputError, match="no such data set"):
        find_data_sets([tmp_path / "nothing"])
    with pytest.raises(InputError, match="neither a data set"):
        find_data_sets([tmp_path])


def test_all_is_checked_before_anything_is_spent(
    benchmark_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="space has 12, 16, 20"):
        main(
            [
                "--data",
                str(benchmark_folder),
                "--out",
                str(tmp_path / "a"),
                "--fixed",
                "r64-p8-w1-d2-q10",
            ]
        )
    with pytest.raises(InputError, match="steps and --time-budget"):
        main(["--data", "x", "--out", str(tmp_path / "a"), "--steps", "9", "--time-budget", "1h"])
    before = tmp_path / "before.toml"
    before.write_text('[pretraining]\ndata = "elsewhere"\n')
    with pytest.raises(InputError, match="a campaign with a pretraining"):
        main(["--data", "x", "--out", str(tmp_path / "a"), "--campaign", str(before)])
    root = tmp_path / "broken"
    shutil.copytree(benchmark_folder / "bees", root / "bees")
    (root / "bees" / "test" / "_annotations.coco.json").unlink()
    monkeypatch.setattr(runner, "run", lambda *rest: pytest.fail("something was spent"))
    with pytest.raises(InputError, match="none of 1 data sets can be used"):
        main(["--data", str(root), "--out", str(tmp_path / "b")])
    assert not (tmp_path / "b").exists()


def test_the_time_is_divided_among_the_data_sets_that_can_be_used(
    benchmark_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sets"
    for name in ("bees", "broken"):
        shutil.copytree(benchmark_folder / "bees", root / name)
    (root / "broken" / "test" / "_annotations.coco.json").unlink()
    asked = ["--data", str(root), "--out", str(tmp_path / "a"), "--time-budget", "1h", "--plan"]
    assert main(asked) == EXIT_OK
    assert "1 data set of 60 min each: 1 h" in capsys.readouterr().out


def test_numbers_that_are_given_hold_in_a_quick_run_too() -> None:
    def counts(*more: str) -> tuple[int, int, int, int]:
        args = parser().parse_args(["--data", "x", "--out", "y", *more])
        found = _chosen(args)
        return found.train.steps, found.finetune_steps, found.engines, found.candidates

    assert counts("--quick") == (100, 60, 6, 2)
    given = ("--steps", "9", "--finetune-steps", "8", "--engines", "7", "--candidates", "5")
    assert counts("--quick", *given) == counts(*given) == (9, 8, 7, 5)
    assert counts("--steps", "9")[3] == 3


def test_common_settings(benchmark_folder: Path) -> None:
    found = [check_data_set(source, 16) for source in find_data_sets([benchmark_folder])]
    made = [
        replace(one, sizing=replace(one.sizing, resolution=side, queries=queries))
        for one, (side, queries) in zip(
            [*found, found[0]], ((128, 25), (192, 100), (320, 50)), strict=True
        )
    ]
    common = runner.common_sizing(made)
    assert (common.resolution, common.queries) == (192, 100)
    given = runner.common_sizing(made, TINY.arch)
    assert (given.resolution, given.queries) == (64, 10)
