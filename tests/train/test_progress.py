"""Lines of a training run: what they say, that they fit a terminal, and colour on terminals
only.
"""

from __future__ import annotations

import logging
import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from rfdetr_repro.spec.stage import Stage
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train.callbacks import (
    TrainingEnd,
    TrainingEvaluation,
    TrainingStart,
    TrainingStep,
)
from rfdetr_repro.train.listeners import by_kind
from rfdetr_repro.train.progress import DROPPED, TrainingDisplay, duration, fitting, number

LOSSES = {"loss": 6.0, "class": 1.0, "l1": 2.0, "giou": 1.0, "mask_bce": 0.5, "mask_dice": 1.0}
LOSSES["dense"] = 0.5
START = TrainingStart(
    Path("runs/mine"), "mine train", 140, 8, 0, 400, "cpu", {"evaluate_every": 200}
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step_of(number: int, seconds: float = 0.5, **losses: float) -> TrainingStep:
    return TrainingStep(
        number,
        400,
        number * 8 / 140,
        {**LOSSES, **losses},
        {"grad_norm": 0.1},
        2e-4,
        seconds,
        8,
        3 * 2**30,
        ("r96-p16-w1-d2-q25",),
    )


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def row(line: str, head: str) -> dict[str, str]:
    return dict(zip(head.split(), line.split(), strict=True))


def test_a_run_without_held_out_splits_promises_no_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    TrainingDisplay(clock=Clock(), evaluated=False).on_start(START)
    assert lines(capsys)[-1] == "no evaluation during the training"
    TrainingDisplay(clock=Clock()).on_start(START)
    assert lines(capsys)[-1] == "evaluation every 200 steps and at the end"


def test_a_line_holds_means_speed_memory_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    display = TrainingDisplay(clock=Clock())
    display.on_start(START)
    assert "400 steps of 8 images, which is 22.9 epochs of 140 images" in lines(capsys)[0]
    display.on_step(step_of(1, seconds=9.0))  # the first step also warms up
    first = lines(capsys)
    head = first[-2]
    assert row(first[-1], head)["step"] == "1"
    for at in range(2, 21):
        display.on_step(step_of(at, loss=float(at)))
    shown = lines(capsys)
    assert len(shown) == 1  # 400 steps: a line every twenty
    found = row(shown[0], head)
    assert found == {
        "step": "20",
        "of": "400",
        "epoch": "1.1",
        "loss": "11.0",
        "class": "1.00",
        "l1": "2.00",
        "giou": "1.00",
        "bce": "0.50",
        "dice": "1.00",
        "dense": "0.50",
        "lr": "2.0e-4",
        "img/s": "16.0",
        "mem": "3.0G",
        "left": "3m10",
    }
    # 380 steps of half a second; an evaluation of a minute counts once it was measured: twice more
    display.on_evaluation(TrainingEvaluation(20, 400, {}, 60.0))
    for at in range(21, 41):
        display.on_step(step_of(at))
    assert row(lines(capsys)[-1], head)["left"] == duration(360 * 0.5 + 2 * 60)


def test_the_line_of_a_stage_counts_later_stages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    display = TrainingDisplay(Stage(3, 9, "training the supernet", rest_s=600.0), Clock())
    display.on_start(START)
    assert "left: time of this stage; all: of all stages, estimated" in lines(capsys)
    display.on_step(step_of(1))
    *_, head, line = lines(capsys)
    found = row(line, head)
    assert (found["stage"], found["left"], found["all"]) == ("3/9", "3m20", "13m20")
    later = TrainingDisplay(Stage(3, 9, "training", rest_s=60.0, rest_steps=100), Clock())
    later.on_start(START)
    later.on_step(step_of(1))  # fine-tuning will take 100 steps more
    *_, head, line = lines(capsys)
    assert row(line, head)["all"] == duration(399 * 0.5 + 60 + 100 * 0.5)
    unknown = TrainingDisplay(Stage(3, 9, "training the supernet"), Clock())
    unknown.on_start(START)
    unknown.on_step(step_of(1))
    *_, head, line = lines(capsys)
    assert row(line, head)["all"] == "?"


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("steps", [20, 4000, 92_400])
@pytest.mark.parametrize("stage", [None, Stage(3, 9, "training the supernet", 7200.0)])
def test_no_line_is_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    steps: int,
    stage: Stage | None,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    display = TrainingDisplay(stage, Clock())
    display.on_start(replace(START, steps=steps))
    for at in (1, 2, steps // 2, steps):
        display.on_step(replace(step_of(at), steps=steps, epoch=at / 17, losses=LOSSES))
    shown = lines(capsys)
    table = [line for line in shown if re.match(r"\s*(step|stage|\d+(/\d)?) ", line)]
    assert len(table) >= 4 and len({len(line) for line in table[-3:]}) == 1
    widest = max(len(line) for line in table)
    assert widest <= columns or columns == 60  # no room for the losses: nothing more can go
    if columns >= 80:
        assert all(len(line) <= columns for line in shown)
    for name in ("loss", "class", "l1", "giou", "bce", "dice", "dense", "left"):
        assert name in next(line for line in table if "loss" in line).split()


def test_columns_go_in_the_stated_order() -> None:
    names = ("step", "of", "epoch", "loss", "lr", "img/s", "mem", "left")
    cells = dict.fromkeys(names, "1234")
    gone = [len(names) - len(fitting(cells, width)) for width in range(80, 0, -1)]
    assert gone == sorted(gone) and set(gone) == set(range(len(DROPPED) + 1))
    for width in range(80, 0, -1):
        kept = fitting(cells, width)
        assert [name for name in DROPPED if name not in kept] == list(DROPPED[: 8 - len(kept)])


def test_the_best_evaluation_is_marked_and_survives_a_resume(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = TrainingDisplay(clock=Clock())
    history = ({"step": 100, "split": "val", "ap": 0.3, "ap50": 0.5}, {"step": 110, "loss": 2.0})
    display.on_start(replace(START, step=150, history=history))
    assert "continuing after step 150 of 400" in lines(capsys)

    def told(step: int, ema: float | None, raw: float) -> list[str]:
        rows = {
            "ema": [{"split": "val", "ap": ema, "ap50": 0.6}, {"split": "test", "ap": 0.9}],
            "raw": [{"split": "val", "ap": raw, "ap50": 0.6, "mask_ap": 0.25}],
        }
        display.on_evaluation(TrainingEvaluation(step, 400, rows, 1.0))
        return lines(capsys)

    assert told(200, 0.2, 0.25) == [
        "step 200: val AP 20.0, AP50 60.0 (averaged weights)  (best: 30.0 at step 100)",
        "step 200: test AP 90.0 (averaged weights)",
        "step 200: val AP 25.0, AP50 60.0, mask AP 25.0 (raw weights)  (best: 30.0 at step 100)",
    ]
    assert told(300, 0.4, 0.45)[::2] == [
        "step 300: val AP 40.0, AP50 60.0 (averaged weights)",
        "step 300: val AP 45.0, AP50 60.0, mask AP 25.0 (raw weights)  * best so far",
    ]
    assert told(400, None, 0.1)[0].startswith("step 400: val AP unknown, AP50 60.0")
    display.on_end(TrainingEnd(400, 400, "complete", Path("model")))
    assert lines(capsys) == ["best val AP 45.0 at step 300 (raw weights); complete after 400 steps"]


def test_frozen_parts_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"evaluate_every": 0, "freeze": ("backbone", "projector")}
    TrainingDisplay(clock=Clock()).on_start(replace(START, settings=settings))
    assert "frozen, so unchanged: backbone, projector" in lines(capsys)


def test_a_long_step_is_told_after_five_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    display = TrainingDisplay(clock=clock)
    display.on_start(replace(START, steps=100_000))
    printed = []
    for at in range(1, 13):
        clock.now += 60.0
        display.on_step(replace(step_of(at), steps=100_000))
        printed += [at] * bool(re.match(r"\s+\d", (lines(capsys) or [""])[-1]))
    assert printed == [1, 6, 11]


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The standard output is a terminal; gives the end to read."""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield ours
    os.close(ours)


def waiting(end: int) -> str:
    """Everything that was written to a terminal."""
    os.set_blocking(end, False)
    text = b""
    with suppress(BlockingIOError):
        while part := os.read(end, 20_000):
            text += part
    return text.decode()


@pytest.mark.parametrize(
    ("tty", "environment", "coloured"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (False, {}, False)],
)
def test_colour_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tty: bool,
    environment: dict[str, str],
    coloured: bool,
) -> None:
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def show() -> None:
        display = TrainingDisplay(clock=Clock())
        display.on_start(START)
        display.on_step(step_of(1))

    if tty:
        with terminal(monkeypatch) as ours:
            show()
            text = waiting(ours)
    else:
        show()
        text = capsys.readouterr().out
    assert "loss" in text and ("\x1b[" in text) == coloured


def test_a_quiet_command_prints_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfdetr_repro.spec import logs

    logs.show(logging.WARNING)
    display = TrainingDisplay(clock=Clock())
    display.on_start(START)
    display.on_step(step_of(1))
    logs.show()
    assert capsys.readouterr() == ("", "")


def test_parts_add_up_to_the_loss() -> None:
    config = TrainConfig(dense_weight=0.5)
    parts = {"layer1/class": 1.0, "encoder/class": 2.0, "layer1/l1": 0.1, "encoder/l1": 0.2}
    parts |= {"layer1/giou": 0.3, "encoder/giou": 0.4, "dense": 2.0, "grad_norm": 9.0}
    total = 1.0 * 3.0 + 5.0 * 0.3 + 2.0 * 0.7 + 0.5 * 2.0
    found = by_kind({"loss": total, **parts}, config)
    assert list(found) == ["loss", "class", "l1", "giou", "dense"]
    assert sum(found.values()) == pytest.approx(2 * total)
    assert by_kind({}, config) == {}  # no pass fitted into memory


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00"),
        (348, "5m48"),
        (7500, "2h05"),
        (273_600, "3d04"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123, "0.12"), (9.994, "9.99"), (9.996, "10.0"), (123.4, "123"), (99_999.0, "1e+5")],
)
def test_numbers_of_four_characters(value: float, text: str) -> None:
    assert number(value) == text
