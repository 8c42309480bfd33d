"""Estimates the duration of a campaign on this machine, stage by stage, from a few timed passes;
nothing is trained or written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from rfdetr_repro.data.source import DataSource
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.protocol import IN_TORCH
from rfdetr_repro.spec.sizing import Sizing

from .after import finetuning
from .follow import sized
from .training import recipe

VAL_IMAGES = 5000  # COCO's number, used where the data set is missing


class Sizes(NamedTuple):
    """Sizes of a data set; None where the data set is missing."""

    description: str
    train: int | None = None
    val: int | None = None
    classes: int | None = None
    masks: bool = True


def plan(campaign: Campaign, processes: int = 1) -> Iterator[str]:
    """Yields lines as soon as they are known: steps, memory and hours of every stage, then the
    total hours. ``processes``: their number, which share the batches and the passes.
    """
    from rfdetr_repro.ops.device import choose_device
    from rfdetr_repro.train.plan import plan as plan_training

    device = choose_device()
    if campaign.queries:
        campaign = sized(campaign, Sizing(queries=campaign.queries))
    sizes = data_sizes(campaign.data, campaign.drop_bad)
    masks = campaign.preset.model.masks and sizes.masks
    hours = []
    if campaign.weights is not None and not campaign.weights.exists():
        yield f"weights {campaign.weights}: not there yet"

    def training(title: str, stage: Any, data: Sizes) -> Iterator[str]:
        yield f"[{title}] {data.description}"
        found = plan_training(stage, device, data.train, processes=processes)
        hours.append(found.hours)
        yield from found.lines()

    if (before := campaign.pretraining) is not None:
        others = data_sizes(before.data, campaign.drop_bad)
        first = recipe(campaign, before.train, masks=others.masks, classes=others.classes)
        yield from training("pretraining", first, others)
    own = recipe(campaign, campaign.train, masks=masks, classes=sizes.classes)
    yield from training("train", own, sizes)
    search = plan_search(campaign, own, sizes.val or VAL_IMAGES, device)
    shared = search.passes_s * (1 - 1 / processes)
    hours.append((search.total_s - shared) / 3600)
    yield f"[search] {sizes.description}" + ("" if sizes.val else f"; {VAL_IMAGES} assumed")
    yield from search.lines()
    if campaign.finetune_steps:
        yield from training("finetune", replace(own, space=None, train=finetuning(campaign)), sizes)
        yield f"(of {own.preset.arch.key}: what the search will find is not known yet)"
        if campaign.finetune_front:
            yield front_line(campaign, own.preset.arch.key, hours[-1])
            hours[-1] *= campaign.candidates
            hours.append(search.candidates_s / 3600)
    yield (
        f"whole campaign: {sum(hours):.3g} hours on this machine, composing data and drawing the "
        f"report not counted"
    )


def front_line(campaign: Campaign, arch: str, hours: float) -> str:
    """The line about the fine-tuning of every confirmed architecture, each of ``hours``."""
    return (
        f"at most {campaign.candidates} confirmed models are fine-tuned: "
        f"{campaign.candidates * hours:.3g} hours if all cost as much as {arch}; their files are "
        f"measured like the others, {campaign.candidates} more confirmations"
    )


def data_sizes(folder: os.PathLike[str] | None, drop_bad: bool = False) -> Sizes:
    """Sizes of the data in ``folder``; None: the embedded set, which is not composed yet."""
    from rfdetr_repro.data.coco import read_splits
    from rfdetr_repro.data.embedded.dataset import EmbeddedConfig

    if folder is None:
        config = EmbeddedConfig()
        description = (
            f"embedded set: {config.train_images} images to train on, {config.val_images} to "
            f"search on"
        )
        return Sizes(description, config.train_images, config.val_images)
    source = DataSource.of(folder).dropping(drop_bad)
    if not source.exists():
        return Sizes(f"{source} is not here: number of images unknown")
    splits = read_splits(source)
    train = splits["train"]
    val = len(splits["val"]) if "val" in splits else None
    description = f"{source}: {len(train)} images to train on" + (
        f", {val} to validate on" if val else ""
    )
    return Sizes(description, len(train), val, len(train.classes.names), train.has_masks)


def plan_search(campaign: Campaign, own: Any, images: int, device: Any) -> Any:
    """The estimate of the campaign's search."""
    from rfdetr_repro.model.detector import Detector
    from rfdetr_repro.search.engines import Fit
    from rfdetr_repro.search.plan import Job
    from rfdetr_repro.search.plan import plan as plan_passes
    from rfdetr_repro.search.race import Rules

    fit = Fit(campaign.engines, campaign.most_engines)
    protocols = campaign.protocols
    rules = Rules() if campaign.strategy == "race" else None
    job = Job(
        campaign.space,
        images,
        fit,
        campaign.candidates,
        protocols,
        rules,
        campaign.backend in IN_TORCH,
    )
    return plan_passes(Detector(own.preset.model, own.preset.arch).to(device).eval(), job)
