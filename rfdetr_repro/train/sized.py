"""Settings of a model that follow a data set, from its train split, and what to tell about them.

The rules are in :mod:`rfdetr_repro.spec.sizing`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rfdetr_repro.data.census import objects_per_image, scene_of
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.sizing import Sizing, size_for, too_many_objects

EPOCHS = 40  # passes over the train split where no number of steps is given
FEWEST_STEPS, MOST_STEPS = 400, 8000


def sizing_for(
    train: CocoSplit,
    patch: int,
    queries: int | None = None,
    shape: tuple[int, int] | None = None,
) -> Sizing:
    """The settings for a model with ``patch`` px patches. ``queries``, and ``shape``, (height,
    width) of the input in px: as given, None: by the data.
    """
    found = size_for(scene_of(train), patch, shape and round(math.sqrt(shape[0] * shape[1])))
    reasons = list(found.reasons)
    if shape is not None:
        found = replace(found, resolution=None)
        reasons[0] = f"input of {shape[0]}x{shape[1]} px: as given"
    if queries is not None:
        found = replace(found, queries=queries)
        reasons[1] = f"{queries} queries: as given"
    return replace(found, reasons=tuple(reasons))


def steps_for(images: int, batch_size: int) -> int:
    """Optimizer steps for EPOCHS passes over ``images``, within bounds."""
    return min(max(round(EPOCHS * images / batch_size), FEWEST_STEPS), MOST_STEPS)


def tell_sizing(
    sizing: Sizing, space: SearchSpace | None, train: CocoSplit, masks: bool
) -> list[str]:
    """What was chosen and why, and what the choice cannot hold; lines to print."""
    reasons = list(sizing.reasons if masks else sizing.reasons[:-1])  # the last is about masks
    title = "settings that follow the data:" if reasons else f"{sizing.queries} queries, as given"
    searched = (
        []
        if space is None
        else [
            f"  search space: resolutions {_listed(space.resolutions)} px, patches "
            f"{_listed(space.patches)} px, windows {_listed(space.windows)}, decoder layers "
            f"{_listed(space.decoder_layers)}, queries {_listed(space.queries)}: {len(space)} "
            f"architectures"
        ]
    )
    lines = [title, *(f"  {reason}" for reason in reasons), *searched]
    return [*lines, *warn_of_queries(train, sizing.queries)]


def warn_of_queries(train: CocoSplit, queries: int | None) -> list[str]:
    """A warning where images hold more objects than ``queries``."""
    if queries is None:
        return []
    beyond = int((objects_per_image(train) > queries).sum())
    return [too_many_objects(scene_of(train), beyond, queries)] if beyond else []


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
