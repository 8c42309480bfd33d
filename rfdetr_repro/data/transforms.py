"""Samples to batches: the three training augmentations (flip, crop, resize), with boxes and masks
that follow the pixels.

:func:`.network_input.network_input` makes the pixels. Training resizes uint8 RGB with Pillow's
antialiased bilinear filter and ignores the aspect ratio; evaluation, prediction and artifacts do
the same, unless the model has another rule. A window of 0.5..1 of each side replaces upstream's
crop; it needs no absolute sizes and so fits any resolution. Only batches need torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED

from .coco import MasksLater, Sample
from .coco_document import ImageKey
from .device_input import Filters
from .network_input import View, write_input

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

    images: Tensor  # float32 (B, 3, H, W), normalised; with filters: uint8 (n, 3), whole pictures
    targets: list[Target]
    filters: Filters | None = None  # how a device makes the images; None: they are made

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``, where its images are made if they are not yet; the batch
        itself if it is there already. Raises :class:`InputError` where the device lacks the memory
        to make the images.
        """
        here = self.images.device
        there = here.type == device.type and device.index in (None, here.index)
        if there and self.filters is None:
            return self
        import torch

        images = self._images_on(device)
        if not self.targets:
            return Batch(images, [])
        counts = [len(target.labels) for target in self.targets]
        boxes = torch.cat([target.boxes_cxcywh for target in self.targets])
        labels = torch.cat([target.labels for target in self.targets])
        targets = [
            Target(
                own_boxes,
                own_labels,
                None if target.masks is None else sent(target.masks, device),
                target.image_id,
            )
            for target, own_boxes, own_labels in zip(
                self.targets,
                sent(boxes, device).split(counts),
                sent(labels, device).split(counts),
                strict=True,
            )
        ]
        return Batch(images, targets)

    def _images_on(self, device: torch.device) -> Tensor:
        if self.filters is None:
            return sent(self.images, device)
        try:
            numbers = sent(self.filters.numbers, device)
            return self.filters.images(sent(self.images, device), numbers)
        except RuntimeError as error:
            from rfdetr_repro.ops.device import ran_out_of_memory

            if not ran_out_of_memory(error):
                raise
            # the pictures are as large for any architecture: none is to be left out for them
            raise InputError(
                f"out of memory on {device} while it resized {self.filters.count} whole pictures",
                "resize_on=device",
                "set resize_on=loader, or lower batch_size and raise accumulate",
            ) from error

    def packed(self) -> PackedBatch:
        """The same batch in as few arrays as possible, for another process."""
        import torch

        targets = self.targets
        masks = [target.masks for target in targets if target.masks is not None]
        return PackedBatch(
            self.images,
            np.concatenate([target.boxes_cxcywh.numpy() for target in targets]),
            np.concatenate([target.labels.numpy() for target in targets]),
            torch.cat(masks) if masks else None,
            [len(target.labels) for target in targets],
            [target.image_id for target in targets],
            self.filters,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the images on a device, with the whole pictures that they are made of there."""
        made = 0 if self.filters is None else self.filters.nbytes
        return self.images.nbytes + made

    def tensors(self) -> list[Tensor]:
        """All tensors of the batch."""
        found = [self.images] if self.filters is None else [self.images, self.filters.numbers]
        for target in self.targets:
            found += [target.boxes_cxcywh, target.labels]
            if target.masks is not None:
                found.append(target.masks)
        return found


@dataclass(frozen=True)
class PackedBatch:
    """A batch whose targets follow each other in one array of each kind."""

    images: Tensor  # as in a batch
    boxes_cxcywh: np.ndarray  # float32 (n, 4)
    labels: np.ndarray  # int64 (n,)
    masks: Tensor | None  # bool (n, H, W)
    counts: list[int]  # of the targets of each image
    image_ids: list[ImageKey]
    filters: Filters | None

    def pin_memory(self) -> PackedBatch:
        """The same in memory that a GPU copies from by itself; PyTorch's loader calls this."""
        masks = None if self.masks is None else self.masks.pin_memory()
        filters = None if self.filters is None else self.filters.pin_memory()
        return replace(self, images=self.images.pin_memory(), masks=masks, filters=filters)

    def unpacked(self) -> Batch:
        """The batch; its targets are parts of these arrays."""
        import torch

        boxes = torch.from_numpy(self.boxes_cxcywh).split(self.counts)
        labels = torch.from_numpy(self.labels).split(self.counts)
        masks = [None] * len(self.counts) if self.masks is None else self.masks.split(self.counts)
        parts = zip(boxes, labels, masks, self.image_ids, strict=True)
        return Batch(self.images, [Target(*part) for part in parts], self.filters)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. From the CPU to a GPU this is a copy in the order of the GPU's
    stream, for which this thread does not wait; memory that is not pinned is copied to pinned
    memory first.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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
    if rng is not None and resize != ANTIALIASED:
        raise ValueError(f"training resizes with antialiasing, not {resize!r}")
    if rng is not None:
        rng.random(skip * _DRAWS)
    images = empty_images(len(samples), size_hw)
    targets = []
    for sample, to in zip(samples, images.numpy(), strict=True):
        view = _draw(rng, sample.image.shape[:2], flip_probability, crop_probability)
        targets.append(write_sample(sample, to, view if rng is not None else None, resize))
    return Batch(images, targets)


def empty_images(count: int, size_hw: tuple[int, int], pinned: bool = False) -> Tensor:
    """Memory for the images of a batch: float32 (count, 3, *size_hw). ``pinned``: memory that a GPU
    copies from by itself.
    """
    import torch

    return torch.empty((count, 3, *size_hw), dtype=torch.float32, pin_memory=pinned)


def write_sample(
    sample: Sample, to: np.ndarray, view: View | None, resize: str = ANTIALIASED
) -> Target:
    """Writes the pixels of a sample, normalised, to ``to``, float32 (3, h, w), and returns its
    target. ``view``: the part of the picture that is used; None: all of it.
    """
    write_input(sample.image, to, resize, normalised=True, view=view)
    return target_of(sample, (to.shape[1], to.shape[2]), view)


def target_of(sample: Sample, size_hw: tuple[int, int], view: View | None) -> Target:
    """The target of a sample whose part ``view`` (None: all of it) becomes ``size_hw`` px."""
    import torch

    height, width = sample.image.shape[:2]
    used = view or View((0, 0, width, height), False)
    boxes_cxcywh, kept = _transform_boxes(sample.boxes_xyxy, used)
    masks = None
    if sample.masks is not None:
        masks = torch.from_numpy(_transform_masks(sample.masks, kept, size_hw, used))
    return Target(
        torch.from_numpy(boxes_cxcywh[kept]),
        torch.from_numpy(sample.labels[kept].astype(np.int64)),
        masks,
        sample.image_id,
    )


def drawn_view(
    rng: np.random.Generator,
    place: int,
    shape_hw: tuple[int, ...],
    flip_probability: float,
    crop_probability: float,
) -> View:
    """The part of the picture at ``place`` of a batch, from the random numbers of the batch: as in
    :func:`make_batch`, whichever of the batch's pictures are made elsewhere.
    """
    rng.random(place * _DRAWS)
    return _draw(rng, shape_hw, flip_probability, crop_probability)


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
