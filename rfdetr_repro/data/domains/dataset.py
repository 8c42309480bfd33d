"""Writing the domains: one COCO folder each, below one folder.

Image i of a split is a pure function of (seed, domain, split, i).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rfdetr_repro.data.embedded.compose import Scene
from rfdetr_repro.data.embedded.folder import Progress, Recipe, missing_splits, write_composed
from rfdetr_repro.spec.ranges import choose

from .domain import SEEN, Domain
from .kinds import DOMAINS

NOTE = (
    "Small synthetic pictures; AP on them says how models compare on these pictures, not on "
    "photographs of the kind they resemble, and is not COCO AP."
)
SPLITS = tuple(SEEN)
_VERSION = 1  # of the drawing rules; another version draws other pictures


@dataclass(frozen=True)
class DomainConfig:
    """Number of images of each split, and the seed of all pictures."""

    train_images: int = 600
    val_images: int = 100
    test_images: int = 100
    seed: int = 0

    def count(self, split: str) -> int:
        """Number of images of ``split``."""
        return int(getattr(self, f"{split}_images"))


def compose(name: str, seed: int, split: str, index: int) -> Scene:
    """Picture ``index`` of ``split`` of the domain ``name``: image uint8 (height, width, 3), masks
    and categories of the visible objects.
    """
    domain = DOMAINS[name]
    rng = np.random.default_rng((seed, _VERSION, domain.number, SPLITS.index(split), index))
    return domain.draw(domain, domain.part(split), rng)


def recipe(name: str, config: DomainConfig) -> Recipe:
    """What the domain ``name`` is written from.

    Raises :class:`InputError` for a name that no domain has.
    """
    domain = DOMAINS[choose(name, DOMAINS, "domain")]
    return Recipe(
        name=f"embedded-{domain.name}",
        height=domain.height,
        width=domain.width,
        counts={split: config.count(split) for split in SPLITS},
        descriptions={split: _description(domain, split) for split in SPLITS},
        categories=domain.categories,
        config={"domain": name, "version": _VERSION, **asdict(config)},
        compose=partial(compose, name, config.seed),
    )


def _description(domain: Domain, split: str) -> str:
    held_out = "Objects and photographs never occur in training. "
    shown = held_out if domain.part(split) == "val" else ""
    return f"embedded-10, {domain.name}, {split}: {domain.resembles}. {shown}{domain.unlike} {NOTE}"


def folder_of(out: str | Path, name: str) -> Path:
    """Where below ``out`` the domain ``name`` is written."""
    return Path(out) / name


def check_folders(out: str | Path, names: tuple[str, ...], config: DomainConfig) -> None:
    """Raises :class:`InputError` if the folder of a domain holds something else."""
    for name in names:
        missing_splits(folder_of(out, name), recipe(name, config))


def write_domain(
    folder: str | Path,
    name: str,
    config: DomainConfig | None = None,
    progress: Progress = iter,
    workers: int = 2,
) -> Path:
    """Writes the domain ``name`` as a COCO folder (annotations/instances_SPLIT.json, SPLIT/*.jpg).

    Finished splits of the same config are kept. Raises :class:`InputError` for a folder that holds
    something else, and for an unknown name.
    """
    return write_composed(folder, recipe(name, config or DomainConfig()), progress, workers)
