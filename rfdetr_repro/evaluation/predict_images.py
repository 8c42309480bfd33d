"""Detections in pictures, for the predict command and the Python interface.

Pictures are paths, bytes, open files, Pillow images, arrays and tensors. Files are decoded as in
training and evaluation (:mod:`.data.decoding`) and always rotated by their EXIF orientation: boxes
fit the picture as viewers show it. Masks are enlarged only for detections above the threshold, in
strips.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from rfdetr_repro.data.decoding import Decoded, decode, decode_array, decode_reduced
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.data.segmentation import MaskMaps, masks_to_bitmaps
from rfdetr_repro.model.detector import Detector, Outputs
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED

from .coco import boxes_in_pixels

# str | PathLike | bytes | binary file | PIL.Image.Image | np.ndarray | torch.Tensor | Decoded
Picture = Any


@dataclass(frozen=True)
class Found:
    """Detections of one picture, best first."""

    boxes_xyxy: np.ndarray  # float32 (k, 4) px, inside the picture
    scores: np.ndarray  # float32 (k,) in 0..1
    labels: np.ndarray  # int64 (k,) contiguous
    masks: Any  # bool (k, H, W), or MaskMaps of that size (small_masks), or None

    def on(self, drawn_hw: tuple[int, int], size_hw: tuple[int, int]) -> Found:
        """The same detections on a smaller form of the picture, for drawing: ``drawn_hw`` is its
        size, ``size_hw`` the size of the whole picture, both (h, w) in px.
        """
        if drawn_hw == size_hw:
            return self
        scale = np.array([drawn_hw[1] / size_hw[1], drawn_hw[0] / size_hw[0]] * 2, dtype=np.float32)
        rows, columns = (
            (np.arange(new) + 0.5) * old / new for new, old in zip(drawn_hw, size_hw, strict=True)
        )
        if isinstance(self.masks, MaskMaps):
            return Found(self.boxes_xyxy * scale, self.scores, self.labels, self.masks.at(drawn_hw))
        masks = (
            None
            if self.masks is None
            else self.masks[:, rows.astype(int)[:, None], columns.astype(int)]
        )
        return Found(self.boxes_xyxy * scale, self.scores, self.labels, masks)


def load_picture(picture: Picture) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a path, the bytes of a file, a binary file, a Pillow image, an array
    or a tensor.

    Files and Pillow images: see :mod:`.data.decoding`; rotated by EXIF. Arrays: uint8, or float in
    0..1; (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Tensors: uint8, or float in 0..1; (3, H, W).
    Raises :class:`InputError` for anything else.
    """
    return (
        decode_array(_array(picture))
        if isinstance(picture, (np.ndarray, torch.Tensor))
        else decode(picture)
    )


def _loaded(picture: Picture, reduce: bool) -> Decoded:
    """The picture's pixels and its size; ``reduce`` gives fewer pixels than the size for a very
    large file.
    """
    if reduce and not isinstance(picture, (np.ndarray, torch.Tensor, Decoded)):
        return decode_reduced(picture)
    if isinstance(picture, Decoded):
        return picture
    pixels = load_picture(picture)
    return Decoded(pixels, (pixels.shape[0], pixels.shape[1]))


def _array(picture: np.ndarray | torch.Tensor) -> np.ndarray:
    """An array (H, W[, channels]) of an array itself or a tensor (3, H, W)."""
    if isinstance(picture, np.ndarray):
        return picture
    given = f"{picture.dtype} {tuple(picture.shape)}".removeprefix("torch.")
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise InputError(
            f"not an image: a tensor {given}", hint="give (3, H, W); an array may be (H, W, 3)"
        )
    if not (picture.is_floating_point() or picture.dtype == torch.uint8):
        raise InputError(
            f"an image tensor must be uint8, or float in 0..1, not {given}",
            hint="convert the tensor",
        )
    values = picture.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy().transpose(1, 2, 0)


def as_pictures(images: Any) -> tuple[list[Picture], bool]:
    """The pictures as a list, and whether several were given: a list, tuple, generator, array (B,
    H, W, C) or tensor (B, 3, H, W) is several.
    """
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return (list(images), True) if images.ndim == 4 else ([images], False)
    one = isinstance(
        images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Decoded)
    ) or hasattr(images, "read")
    if one or not isinstance(images, Iterable):
        return [images], False
    return list(images), True


@torch.inference_mode()
def detect(
    detector: Detector,
    pictures: Sequence[Picture],
    threshold: float = 0.5,
    *,
    arch: Arch | None = None,
    batch_size: int = 8,
    resize: str = ANTIALIASED,
    small_masks: bool = False,
) -> list[Found]:
    """Detections with a score of at least ``threshold`` (0..1), one entry per picture; ``arch``
    None is the detector's own.

    ``resize``: the model's rule, from its card (:mod:`.resize_rules`). ``small_masks`` keeps masks
    as :class:`MaskMaps`. Raises :class:`InputError` for a model whose output is not finite.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not in 0..1")
    device, arch, found = next(detector.parameters()).device, arch or detector.arch, []
    for start in range(0, len(pictures), batch_size):
        images = [
            _loaded(picture, resize == ANTIALIASED)
            for picture in pictures[start : start + batch_size]
        ]
        batch = torch.from_numpy(
            network_input(
                [image.pixels for image in images], arch.input_hw, resize, normalised=True
            )
        )
        outputs = detector(batch.to(device), arch)
        if not (
            bool(torch.isfinite(outputs.logits).all())
            and bool(torch.isfinite(outputs.boxes_cxcywh).all())
        ):
            what = "the model gives numbers that are not finite"
            raise InputError(
                what, hint="its weights are broken or too large: take an earlier checkpoint"
            )
        found += [
            _one(outputs, row, image.size_hw, threshold, arch.queries, small_masks)
            for row, image in enumerate(images)
        ]
    return found


def _one(
    outputs: Outputs, row: int, hw: tuple[int, int], threshold: float, k: int, small_masks: bool
) -> Found:
    masks = (
        None
        if outputs.masks is None
        else outputs.masks._replace(
            pixels=outputs.masks.pixels[row, None], queries=outputs.masks.queries[row, None]
        )
    )
    ranked = top_k(
        Outputs(outputs.logits[row, None], outputs.boxes_cxcywh[row, None], masks),
        k,
        threshold=threshold,
    )
    height, width = hw
    boxes = boxes_in_pixels(ranked.boxes_xyxy[0].float().cpu().numpy(), (height, width))
    if ranked.mask_logits is not None and bool(torch.isnan(ranked.mask_logits).any()):
        raise InputError(
            "the model gives masks that are NaN",
            hint="its weights have diverged, or overflow; use others",
        )
    bitmaps: Any = None
    if ranked.mask_logits is not None and small_masks:
        bitmaps = MaskMaps(ranked.mask_logits[0], (height, width))
    elif ranked.mask_logits is not None:
        bitmaps = masks_to_bitmaps(ranked.mask_logits[0], height, width)
    return Found(
        boxes, ranked.scores[0].float().cpu().numpy(), ranked.labels[0].cpu().numpy(), bitmaps
    )
