"""The embedded data set: COCO classes composed from licensed sprites over photos. Synthetic: its AP
is not COCO AP.

    python -m rfdetr_repro.data.embedded --out DIR [--train-images 8000] [--seed 0]

Image i of a split is a pure function of (seed, split, i): it depends neither on the machine nor on
the number of workers. Rules and numbers: ``embedded_pack/README.md``; object sizes: the "pico mix",
larger than the README's because images are 160 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from .compose import Scene, compose_scene, load_assets, pack_categories
from .folder import Progress, Recipe, write_composed

NOTE = (
    "Synthetic images composed from rendered 3D models over photos; their AP is not COCO AP and "
    "must not be compared with it."
)
# split -> the part of the pack it may use
SPLITS = {"train": "train", "val": "train", "test": "val"}
DESCRIPTIONS = {
    "train": "scenes of the pack's train objects and backgrounds",
    "val": "new scenes of the same train objects and backgrounds (another random stream); "
    "the search chooses on it",
    "test": "objects, clutter and backgrounds that never occur in training",
}


@dataclass(frozen=True)
class EmbeddedConfig:
    """Sizes of the three splits; ``image_side`` in pixels.

    ``varied``: share of the objects and backgrounds of the **train** split that get another shape
    and other colours (:mod:`.variation`), 0..1. The other splits are always as they are.
    """

    image_side: int = 160
    train_images: int = 8000
    val_images: int = 150
    test_images: int = 150
    seed: int = 0
    varied: float = 0.0

    def count(self, split: str) -> int:
        """Number of images of ``split``."""
        return int(getattr(self, f"{split}_images"))


def compose(config: EmbeddedConfig, split: str, index: int) -> Scene:
    """Scene ``index`` of ``split``: image uint8 (side, side, 3), and masks and categories of the
    visible objects.
    """
    rng = np.random.default_rng((config.seed, list(SPLITS).index(split), index))
    varied = config.varied if split == "train" else 0.0
    return compose_scene(load_assets(SPLITS[split]), config.image_side, rng, varied)


def write_embedded(
    folder: str | Path,
    config: EmbeddedConfig | None = None,
    progress: Progress = iter,
    workers: int = 2,
    splits: Sequence[str] = tuple(SPLITS),
) -> Path:
    """Writes a COCO folder (annotations/instances_SPLIT.json, SPLIT/*.jpg) with ``splits``.

    Finished splits of the same config are kept; a later call may add the others. Raises
    :class:`InputError` for a folder that holds another data set.
    """
    recipe = _recipe(config or EmbeddedConfig())
    counts = {split: recipe.counts[split] for split in splits}
    return write_composed(folder, replace(recipe, counts=counts), progress, workers)


def _recipe(config: EmbeddedConfig) -> Recipe:
    settings = asdict(config)
    if not config.varied:
        del settings["varied"]  # as folders state it that were written before objects were varied
    return Recipe(
        name="embedded",
        height=config.image_side,
        width=config.image_side,
        counts={split: config.count(split) for split in SPLITS},
        descriptions={
            split: f"Embedded {split}: {DESCRIPTIONS[split]}. {NOTE}" for split in SPLITS
        },
        categories=pack_categories(),
        config=settings,
        compose=partial(compose, config),
    )
