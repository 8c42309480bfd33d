"""The plan for a time budget, with the times of a machine that is made up: what a plan promises
fits the budget, more time means more work, and too little time is refused with a time that is
enough.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rfdetr_repro import cli
from rfdetr_repro.reproduce import schedule as module
from rfdetr_repro.reproduce.schedule import (
    DEFAULT_S,
    FEW_STEPS,
    FEWEST_STEPS,
    MEASUREMENTS,
    RESERVE,
    Schedule,
    schedule,
)
from rfdetr_repro.spec.arguments import duration
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, InputError


class Images(list[int]):
    """Stands for a split of a data set."""

    has_masks = True
    classes = SimpleNamespace(names=("a", "b"))


SPLITS = {"train": Images(range(200)), "val": Images(range(50)), "test": Images(range(50))}


def on_a_machine(
    monkeypatch: pytest.MonkeyPatch,
    step_s: float = 0.5,
    pass_s: float = 40.0,
    engine_s: float = 14,
    loading_s: float = 0.0,
) -> None:
    """Makes the two plans, of training and of the search, state these times."""

    def training(recipe: Any, device: Any, images: int, objects: int, processes: int) -> Any:
        assert objects == 13 and recipe.preset.model.num_classes == 2
        timed = SimpleNamespace(seconds=2 * step_s, update_seconds=0.0)
        return SimpleNamespace(step_seconds=step_s, timed=[timed])

    def search(campaign: Any, own: Any, images: int, device: Any) -> Any:
        return SimpleNamespace(engine_s=1.0, measure_s=engine_s - 1, passes_s=pass_s, groups=18)

    monkeypatch.setattr("rfdetr_repro.train.plan.plan", training)
    monkeypatch.setattr(module, "plan_search", search)
    monkeypatch.setattr(module, "_loading_s", lambda train, own: loading_s)
    monkeypatch.setattr("rfdetr_repro.train.processes.default_processes", lambda batch_size: 2)
    monkeypatch.setattr("rfdetr_repro.ops.device.choose_device", lambda: torch.device("cpu"))


def planned(seconds: float) -> Schedule:
    return schedule(replace(EMBEDDED, time_budget_s=seconds), SPLITS, 13.4)


def test_a_plan_fits_its_time_and_grows_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch)
    plans = [planned(60.0 * minutes) for minutes in (10, 15, 20, 30, 60, 240)]
    for plan in plans:
        spent = plan.training_s + plan.finetuning_s + plan.measuring_s
        assert 0.8 * plan.seconds < spent <= (1 - RESERVE) * plan.seconds
        assert plan.training_s == plan.steps * 0.5
        assert min(plan.steps, plan.finetune_steps) >= FEWEST_STEPS
        assert (plan.engines, plan.candidates) in MEASUREMENTS
    for name in ("steps", "finetune_steps", "engines", "candidates"):
        values = [getattr(plan, name) for plan in plans]
        assert values == sorted(values)
    assert (plans[-1].engines, plans[-1].candidates) == MEASUREMENTS[0]
    assert [plan.narrow for plan in plans] == [plan.steps < FEW_STEPS for plan in plans]
    assert plans[0].narrow and not plans[-1].narrow


def test_the_time_for_fine_tuning_is_divided_among_the_models_of_the_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_machine(monkeypatch)
    one = planned(3600.0)
    campaign = replace(EMBEDDED, time_budget_s=3600.0, finetune_front=True)
    each = schedule(campaign, SPLITS, 13.4)
    assert each.training_s + each.finetuning_s + each.measuring_s <= (1 - RESERVE) * each.seconds
    assert each.finetuning_s == each.candidates * each.finetune_steps * 1.0 > 0
    assert each.finetune_steps < one.finetune_steps
    assert each.lines()[-1].endswith("steps of fine-tuning of each confirmed model")
    assert each.apply(campaign).finetune_front and Schedule(**each.as_json()) == each


def test_processes_share_batches_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes of the search take a fourth of the time, and a step is timed for four."""
    on_a_machine(monkeypatch, pass_s=120.0)
    asked = []

    def training(recipe: Any, device: Any, images: int, objects: int, processes: int) -> Any:
        asked.append(processes)
        timed = SimpleNamespace(seconds=1.0, update_seconds=0.0)
        return SimpleNamespace(step_seconds=0.5, timed=[timed])

    monkeypatch.setattr("rfdetr_repro.train.plan.plan", training)
    campaign = replace(EMBEDDED, time_budget_s=14400.0)
    by_cores, four = (schedule(campaign, SPLITS, 13.4, count) for count in (None, 4))
    assert asked == [2, 4]
    assert (four.engines, four.candidates) == (by_cores.engines, by_cores.candidates)
    assert by_cores.measuring_s - four.measuring_s == pytest.approx(0.75 * 120)
    assert four.steps > by_cores.steps


