"""The calibration set: which training images the ranges of the activations come from.

The images are drawn by a seed and named by a digest over their identities and pixels, so that the
manifest tells whether two files were calibrated on the same images.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.export.artifact import Manifest
from rfdetr_repro.export.split_inputs import split_inputs
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import CALIBRATION_IMAGES

Array = np.ndarray[Any, Any]
SEED = 0


@dataclass(frozen=True)
class CalibrationSet:
    """Images of a split, by their places in it, in rising order."""

    split: CocoSplit
    places: tuple[int, ...]
    seed: int
    sha256: str  # 64 hexadecimal digits over identities, sizes and pixels

    def __len__(self) -> int:
        return len(self.places)

    @property
    def told(self) -> str:
        """The set in words, with its seed and digest."""
        images = "1 image" if len(self) == 1 else f"{len(self)} images"
        return (
            f"{images} of {self.split.name}/{self.split.split}, seed {self.seed}, sha256 "
            f"{self.sha256}"
        )

    def feeds(self, manifest: Manifest, most: int | None = None) -> Iterator[dict[str, Array]]:
        """Inputs of the artifact with this ``manifest``, as
        :func:`~rfdetr_repro.export.split_inputs.split_inputs` makes them.

        ``most``: number of images at most.
        """
        return split_inputs(self.split, self.places[:most], manifest)


class Calibration(Protocol):
    """What the ranges of the activations are measured on: :class:`CalibrationSet` or
    :class:`Noise`.
    """

    @property
    def sha256(self) -> str:
        """64 hexadecimal digits that name the images."""
        ...

    @property
    def told(self) -> str:
        """The images in words."""
        ...

    def __len__(self) -> int: ...

    def feeds(self, manifest: Manifest, most: int | None = None) -> Iterator[dict[str, Array]]:
        """Inputs of the artifact with this ``manifest``, for at most ``most`` images."""
        ...


@dataclass(frozen=True)
class Noise:
    """Noise in 0..1, for models with random weights, whose latency alone is measured."""

    count: int = 2
    seed: int = SEED

    def __len__(self) -> int:
        return self.count

    @property
    def sha256(self) -> str:
        """The digest of the rule that makes the noise."""
        return hashlib.sha256(f"uniform noise {self.count} {self.seed}".encode()).hexdigest()

    @property
    def told(self) -> str:
        """The noise in words."""
        return f"{self.count} inputs of noise, seed {self.seed}, sha256 {self.sha256}"

    def feeds(self, manifest: Manifest, most: int | None = None) -> Iterator[dict[str, Array]]:
        """As :meth:`CalibrationSet.feeds`."""
        random = np.random.default_rng(self.seed)
        batch = manifest.images_per_run
        count = self.count if most is None else min(most, self.count)
        for _ in range(math.ceil(count / batch)):
            shape = (batch, 3, *manifest.input_hw)
            yield {manifest.inputs[0].name: random.random(shape, dtype=np.float32)}


def calibration_set(
    split: CocoSplit, count: int = CALIBRATION_IMAGES, seed: int = SEED
) -> CalibrationSet:
    """``count`` different images of ``split`` drawn by ``seed``, or all where there are fewer.

    Raises :class:`InputError` for a split without images.
    """
    if not len(split):
        raise InputError(
            f"the split {split.split} of {split.name} holds no image to calibrate on",
            hint="give data with training images",
        )
    random = np.random.default_rng(seed)
    drawn = random.choice(len(split), size=min(count, len(split)), replace=False)
    places = tuple(int(place) for place in np.sort(drawn))
    digest = hashlib.sha256()
    for place in places:
        pixels = np.ascontiguousarray(split.load_image(place))
        digest.update(f"{split.images[place].id} {pixels.shape}\n".encode())
        digest.update(pixels.tobytes())
    return CalibrationSet(split, places, seed, digest.hexdigest())
