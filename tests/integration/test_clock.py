"""A clock that is set back: durations do not use it, and what is up to date is told by content, not
by a file's time.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from samples_run import SPACE, search_record, write_run
from tiny import SPACE as TINY_SPACE
from tiny import TINY, TRAIN

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.reproduce.run import Reproduction
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest, train
from rfdetr_repro.train.run_log import read_log

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("rfdetr_repro", "benchmarks", "reports")
CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.ctime",
    "time.localtime",
    "os.path.getmtime",
    "datetime.utcnow",
}
FILE_TIMES = {"st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns"}
# "path:name" -> why a wrong clock does no harm there.
ALLOWED = {
    "rfdetr_repro/report/build.py:st_mtime": "which run is shown if none is named; it is printed"
}
NOW = 1_700_000_000.0


def readings(path: Path) -> set[str]:
    """Of the clock of the day; a date is written down (``datetime.now(...).isoformat`` or
    ``strftime``), never reckoned with.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    named = {
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "datetime.now"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if ast.unparse(node) in CLOCKS or node.attr in FILE_TIMES:
                found.add(node.attr)
            if node.value in named and node.attr in ("isoformat", "strftime"):
                named.discard(node.value)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {name.name for name in node.names if f"time.{name.name}" in CLOCKS}
    return found | {"now" for _ in named}


def test_nothing_is_reckoned_with_the_clock_of_the_day() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {
        f"{path.relative_to(ROOT).as_posix()}:{name}" for path in files for name in readings(path)
    }
    assert found == set(ALLOWED) and len(files) > 100


@pytest.mark.parametrize(
    "line",
    [
        "time.time() - start",
        "datetime.now(utc) - start",
        "from time import time",
        "path.stat().st_mtime",
        "datetime.now()",
    ],
)
def test_such_a_reading_is_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "good.py").write_text(
        "datetime.now(utc).isoformat(timespec='seconds')\ntime.perf_counter()\n"
    )
    (tmp_path / "bad.py").write_text(line + "\n")
    assert not readings(tmp_path / "good.py") and readings(tmp_path / "bad.py")


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Reproduction, list[str]]:
    """A run with a report, and a list that grows with every report that is built."""
    built: list[str] = []

    def build(folder: Path) -> None:
        (folder / "report.pdf").write_bytes(b"%PDF")
        built.append("built")

    monkeypatch.setattr("rfdetr_repro.report.build.build_report", build)
    run = Reproduction(EMBEDDED, write_run(tmp_path / "run", pictures=False), "test")
    run.report()
    run.report()
    assert built == ["built"]
    return run, built


def test_a_record_of_a_clock_set_back_comes_into_the_report(
    finished: tuple[Reproduction, list[str]],
) -> None:
    """The report was written while the clock was ahead; the Record that came after it seems
    older.
    """
    run, built = finished
    os.utime(run.folder / "report.pdf", (NOW + 3600, NOW + 3600))
    run.store.append(search_record(next(iter(SPACE))))
    os.utime(run.store.path, (NOW, NOW))
    run.report()
    assert len(built) == 2
    again = Reproduction(EMBEDDED, run.folder, "test")
    again.report()
    assert len(built) == 2 and "report.result" not in {row["name"] for row in again.stages.timed()}


def test_records_of_tomorrow_do_not_build_the_report_for_ever(
    finished: tuple[Reproduction, list[str]],
) -> None:
    run, built = finished
    os.utime(run.folder / "report.pdf", (NOW, NOW))
    os.utime(run.store.path, (NOW + 86400, NOW + 86400))
    run.report()
    Reproduction(EMBEDDED, run.folder, "test").report()
    assert len(built) == 1
    (run.folder / "report.pdf").unlink()
    run.report()
    assert len(built) == 2


def test_training_and_stages_take_no_negative_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each look at the clock finds it an hour earlier, that of the progress bar too."""
    hours = count()

    def earlier() -> float:
        return NOW - 3600.0 * next(hours)

    data = write_embedded(
        tmp_path / "data",
        EmbeddedConfig(64, train_images=4, val_images=1, test_images=1),
        workers=1,
    )
    monkeypatch.setattr(time, "time", earlier)
    monkeypatch.setattr("tqdm.std.time", earlier)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # the bar is drawn on terminals only
    run = Reproduction(EMBEDDED, tmp_path / "run", "test")
    request = TrainRequest(
        Recipe(TINY, TRAIN, TINY_SPACE), read_split(data, "train"), run.folder, processes=1
    )
    trained = run.stages.run("train", "training", lambda: (train(request), "done"))
    seconds = [row["seconds"] for row in read_log(run.folder)]
    assert (
        next(hours) > 2
        and 0 < trained.seconds < 600
        and seconds == sorted(seconds)
        and all(0 < one < 600 for one in seconds)
    )
    assert 0 <= json.loads((run.folder / "stages.json").read_text())["train"]["seconds"] < 600
    assert "-" not in capsys.readouterr().out.split("done; ")[1]