def test_a_step_of_several_micro_batches_reads_and_passes_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The timed pass is of one micro-batch; the update is once for the step."""
    on_a_machine(monkeypatch, loading_s=0.25)

    def training(recipe: Any, *rest: Any) -> Any:
        timed = SimpleNamespace(seconds=1.0, update_seconds=0.5)
        return SimpleNamespace(step_seconds=recipe.train.accumulate * 0.5 + 0.5, timed=[timed])

    monkeypatch.setattr("rfdetr_repro.train.plan.plan", training)
    campaign = replace(EMBEDDED, time_budget_s=14400.0)
    campaign = replace(campaign, train=replace(campaign.train, accumulate=4))
    plan = schedule(campaign, SPLITS, 13.4, 1)
    assert plan.training_s == plan.steps * (4 * (0.5 + 0.25) + 0.5)
    assert plan.finetuning_s == plan.finetune_steps * (4 * (1.0 + 0.25) + 0.5)


def test_a_campaign_without_fine_tuning_stays_without(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch)
    campaign = replace(EMBEDDED, time_budget_s=3600.0, finetune_steps=0)
    plan = schedule(campaign, SPLITS, 13.4)
    assert (plan.finetune_steps, plan.finetuning_s) == (0, 0.0)
    assert plan.steps > planned(3600.0).steps
    assert 0.8 * plan.seconds < plan.training_s + plan.measuring_s <= (1 - RESERVE) * plan.seconds
    assert plan.apply(campaign).finetune_steps == 0
    assert "fine-tuning" not in "\n".join(plan.lines())


def test_a_narrow_space_is_never_empty() -> None:
    space = replace(EMBEDDED.space, resolutions=(192, 224), patches=(8, 12))
    small = module.narrowed(replace(EMBEDDED, space=space))
    assert (small.resolutions, small.patches) == ((192,), (12,))


def test_a_plan_for_a_time_budget_needs_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "--plan", "--time-budget", "30m"]) == EXIT_BAD_INPUT
    assert "give --data, or leave the time budget out" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--time-budget", "30m"], ["--data", "."]])
def test_steps_of_fine_tuning_are_refused_where_the_time_decides(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["reproduce", "--finetune-front", "--finetune-steps", "9", *more]
    assert cli.main(given) == EXIT_BAD_INPUT
    assert "--finetune-steps in a run whose steps are planned" in capsys.readouterr().err


def test_reading_pictures_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes read the pictures of a batch side by side, on the cores that train."""
    on_a_machine(monkeypatch)
    fast = planned(1800.0)
    on_a_machine(monkeypatch, loading_s=1.0)
    slow = planned(1800.0)
    assert slow.steps == pytest.approx(fast.steps / 2, abs=1)
    assert slow.training_s == slow.steps * 1.0


def test_too_little_time_is_refused_with_a_time_that_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_machine(monkeypatch, step_s=3.0)
    with pytest.raises(InputError, match="a time budget of 5.0 min is too short") as caught:
        planned(300.0)
    enough = re.search(r"at least (\d+)m", str(caught.value))
    assert enough is not None
    assert planned(60.0 * int(enough[1])).steps >= FEWEST_STEPS
    with pytest.raises(InputError, match="too short"):
        planned(60.0 * (int(enough[1]) - 1))


def test_without_a_time_budget_a_slow_machine_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch)
    assert planned(0.0).seconds == DEFAULT_S
    on_a_machine(monkeypatch, step_s=30.0)
    slow = planned(0.0)
    assert slow.seconds > 2 * DEFAULT_S and min(slow.steps, slow.finetune_steps) >= FEWEST_STEPS


def test_a_plan_becomes_the_campaigns_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch)
    plan = planned(1200.0)
    chosen = plan.apply(EMBEDDED)
    assert (chosen.train.steps, chosen.finetune_steps) == (plan.steps, plan.finetune_steps)
    assert (chosen.engines, chosen.candidates) == (plan.engines, plan.candidates)
    assert Schedule(**plan.as_json()) == plan
    assert chosen.space == EMBEDDED.space
    small = replace(plan, narrow=True).apply(EMBEDDED)
    assert (small.space.resolutions, small.space.patches) == ((96, 128), (16, 20))
    assert small.space.queries == EMBEDDED.space.queries
    few = replace(plan, steps=100).apply(EMBEDDED).train
    assert few.warmup_steps == 10 and few.ema_decay == pytest.approx(0.92)
    assert f"{plan.steps} steps" in "\n".join(plan.lines())


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "", "m", "-5m", "1d", "0m", "5 m", "1e3s", "9999999h"])
def test_no_times(text: str) -> None:
    with pytest.raises(Exception, match="is not a time; write 90s, 30m or 1h30m"):
        duration(text)
