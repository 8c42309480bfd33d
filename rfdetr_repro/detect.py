"""Pictures in, detections out: what the predict command and the Python interface share.

Accepts paths, Pillow images, arrays and tensors; EXIF rotation is applied (boxes fit the picture as viewers show it), 16-bit and
CMYK pictures become 8-bit RGB. Masks are enlarged only for what passes the threshold, a strip at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .coco_eval import boxes_in_pixels
from .config import Arch
from .data.segmentation import masks_to_bitmaps
from .data.transforms import resize_image, to_input
from .errors import InputError
from .files import open_input
from .model.detector import Detector, Outputs
from .model.postprocess import top_k

Picture = Any  # str | Path | PIL.Image.Image | np.ndarray | torch.Tensor
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")


@dataclass(frozen=True)
class Found:
    """Detections of one picture, best first."""

    boxes_xyxy: np.ndarray  # float32 (k, 4) px, inside the picture
    scores: np.ndarray  # float32 (k,) in 0..1
    labels: np.ndarray  # int64 (k,) contiguous
    masks: np.ndarray | None  # bool (k, H, W)


def load_picture(picture: Picture) -> np.ndarray:
    """uint8 (H, W, 3) RGB. Arrays must be uint8 (H, W, 3) RGB; tensors uint8 or float in 0..1, (3, H, W)."""
    if isinstance(picture, (str, Path)):
        with open_input(picture) as stream:
            try:
                with Image.open(stream) as opened:
                    return _rgb(opened)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                reason = "the format is unknown" if isinstance(error, Image.UnidentifiedImageError) else str(error)
                raise InputError(f"cannot decode the image: {reason}", picture, "replace the file") from error
    if isinstance(picture, Image.Image):
        return _rgb(picture)
    if isinstance(picture, torch.Tensor):
        values = picture.detach().cpu()
        if values.is_floating_point():
            if not bool(torch.isfinite(values).all()) or float(values.min()) < 0 or float(values.max()) > 1:
                raise InputError("a float image tensor must hold values in 0..1", mend="divide by 255, do not normalise")
            values = (values.float() * 255).round().to(torch.uint8)
        picture = values.numpy().transpose(1, 2, 0) if values.dim() == 3 and values.shape[0] == 3 else values.numpy()
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        if min(picture.shape) == 0:
            raise InputError(f"an empty image of shape {picture.shape}")
        return np.ascontiguousarray(picture)
    what = f"{picture.dtype} {tuple(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
    raise InputError(f"not an image: {what}", mend="give a path, a Pillow image, a uint8 (H, W, 3) array or a (3, H, W) tensor")


def _rgb(picture: Image.Image) -> np.ndarray:
    turned = ImageOps.exif_transpose(picture)
    if turned.mode in SIXTEEN_BIT:
        wide = np.asarray(turned).astype(np.float64)
        narrow = np.rint(wide.clip(0, 65535) / 257).astype(np.uint8)
        return np.repeat(narrow[..., None], 3, axis=2)
    return np.asarray(turned.convert("RGB"))


@torch.inference_mode()
def detect(
    detector: Detector, pictures: Sequence[Picture], threshold: float = 0.5, *, arch: Arch | None = None, batch_size: int = 8
) -> list[Found]:
    """Detections with a score of at least ``threshold`` (0..1), one entry per picture; ``arch`` None: the detector's own."""
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not in 0..1")
    device, arch, found = next(detector.parameters()).device, arch or detector.arch, []
    for start in range(0, len(pictures), batch_size):
        images = [load_picture(picture) for picture in pictures[start : start + batch_size]]
        batch = torch.from_numpy(to_input([resize_image(image, arch.input_hw) for image in images]))
        outputs = detector(batch.to(device), arch)
        found += [_one(outputs, row, image.shape[:2], threshold, arch.queries) for row, image in enumerate(images)]
    return found


def _one(outputs: Outputs, row: int, hw: tuple[int, ...], threshold: float, k: int) -> Found:
    masks = (
        None
        if outputs.masks is None
        else outputs.masks._replace(pixels=outputs.masks.pixels[row, None], queries=outputs.masks.queries[row, None])
    )
    ranked = top_k(Outputs(outputs.logits[row, None], outputs.boxes_cxcywh[row, None], masks), k, threshold=threshold)
    height, width = hw
    boxes = boxes_in_pixels(ranked.boxes_xyxy[0].float().cpu().numpy(), (height, width))
    bitmaps = None if ranked.mask_logits is None else masks_to_bitmaps(ranked.mask_logits[0], height, width)
    return Found(boxes, ranked.scores[0].float().cpu().numpy(), ranked.labels[0].cpu().numpy(), bitmaps)
