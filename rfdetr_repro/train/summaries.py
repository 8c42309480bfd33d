"""Numbers about a training run for its folder: which architectures were drawn, and what the labels
of the train split look like. No PyTorch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from rfdetr_repro.spec.arch import KNOBS, Arch

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

    from .recipe import Recipe

# upper ends of the bins of object sizes, as share of the picture's side
SIZE_BINS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# COCO's borders between small, medium and large objects, px of the side of a square
SMALL = 32
MEDIUM = 96


def sampled_archs(recipe: Recipe, steps: int, left_out: Collection[str] = ()) -> dict[str, Any]:
    """How often each architecture, and each value of each knob, was drawn in the first ``steps``
    steps; ``left_out``: keys that did not fit into memory, which are counted as drawn.

    The draws are a function of seed and step, so the counts are exact also for a resumed run.
    ``passes`` counts passes over a micro-batch, and the knob values of architectures that were
    never drawn have a count of 0.
    """
    drawn: Counter[Arch] = Counter()
    for step in range(steps):
        drawn.update(recipe.archs_of_step(step))
    possible = sorted({*recipe.possible_archs(), *drawn})
    knobs = {
        name: {
            str(value): sum(count for arch, count in drawn.items() if arch.knobs()[name] == value)
            for value in sorted({arch.knobs()[name] for arch in possible})
        }
        for name in KNOBS
    }
    return {
        "steps": steps,
        "passes": sum(drawn.values()),
        "sampling": recipe.train.sampling,
        "base": recipe.preset.arch.key,
        "base_share": recipe.train.base_share,
        "knobs": knobs,
        "architectures": {arch.key: drawn[arch] for arch in possible},
        "never_drawn": [arch.key for arch in possible if not drawn[arch]],
        "left_out_of_memory": sorted(left_out),
    }


def label_statistics(split: CocoSplit) -> dict[str, Any]:
    """Classes, objects per image and sizes of the training targets of ``split``.

    ``size`` is the square root of an object's share of its picture's area, 0..1; sides and the
    classes small, medium and large refer to px of the pictures as they are.
    """
    table = split.table
    of_image = np.repeat(np.arange(len(split)), np.diff(table.first))
    targets = ~table.crowd
    of_image, labels, boxes = of_image[targets], table.labels[targets], table.boxes_xyxy[targets]
    pictures = np.array([(one.width, one.height) for one in split.images], float).reshape(-1, 2)
    per_image = np.bincount(of_image, minlength=len(split))
    sides = boxes[:, 2:] - boxes[:, :2]
    shares = sides / pictures[of_image]
    sizes = np.sqrt(shares.prod(axis=1))
    px = np.sqrt(sides.prod(axis=1))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / pictures[of_image]
    return {
        "data": split.name,
        "split": split.split,
        "images": len(split),
        "images_without_objects": int((per_image == 0).sum()),
        "objects": len(labels),
        "classes": {
            _unique(split, label): {
                "objects": int((labels == label).sum()),
                "images": len(np.unique(of_image[labels == label])),
                "median_size": _median(sizes[labels == label]),
            }
            for label in range(len(split.classes.names))
        },
        "objects_per_image": _quantiles(per_image)
        | {"histogram": {str(n): int(c) for n, c in enumerate(np.bincount(per_image)) if c}},
        "size": _quantiles(sizes) | {"histogram": _histogram(sizes)},
        "width_px": _quantiles(sides[:, 0]),
        "height_px": _quantiles(sides[:, 1]),
        "aspect": _quantiles(sides[:, 0] / sides[:, 1]),
        "small": int((px < SMALL).sum()),
        "medium": int(((px >= SMALL) & (px < MEDIUM)).sum()),
        "large": int((px >= MEDIUM).sum()),
        "picture_width_px": _quantiles(pictures[:, 0]),
        "picture_height_px": _quantiles(pictures[:, 1]),
        # objects whose centre lies in each cell of a grid over the picture, rows from the top
        "centres": _grid(centres),
    }


def _grid(centres: np.ndarray) -> list[list[int]]:
    found, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=10, range=((0, 1), (0, 1)))
    counts: list[list[int]] = found.astype(int).tolist()
    return counts


def _unique(split: CocoSplit, label: int) -> str:
    name = split.classes.names[label]
    repeated = split.classes.names.count(name) > 1
    return f"{name} (id {split.classes.category_ids[label]})" if repeated else name


def _median(values: np.ndarray) -> float | None:
    return round(float(np.median(values)), 4) if len(values) else None


def _quantiles(values: np.ndarray) -> dict[str, Any]:
    """Least, 5 %, 25 %, median, 75 %, 95 % and largest value; empty without values."""
    if not len(values):
        return {}
    names = ("least", "q05", "q25", "median", "q75", "q95", "largest")
    found = np.quantile(values, QUANTILES)
    return dict(zip(names, (round(float(value), 4) for value in found), strict=True))


def _histogram(sizes: np.ndarray) -> dict[str, int]:
    """Upper end of a bin -> objects; a size above 1 cannot be."""
    counts = np.histogram(sizes, bins=(0.0, *SIZE_BINS))[0]
    return {f"{end:g}": int(count) for end, count in zip(SIZE_BINS, counts, strict=True)}
