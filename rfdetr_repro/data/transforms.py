"""Images to network input: the one resize, normalisation, and the three training augmentations
(flip, crop, resize).

Training resizes uint8 RGB with Pillow's antialiased bilinear filter, ignoring the aspect ratio;
evaluation, prediction and artifacts do so too, unless the model's own rule is another one
(:mod:`.resizing`; upstream mixed several filters, architecture facts section 11). Upstream's crop
is replaced by a window of 0.5..1 of each side, which needs no absolute sizes and so fits any
resolution (architecture facts section 9). Only batches need torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rfdetr_repro.spec.resize_rules import ANTIALIASED

from .annotations import ImageKey
from .coco import MasksLater, Sample
from .resizing import resize_image, resized

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Images = TypeVar("Images", "np.ndarray", "Tensor")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
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
    images: Tensor  # float32 (B, 3, H, W), normalised
    targets: list[Target]

    def to(self, device: torch.device) -> Batch:
        """The same on another device; itself if it is there."""
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


def normalise(images: Images) -> Images:
    """float32 (..., 3, H, W) in 0..1, array or tensor -> the same less ImageNet's mean, over its
    standard deviation.
    """
    if isinstance(images, np.ndarray):
        mean, std = (
            np.array(values, dtype=images.dtype)[:, None, None]
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
    else:
        mean, std = (
            images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
    return (images - mean) / std


def to_input(images: Sequence[np.ndarray]) -> np.ndarray:
    """B images uint8 (H, W, 3) of one size -> network input float32 (B, 3, H, W), normalised."""
    stacked = np.stack(images).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(normalise(stacked.astype(np.float32) / np.float32(255)))


def make_batch(
    samples: Sequence[Sample],
    size_hw: tuple[int, int],
    rng: np.random.Generator | None = None,
    flip_probability: float = 0.0,
    crop_probability: float = 0.0,
    skip: int = 0,
    resize: str = ANTIALIASED,
) -> Batch:
    """Resizes (and with ``rng`` flips and crops) samples to one batch. ``rng`` None: evaluation, no
    augmentation.

    ``resize``: the model's rule; training knows the antialiased one only.

    The same number of random draws is made for every sample, so one sample's luck does not depend
    on another's; ``skip`` samples of the same batch come before these and are made elsewhere.
    """
    import torch

    if rng is not None and resize != ANTIALIASED:
        raise ValueError(f"training resizes with antialiasing, not {resize!r}")
    if rng is not None:
        rng.random(skip * _DRAWS)
    images = []
    targets = []
    for sample in samples:
        flip, window = _draw(rng, sample.image.shape[:2], flip_probability, crop_probability)
        image = (
            resize_image(sample.image, size_hw, window)
            if resize == ANTIALIASED
            else resized(sample.image, size_hw, resize)
        )
        images.append(image[:, ::-1] if flip else image)
        boxes_cxcywh, kept = _transform_boxes(sample.boxes_xyxy, flip, window)
        masks = None
        if sample.masks is not None:
            masks = torch.from_numpy(_transform_masks(sample.masks, kept, size_hw, flip, window))
        boxes = torch.from_numpy(boxes_cxcywh[kept])
        targets.append(
            Target(
                boxes,
                torch.from_numpy(sample.labels[kept].astype(np.int64)),
                masks,
                sample.image_id,
            )
        )
    return Batch(torch.from_numpy(to_input(images)), targets)


def _draw(
    rng: np.random.Generator | None,
    shape_hw: tuple[int, ...],
    flip_probability: float,
    crop_probability: float,
) -> tuple[bool, tuple[int, int, int, int]]:
    """(flip, crop window left, top, right, bottom in whole px)."""
    height, width = shape_hw
    if rng is None:
        return False, (0, 0, width, height)
    flip, crop, part_x, part_y, place_x, place_y = rng.random(_DRAWS).tolist()
    if crop >= crop_probability:
        return flip < flip_probability, (0, 0, width, height)
    shares = (SMALLEST_CROP + (1 - SMALLEST_CROP) * part for part in (part_x, part_y))
    crop_w, crop_h = (
        max(1, round(share * side)) for share, side in zip(shares, (width, height), strict=True)
    )
    left = int(place_x * (width - crop_w + 1))
    top = int(place_y * (height - crop_h + 1))
    return flip < flip_probability, (left, top, left + crop_w, top + crop_h)


def _transform_boxes(
    boxes_xyxy: np.ndarray, flip: bool, window: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, 4) px -> (cxcywh float32 (n, 4) in 0..1 of the window, bool (n,) those with area
    left).
    """
    left, top, right, bottom = window
    corner = np.array([left, top, left, top])
    size = np.array([right - left, bottom - top])
    boxes = np.clip(boxes_xyxy.astype(np.float64) - corner, 0, np.tile(size, 2)) / np.tile(size, 2)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    extent = boxes[:, 2:] - boxes[:, :2]
    if flip:
        centre[:, 0] = 1 - centre[:, 0]
    return np.concatenate([centre, extent], axis=1).astype(np.float32), (extent > 0).all(axis=1)


def _transform_masks(
    masks: np.ndarray | MasksLater,
    kept: np.ndarray,
    size_hw: tuple[int, int],
    flip: bool,
    window: tuple[int, int, int, int],
) -> np.ndarray:
    """bool (n, H, W), of which bool ``kept`` (n,) picks -> bool (kept, *size_hw): the window,
    nearest pixel.
    """
    left, top, right, bottom = window
    rows, columns = (
        low + ((np.arange(size) + 0.5) * (high - low) / size).astype(np.int64)
        for size, low, high in zip(size_hw, (top, left), (bottom, right), strict=True)
    )
    columns = columns[::-1] if flip else columns
    if isinstance(masks, MasksLater):
        return masks.sampled(kept, rows, columns)
    return np.ascontiguousarray(masks[kept][:, rows[:, None], columns])
