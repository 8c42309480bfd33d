"""A campaign whose model follows its data: see :mod:`rfdetr_repro.spec.sizing` for the rules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.sizing import Sizing, size_for, too_many_objects

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit


def sizing_for(campaign: Campaign, train: CocoSplit) -> Sizing:
    """The settings for the campaign's model, from the train split."""
    from rfdetr_repro.data.census import scene_of

    return size_for(scene_of(train), campaign.preset.arch.patch)


def sized(campaign: Campaign, sizing: Sizing) -> Campaign:
    """``campaign`` with the settings, in its model and in its search space."""
    arch = campaign.preset.arch
    return replace(
        campaign,
        preset=sizing.preset(campaign.preset),
        space=sizing.space(campaign.space, arch.resolution, arch.queries),
    )


def tell_sizing(campaign: Campaign, sizing: Sizing, train: CocoSplit) -> list[str]:
    """What was chosen and why, and what the choice cannot hold; lines to print."""
    from rfdetr_repro.data.census import objects_per_image, scene_of

    space = campaign.space
    reasons = (
        sizing.reasons
        if campaign.preset.model.masks and train.has_masks
        else (
            sizing.reasons[:-1]  # the last line is about masks
        )
    )
    beyond = int((objects_per_image(train) > sizing.queries).sum())
    warning = too_many_objects(scene_of(train), beyond, sizing.queries)
    return [
        "settings that follow the data:",
        *(f"  {reason}" for reason in reasons),
        f"  search space: resolutions {_listed(space.resolutions)} px, patches "
        f"{_listed(space.patches)} px, windows {_listed(space.windows)}, decoder layers "
        f"{_listed(space.decoder_layers)}, queries {_listed(space.queries)}: {len(space)} "
        f"architectures",
        *([f"  {warning}"] if warning else []),
    ]


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
