"""Rivals beside what their authors state: the states of a number, rows that cannot be counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.yolo_ultralytics import BASELINE as ULTRALYTICS
from rfdetr_repro.bench import stated as module
from rfdetr_repro.bench.command.costs import main
from rfdetr_repro.bench.stated import Counted, Stated, stated, table
from rfdetr_repro.spec.errors import InputError


@pytest.mark.parametrize(
    ("said", "counted", "state"),
    [
        (2.4, 2.408932, "reproduced"),
        (9.7, 9.749, "reproduced"),
        (9.7, 9.751, "cut"),  # 9.8 if rounded
        (20.0, 20.175, "reproduced"),  # the authors print whole millions
        (42.0, 42.891, "cut"),
        (36.0, 33.61, "differ by -6.6%"),
    ],
)
def test_the_state_of_a_number(said: float, counted: float, state: str) -> None:
    row = Stated("a", said, None, Counted(round(1e6 * counted), 1e9, "-"), "because")
    told = f"params {state}" + (" (because)" if "differ" in state else "")
    assert row.state == told


def test_a_row_that_cannot_be_counted_leaves_the_others_standing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that is missing, one that fails, and one that counts."""
    answers: dict[str, Any] = {
        "yolo26-n": InputError("yolo26n needs ultralytics", hint="pip install ultralytics"),
        "yolo26-s": {("ultralytics", "deployed"): (9_496_140, 20.933e9)},
    }

    class Fake:
        cannot_count = ""

        def counts(self, size: Any) -> Any:
            answer = answers[size.id]
            if isinstance(answer, Exception):
                raise answer
            return answer

    entries = dict(catalog.entries())
    for name in answers:
        entries[name] = entries[name]._replace(baseline=Fake())
    monkeypatch.setattr(catalog, "entries", lambda: entries)
    rows = list(stated(["yolo26-n", "yolo26-s", "yolox-s"]))
    assert rows[0].counted is None and "needs ultralytics" in rows[0].state
    assert rows[1].state == "params reproduced, GFLOPs reproduced"
    assert rows[2].state.startswith("not counted: ")
    lines = table(rows).splitlines()
    assert len(lines) == 4 and lines[2].split()[1:5] == ["9.5", "9.496", "20.9", "20.933"]


def test_an_absent_package_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ULTRALYTICS.variable, raising=False)
    monkeypatch.setattr(
        "rfdetr_repro.baselines.package.importlib",
        SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None)),
    )
    (row,) = stated(["yolo12-n"])
    assert row.state == "not counted: ultralytics is not installed"


def test_a_model_of_transformers_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers.models.deimv2", reason="transformers (>= 5.23) is missing")
    main(["--stated", "--models", "deimv2-atto"])
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:5] == ["deimv2-atto", "0.5", "0.494", "0.8", "0.752"]
    assert line.endswith("params reproduced, GFLOPs reproduced")


def test_bad_arguments_are_one_line() -> None:
    with pytest.raises(InputError, match="--stated has counters of its own"):
        main(["--stated", "--counters", "shapes"])
    with pytest.raises(InputError, match="unknown baseline 'yolo99-n'"):
        main(["--stated", "--models", "yolo99-n"])


def test_every_reason_is_of_a_model_or_a_family() -> None:
    names = {name for name, known in catalog.entries().items()}
    families = {
        f"{known.size.family}{'-seg' * known.size.masks}" for known in catalog.entries().values()
    }
    assert module.WHY.keys() <= names | families
