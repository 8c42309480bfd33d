"""Samples to batches: the three training augmentations (flip, crop, resize), with boxes and masks
that follow the pixels.

:func:`.network_input.network_input` makes the pixels. Training resizes uint8 RGB with Pillow's
antialiased bilinear filter and ignores the aspect ratio; evaluation, prediction and artifacts do
the same, unless the model has another rule. A window of 0.5..1 of each side replaces upstream's
crop; it needs no absolute sizes and so fits any resolution. Only batches need torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rfdetr_repro.spec.resize_rules import ANTIALIASED

from .coco import MasksLater, Sample
from .coco_document import ImageKey
from .network_input import View, network_input

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SMALLEST_CROP = 0.5  # of each side
_DRAWS = 6  # random numbers per sample


@dataclass(frozen=True)
class Target:
    """Training target of one image."""

    boxes_cxcywh: Tensor  # float32 (n, 4), 0..1 of the input image
    labels: Tensor  # int64 (n,) contiguous
    masks: Tensor | None  # bool (n, H, W) at input resolution
    image_id: ImageKey


@dataclass(frozen=True)
class Batch:
    """A batch of images with their targets."""

    images: Tensor  # float32 (B, 3, H, W), normalised
    targets: list[Target]

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; the batch itself if it is there already."""
        if self.images.device == device:
            return self
        targets = [
            Target(
                target.boxes_cxcywh.to(device, non_blocking=True),
                target.labels.to(device, non_blocking=True),
                None if target.masks is None else target.masks.to(device, non_blocking=True),
                target.image_id,
            )
            for target in self.targets
        ]
        return Batch(self.images.to(device, non_blocking=True), targets)


def make_batch(
    samples: Sequence[Sample],
    size_hw: tuple[int, int],
    rng: np.random.Generator | None = None,
    flip_probability: float = 0.0,
    crop_probability: float = 0.0,
    skip: int = 0,
    resize: str = ANTIALIASED,
) -> Batch:
    """Resizes (and with ``rng`` flips and crops) samples to one batch. Without ``rng`` nothing is
    augmented, as in evaluation.

    ``resize``: the model's rule; training supports the antialiased rule only. Every sample uses the
    same number of random draws, so the augmentation of a sample does not depend on other samples;
    ``skip`` samples of the same batch come before these and are made elsewhere.
    """
    import torch

    if rng is not None and resize != ANTIALIASED:
        raise ValueError(f"training resizes with antialiasing, not {resize!r}")
    if rng is not None:
        rng.random(skip * _DRAWS)
    views = []
    targets = []
    for sample in samples:
        view = _draw(rng, sample.image.shape[:2], flip_probability, crop_probability)
        views.append(view)
        boxes_cxcywh, kept = _transform_boxes(sample.boxes_xyxy, view)
        masks = None
        if sample.masks is not None:
            masks = torch.from_numpy(_transform_masks(sample.masks, kept, size_hw, view))
        boxes = torch.from_numpy(boxes_cxcywh[kept])
        targets.append(
            Target(
                boxes,
                torch.from_numpy(sample.labels[kept].astype(np.int64)),
                masks,
                sample.image_id,
            )
        )
    images = network_input(
        [sample.image for sample in samples],
        size_hw,
        resize,
        normalised=True,
        views=None if rng is None else views,
    )
    return Batch(torch.from_numpy(images), targets)


def _draw(
    rng: np.random.Generator | None,
    shape_hw: tuple[int, ...],
    flip_probability: float,
    crop_probability: float,
) -> View:
    """The part of a picture that training uses; without ``rng`` the whole picture."""
    height, width = shape_hw
    if rng is None:
        return View((0, 0, width, height), False)
    flip, crop, part_x, part_y, place_x, place_y = rng.random(_DRAWS).tolist()
    if crop >= crop_probability:
        return View((0, 0, width, height), flip < flip_probability)
    shares = (SMALLEST_CROP + (1 - SMALLEST_CROP) * part for part in (part_x, part_y))
    crop_w, crop_h = (
        max(1, round(share * side)) for share, side in zip(shares, (width, height), strict=True)
    )
    left = int(place_x * (width - crop_w + 1))
    top = int(place_y * (height - crop_h + 1))
    window = (left, top, left + crop_w, top + crop_h)
    return View(window, flip < flip_probability)


def _transform_boxes(boxes_xyxy: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, 4) px -> (cxcywh float32 (n, 4) in 0..1 of the window, bool (n,) those with area
    left).
    """
    left, top, right, bottom = view.window
    corner = np.array([left, top, left, top])
    size = np.array([right - left, bottom - top])
    boxes = np.clip(boxes_xyxy.astype(np.float64) - corner, 0, np.tile(size, 2)) / np.tile(size, 2)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    extent = boxes[:, 2:] - boxes[:, :2]
    if view.flip:
        centre[:, 0] = 1 - centre[:, 0]
    return np.concatenate([centre, extent], axis=1).astype(np.float32), (extent > 0).all(axis=1)


def _transform_masks(
    masks: np.ndarray | MasksLater,
    kept: np.ndarray,
    size_hw: tuple[int, int],
    view: View,
) -> np.ndarray:
    """bool (n, H, W), of which bool ``kept`` (n,) picks -> bool (kept, *size_hw): the window,
    nearest pixel.
    """
    left, top, right, bottom = view.window
    rows, columns = (
        low + ((np.arange(size) + 0.5) * (high - low) / size).astype(np.int64)
        for size, low, high in zip(size_hw, (top, left), (bottom, right), strict=True)
    )
    columns = columns[::-1] if view.flip else columns
    if isinstance(masks, MasksLater):
        return masks.sampled(kept, rows, columns)
    return np.ascontiguousarray(masks[kept][:, rows[:, None], columns])
