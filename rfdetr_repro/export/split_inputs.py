"""Images of a split as inputs of an artifact, for audits and calibrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.network_input import network_input

from .artifact import Manifest

Array = np.ndarray[Any, Any]


def split_inputs(
    split: CocoSplit, places: Sequence[int], manifest: Manifest
) -> Iterator[dict[str, Array]]:
    """The images of ``split`` at ``places``, one batch at a time: the input's name -> float32
    (B, 3, H, W) in 0..1, resized by the manifest's rule.

    B is the batch of the file; the first images fill up the last batch. Raises
    :class:`InputError` for an image that cannot be read.
    """
    batch = manifest.images_per_run
    for start in range(0, len(places), batch):
        chosen = [
            split.load_image(places[index % len(places)]) for index in range(start, start + batch)
        ]
        yield {manifest.inputs[0].name: network_input(chosen, manifest.input_hw, manifest.resize)}
