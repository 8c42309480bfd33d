"""Training in a campaign: pretraining on other data, and training of the supernet on the campaign's
data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_repro.data.source import DataSource
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.sizing import Sizing
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train import run

log = logging.getLogger(__name__)


def recipe(
    campaign: Campaign, config: TrainConfig, *, masks: bool, classes: int | None = None
) -> Any:
    """The recipe of a stage, for a model with or without ``masks``; ``classes``: their number, None
    for that of the campaign's model.
    """
    from rfdetr_repro.train.recipe import Recipe

    model = replace(campaign.preset.model, masks=masks)
    if classes is not None:
        model = replace(model, num_classes=classes)
    return Recipe(replace(campaign.preset, model=model), config, campaign.space)


def recipe_on(campaign: Campaign, train: Any) -> Any:
    """The recipe of the supernet's training on the split ``train``: with its classes, and with
    masks where both the campaign's model and the split have masks.
    """
    masks = campaign.preset.model.masks and train.has_masks
    return recipe(campaign, campaign.train, masks=masks, classes=len(train.classes.names))


def check_masks(campaign: Campaign, splits: Mapping[str, Any]) -> list[str]:
    """Lines about consequences of missing masks. Raises :class:`InputError`, before training, for
    a campaign that needs masks that the data lack.
    """
    from rfdetr_repro.data.census import mask_lines
    from rfdetr_repro.train.prepare import boxes_only

    if not campaign.preset.model.masks:
        return []
    needed = campaign.search_masks or campaign.metric.startswith("mask")
    lines = mask_lines([split for name, split in splits.items() if name != "train"])
    if why := boxes_only(splits["train"]):
        lines.insert(0, why)
    if needed and lines and (why or splits["val"].why_no_mask_ap()):
        hint = "correct the masks, or search for ap with search_masks = false"
        raise InputError(
            f"the campaign searches with masks, but {lines[0]}", splits["train"].name, hint
        )
    return lines


def pretraining_splits(campaign: Campaign) -> dict[str, Any]:
    """Reads the data of the campaign's pretraining. Raises :class:`InputError` where they cannot be
    used.
    """
    from rfdetr_repro.data.coco import read_splits

    if campaign.pretraining is None:
        raise InputError("the campaign has no pretraining", campaign.name)
    data = DataSource.of(campaign.pretraining.data).dropping(campaign.drop_bad)
    splits = read_splits(data)
    if campaign.preset.model.masks and not splits["train"].has_masks:
        raise InputError(
            "no masks to train the mask head with",
            data,
            "make the masks with python -m rfdetr_repro.data.pseudo_masks",
        )
    return splits


def pretrain(campaign: Campaign, folder: Path, processes: int | None = None) -> tuple[Path, str]:
    """Runs the pretraining from the campaign's weights; returns its model and a line for the
    report. ``processes``: as in a :class:`~rfdetr_repro.train.run.TrainRequest`.

    Masks are trained wherever the data have masks, whatever the campaign asks for, because the
    paper's pretraining serves both tasks.
    """
    from rfdetr_repro.data.census import print_census

    if campaign.pretraining is None:
        raise InputError("the campaign has no pretraining", campaign.name)
    splits = pretraining_splits(campaign)
    print_census(splits.values())
    stage = replace(campaign, train=campaign.pretraining.train)
    if splits["train"].has_masks:
        stage = replace(
            stage, preset=replace(stage.preset, model=replace(stage.preset.model, masks=True))
        )
    return train(stage, splits, folder, campaign.weights, processes=processes)


def train(
    campaign: Campaign,
    splits: Mapping[str, Any],
    folder: Path,
    weights: Path | None,
    sizing: Sizing | None = None,
    processes: int | None = None,
) -> tuple[Path, str]:
    """Trains the supernet in ``folder`` from ``weights`` (None: random weights); returns its model
    and a line for the report. ``sizing``: settings of the model that follow the data;
    ``processes``: as in a :class:`~rfdetr_repro.train.run.TrainRequest`.
    """
    from rfdetr_repro.ops.device import choose_device
    from rfdetr_repro.train.parallel import Ranks
    from rfdetr_repro.train.prepare import start_of
    from rfdetr_repro.train.recipe import Recipe

    start = start_of(campaign.preset, splits["train"], weights, sizing)
    if start.taken:
        log.info(start.taken)
    device = choose_device()
    ranks = Ranks.current().size
    log.info(f"on {device}" + (f", {ranks} processes" if ranks > 1 else ""))
    request = run.TrainRequest(
        recipe=Recipe(start.preset, campaign.train, campaign.space),
        split=splits["train"],
        folder=folder,
        held_out={name: split for name, split in splits.items() if name != "train"},
        initial=start.initial,
        device=device,
        processes=processes,
        pictures=True,
    )
    trained = run.train(request)
    return (
        trained.model,
        f"{trained.steps} steps in {trained.seconds / 60:.1f} min, {trained.precision}",
    )
