"""Which stages a campaign has, and how long those after the training will take, before they are
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.stage import Stage

# seconds for example pictures, tables and report, which hardly depend on the campaign
END_S = 30.0


def stage_names(campaign: Campaign) -> tuple[str, ...]:
    """The stages of a campaign in their order."""
    return (
        "data",
        *(("pretraining",) if campaign.pretraining is not None else ()),
        "train",
        "latency",
        "search",
        "confirm",
        "model",
        *(("front",) if campaign.finetune_front else ()),
        *(("family",) if campaign.finetune_steps and not campaign.follow_data else ()),
        *(("finetune",) if campaign.finetune_steps and not campaign.finetune_front else ()),
        "predictions",
        "evaluation",
        "report",
    )


def later_seconds(
    campaign: Campaign, splits: Mapping[str, Any], processes: int = 1
) -> dict[str, float]:
    """Stage after the training -> estimated seconds, at most, from a few passes timed on this
    machine; ``processes``: their number in the search.
    """
    from rfdetr_repro.ops.device import choose_device

    from .plan import plan_search
    from .training import recipe_on

    own = recipe_on(campaign, splits["train"])
    found = plan_search(campaign, own, len(splits["val"]), choose_device())
    return {
        "latency": found.latency_s,
        "search": found.passes_s / processes + found.decisions_s,
        "confirm": found.candidates_s,
        "report": END_S,
    }


def later_steps(campaign: Campaign) -> int:
    """Steps of training after that of the supernet, at most."""
    models = campaign.candidates if campaign.finetune_front else 1
    return models * campaign.finetune_steps


def planned_seconds(schedule: Mapping[str, float]) -> dict[str, float]:
    """The result of :func:`later_seconds` from a stored :class:`.schedule.Schedule`, which states
    one time for all measurements.
    """
    return {"confirm": schedule["measuring_s"]}


def stage_of(
    name: str,
    title: str,
    names: Sequence[str],
    seconds: Mapping[str, float],
    later_steps: int,
) -> Stage | None:
    """The stage called ``name`` among ``names``, with the estimates of :func:`later_seconds`
    and :func:`later_steps`; None for a stage that is not one of the flow's own.
    """
    if name not in names:
        return None
    place = names.index(name)
    later = names[place + 1 :]
    rest_s = sum(seconds.get(one, 0.0) for one in later) if seconds else None
    steps = later_steps if {"finetune", "front"} & set(later) else 0
    return Stage(place + 1, len(names), title, rest_s, steps)
