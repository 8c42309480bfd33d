"""The stages of a search alone: what they say before and after, and what is known inside."""

from __future__ import annotations

import re

import pytest

from rfdetr_repro.search.stages import CONFIRM, FRONT, LATENCY, SEARCH, Stages, stage_names
from rfdetr_repro.spec.stage import current

SECONDS = {LATENCY: 60.0, SEARCH: 3600.0, CONFIRM: 120.0}


def test_every_stage_states_its_place_and_its_time() -> None:
    told: list[str] = []
    stages = Stages(stage_names(front=False), told.append, SECONDS)
    for name in (LATENCY, SEARCH, CONFIRM):
        with stages.stage(name):
            pass
    assert [line for line in told if line.startswith("stage")] == [
        "stage 1 of 3 [latency] measuring engines for the latency model: at most 1m00, 1h03 until "
        "the end",
        "stage 2 of 3 [search] accuracy of every configuration: at most 1h00, 1h02 until the end",
        "stage 3 of 3 [confirm] full protocol of the candidates: at most 2m00, 2m00 until the end",
    ]
    assert [line for line in told if line.startswith("[")] == [
        "[latency] 0s",
        "[search] 0s",
        "[confirm] 0s",
    ]


def test_a_progress_bar_knows_what_follows() -> None:
    stages = Stages(stage_names(front=True), lambda line: None, SECONDS, steps=10)
    with stages.stage(SEARCH):
        stage = current()
        assert stage is not None and (stage.number, stage.of) == (2, 4)
        assert stage.rest_s == 120.0 and stage.rest_steps == 10
        assert stage.all_left_s(5.0, 2.0) == 5 + 120 + 10 * 2
    assert current() is None


def test_nothing_is_said_of_durations_that_nobody_estimated() -> None:
    told: list[str] = []
    stages = Stages(stage_names(front=True), told.append, steps=10)
    with stages.stage(FRONT):
        stage = current()
        assert stage is not None and stage.rest_s is None
    assert told[0] == "stage 4 of 4 [front] fine-tuning of the candidates"


def test_a_stage_that_fails_is_not_reported_as_done() -> None:
    told: list[str] = []
    stages = Stages(stage_names(front=False), told.append)
    with pytest.raises(ValueError, match="broken"), stages.stage(LATENCY):
        raise ValueError("broken")
    assert len(told) == 1 and re.match(r"stage 1 of 3", told[0]) and current() is None
