"""A campaign whose model follows its data: see :mod:`rfdetr_repro.spec.sizing` for the rules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.sizing import Sizing

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit


def sizing_of(campaign: Campaign, train: CocoSplit) -> Sizing | None:
    """The settings that the campaign's model takes from the train split, or from the campaign's
    number of queries alone; None where the campaign states everything itself.
    """
    from rfdetr_repro.train.sized import sizing_for

    patch = campaign.preset.arch.patch
    if campaign.follow_data:
        return sizing_for(train, patch, campaign.queries or None)
    return Sizing(queries=campaign.queries) if campaign.queries else None


def sized(campaign: Campaign, sizing: Sizing) -> Campaign:
    """``campaign`` with the settings, in its model and in its search space."""
    return replace(
        campaign,
        preset=sizing.preset(campaign.preset),
        space=sizing.space(campaign.space, campaign.preset.arch),
    )
