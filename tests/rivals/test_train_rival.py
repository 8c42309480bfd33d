"""The command train-rival: what it refuses before anything is spent, and a whole comparison of
small models.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers.models.lw_detr", reason="transformers (>= 5) is missing")

from tiny import SPACE, TINY

from rfdetr_repro.cli import main
from rfdetr_repro.records.record import RIVALS, Budget
from rfdetr_repro.records.store import Store
from rfdetr_repro.rivals import command, comparison, names
from rfdetr_repro.rivals.comparison import BUDGET, RECORDS, measured_archs
from rfdetr_repro.rivals.names import PICO_SIZES, entrant
from rfdetr_repro.rivals.recipe import SETTINGS, rival_recipe
from rfdetr_repro.spec.presets import PICO, PICO_SPACE, PICO_TRAIN
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.train.recipe import Recipe

ALIKE = ["--steps", "2", "--batch-size", "2", "--evaluate-every", "0", "--threads", "1"]


def refused(capsys: pytest.CaptureFixture[str], words: list[str], out: Path) -> str:
    """The line of a command that is refused without leaving anything behind."""
    assert main(["train-rival", *words, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert not out.exists()
    return told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "dfin-pico"], "unknown model 'dfin-pico'; did you mean dfine-pico?"),
        (["--model", "dfine-pico,dfine-pico"], "the model dfine-pico is named twice"),
        (["--model", "dfine-pico=no.safetensors"], "the file of weights does not exist"),
        (["--model", "yolo11-n"], "unknown model 'yolo11-n'"),
        (["--model", "dfine-pico", "--seeds", "0,0"], "names a number twice"),
        (["--model", "dfine-pico", "--steps", "0"], "is not a whole number"),
        (["--model", "dfine-pico", "--set", "rtdetr-pico:lr=1"], "which is not trained"),
        (["--model", "dfine-pico", "--set", "rate=1"], "unknown setting 'rate'"),
        (["--model", "dfine-pico", "--set", "lr=fast"], "'lr=fast' is not float"),
        (["--model", "dfine-pico", "--set", "dense_weight=1"], "of RF-DETR's training only"),
        (["--model", "dfine-pico", "--shape", "50x50"], "does not run on images of this size"),
        (
            ["--model", "dfine-pico,lwdetr-pico", "--set", "lwdetr-pico:steps=3"],
            "the budgets differ: steps is 4000 for dfine-pico and 3 for lwdetr-pico",
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    assert told in refused(capsys, [*words, "--data", str(folder)], tmp_path / "out")


def test_data_without_a_val_split_are_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    (data / "annotations" / "instances_val.json").unlink()
    shutil.rmtree(data / "val")
    words = ["--model", "dfine-pico", "--data", str(data)]
    assert "'val'" in refused(capsys, words, tmp_path / "out")


def test_every_family_has_names_as_the_issue_writes_them() -> None:
    assert entrant("lwdetr-t").id == "lwdetr-tiny"
    assert entrant("dfine-n").id == "dfine-n" and entrant("rtdetr-r18").id == "rtdetr-r18"
    assert entrant("rfdetr-pico").is_ours and not entrant("dfine-pico").is_ours
    assert entrant("dfine").id == "dfine-n"
    if any(name.startswith("deimv2-") for name in names.rival_sizes()):
        assert entrant("deimv2").id == "deimv2-atto"


def test_a_rival_has_the_budget_of_rf_detr() -> None:
    """Everything that both trainings have is equal, at pico width the rates too."""
    for size in PICO_SIZES.values():
        recipe = rival_recipe(size, PICO_TRAIN)
        assert {name: getattr(recipe, name) for name in SETTINGS} == {
            name: getattr(PICO_TRAIN, name) for name in SETTINGS
        }


def test_the_measured_architectures_are_spread_over_the_space() -> None:
    recipe = Recipe(replace(PICO, model=replace(PICO.model, masks=False)), PICO_TRAIN, PICO_SPACE)
    archs = measured_archs(recipe, 4)
    assert PICO.arch in archs and len(archs) == len(set(archs)) == 5
    assert all(arch in set(PICO_SPACE) or arch == PICO.arch for arch in archs)
    assert measured_archs(replace(recipe, space=None), 4) == [PICO.arch]


@pytest.fixture
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """RF-DETR's pico is the tiny model of the tests, and few samples are taken."""
    quick = Protocol(buffer_ms=0.0, warmup=1, min_samples=4, max_samples=4, threads=1)
    monkeypatch.setattr(names, "preset", lambda name: TINY)
    monkeypatch.setattr(comparison, "_SPACES", {"pico": SPACE})
    monkeypatch.setattr(command, "_protocols", lambda args: [quick])


@pytest.mark.slow
def test_a_comparison_is_trained_exported_measured_and_answered(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, small_and_quick: None
) -> None:
    out = tmp_path / "out"
    words = ["train-rival", "--data", str(folder), "--out", str(out), *ALIKE, "--archs", "1"]
    words += ["--seeds", "0,1"]
    alike = [*words, "--model", "rfdetr-pico,lwdetr-pico", "--set", "lwdetr-pico:lr=1e-3"]
    shaped = [*alike, "--shape", "64x64", "--queries", "8"]
    assert main(shaped) == 0
    printed = capsys.readouterr().out
    assert "Trained alike on" in printed and "At equal latency on" in printed
    found = Store(out / RECORDS).read()
    assert {one.campaign for one in found} == {RIVALS}
    budget = json.loads((out / BUDGET).read_text())
    images = budget["batch_size"] * budget["accumulate"]
    assert {one.budget for one in found} == {Budget(budget["steps"], images)}
    assert {(one.model.family, one.seed) for one in found} == {
        (family, seed) for family in ("rfdetr", "lwdetr") for seed in (0, 1)
    }
    assert {one.data.split for one in found if one.data} == {"val", "test"}
    assert all(one.accuracy is not None and one.accuracy.ap is not None for one in found)
    files = {one.model.variant: one.artifact for one in found if one.model.family == "lwdetr"}
    assert len({artifact.sha256 for artifact in files.values() if artifact}) == 2
    assert budget["steps"] == 2
    log = out / "lwdetr-pico" / "seed1" / "train_log.jsonl"
    assert json.loads(log.read_text().splitlines()[-1])["step"] == 2

    # the same command does nothing again, and other budgets do not enter the folder
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert main(shaped) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    assert len(Store(out / RECORDS).read()) == len(found)
    capsys.readouterr()
    longer = ["3" if word == "2" else word for word in shaped]
    assert main(longer) == 2
    assert "this comparison was started with steps = 2, not 3" in capsys.readouterr().err
    assert main(["tables", "--table", "rivals", "--records", str(out / RECORDS)]) == 0
    table = capsys.readouterr().out
    assert re.search(r"LW-DETR pico\s+\|", table)
