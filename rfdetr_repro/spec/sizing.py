"""Model settings that follow the data: resolution, queries, mask map and first-stage proposals of
the small sizes. No torch here.

A detector cannot find what its tokens, queries and mask cells cannot hold. The rules below give
each of them the least value that holds the objects of the data set, because every step of training
and every millisecond of inference pays for more. docs/method/pico.md shows what the rules are
worth on two real data sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .arch import Arch, SearchSpace
from .presets import Preset

SIDE_STEP = 32  # px between resolutions to choose from
LEAST_SIDE, MOST_SIDE = 128, 320  # px
UPSCALING = 1.25  # a picture is enlarged by no more than this factor
# numbers of queries to choose from; COCO's AP counts at most 100 detections of an image
QUERY_COUNTS = (25, 50, 75, 100, 150, 200, 300)
QUERIES_PER_OBJECT = 2.5  # for the median image
SPARE_QUERIES = 1.1  # for an image with more objects than nine tenths of the images
MASK_CELLS = 4  # cells of the mask map along the side of a typical object
MASK_STRIDES = (8, 4, 2)
LEAST_PROPOSAL, MOST_PROPOSAL = 0.02, 0.3


@dataclass(frozen=True)
class Scene:
    """What the train split of a data set looks like; the sides are square roots of areas, as
    fractions of the image.
    """

    images: int
    median_objects: float  # of an image
    many_objects: float  # 90th percentile over the images
    most_objects: int
    typical_side: float  # median over all objects
    smallest_class: str  # the class with the smallest objects, of those with enough objects
    smallest_side: float  # median over the objects of that class
    image_side: float  # px, median over the images


@dataclass(frozen=True)
class Sizing:
    """Settings of a model and of its search space, with a line for each choice. None keeps what the
    model or its file has.
    """

    resolution: int | None = None
    queries: int | None = None
    proposal_side: float | None = None
    mask_stride: int | None = None
    reasons: tuple[str, ...] = ()

    def preset(self, base: Preset) -> Preset:
        """``base`` with these settings; masks, widths and depths stay."""
        names = ("queries", "proposal_side", "mask_stride")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        arch = replace(
            base.arch,
            resolution=self.resolution or base.arch.resolution,
            queries=self.queries or base.arch.queries,
        )
        return Preset(replace(base.model, **given), arch, base.note)

    def space(self, base: SearchSpace, arch: Arch) -> SearchSpace:
        """``base``, whose base architecture is ``arch``, with its resolutions and numbers of
        queries scaled to these settings.
        """
        return replace(
            base,
            resolutions=_scaled(
                base.resolutions, (self.resolution or arch.resolution) / arch.resolution, 16
            ),
            queries=_scaled(base.queries, (self.queries or arch.queries) / arch.queries, 1),
        )

    def as_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Sizing:
        """The settings that :meth:`as_json` wrote."""
        return cls(**{**row, "reasons": tuple(row["reasons"])})


def size_for(scene: Scene, patch: int, side: int | None = None) -> Sizing:
    """The settings for a data set, for a base architecture with ``patch`` px patches. ``side``: px
    of the input, where it is given rather than chosen.

    - Resolution: a patch is no larger than the typical object of the class with the smallest
      objects, within 128 to 320 px and at most 1.25 times the pictures' own side.
    - Queries: 2.5 for each object of the median image, and enough for nine images of ten.
    - Mask map: at least four cells along a typical object.
    - First-stage proposals as large as a typical object.
    """
    wanted = patch / scene.smallest_side
    most = min(MOST_SIDE, max(LEAST_SIDE, UPSCALING * scene.image_side))
    resolution = side or _up_to_step(min(max(wanted, LEAST_SIDE), most), most)
    queries = _queries(scene)
    stride = _mask_stride(resolution * scene.typical_side)
    proposal = round(min(max(scene.typical_side, LEAST_PROPOSAL), MOST_PROPOSAL), 2)
    return Sizing(
        resolution, queries, proposal, stride, _reasons(scene, resolution, queries, stride, patch)
    )


def _up_to_step(side: float, most: float) -> int:
    """The multiple of SIDE_STEP from ``side`` on, the one below where that exceeds ``most``."""
    above = math.ceil(side / SIDE_STEP) * SIDE_STEP
    return above if above <= most else max(LEAST_SIDE, above - SIDE_STEP)


def _queries(scene: Scene) -> int:
    needed = max(
        QUERIES_PER_OBJECT * scene.median_objects, math.ceil(SPARE_QUERIES * scene.many_objects)
    )
    return next((count for count in QUERY_COUNTS if count >= needed), QUERY_COUNTS[-1])


def _mask_stride(object_side: float) -> int:
    """``object_side``: px of the network's input."""
    return next(
        (stride for stride in MASK_STRIDES if object_side >= MASK_CELLS * stride), MASK_STRIDES[-1]
    )


def _scaled(values: Sequence[int], factor: float, unit: int) -> tuple[int, ...]:
    """The values times ``factor``, rounded to ``unit``; equal values once."""
    scaled = (max(1, round(value * factor / unit)) * unit for value in values)
    return tuple(dict.fromkeys(scaled)) if factor != 1 else tuple(values)


def _reasons(
    scene: Scene, resolution: int, queries: int, stride: int, patch: int
) -> tuple[str, ...]:
    smallest = scene.smallest_side * resolution
    return (
        f"resolution {resolution} px: {scene.smallest_class}, the class with the smallest "
        f"objects, measures {scene.smallest_side:.1%} of the image side, {smallest:.0f} px "
        f"against patches of {patch} px",
        f"{queries} queries: {scene.median_objects:g} objects in the median image, "
        f"{scene.many_objects:.0f} in an image with more than nine tenths of the others",
        f"mask maps of 1/{stride} of the side: a typical object is "
        f"{scene.typical_side * resolution / stride:.1f} cells wide",
    )


def too_many_objects(scene: Scene, beyond: int, queries: int) -> str:
    """A warning that ``beyond`` images hold more objects than ``queries``; empty for none."""
    if not beyond:
        return ""
    return (
        f"{beyond} of {scene.images} training images hold more than {queries} objects (at most "
        f"{scene.most_objects}): a model with {queries} queries cannot find all of them; raise "
        f"--queries, or cut the pictures into tiles"
    )
