"""The mask path on tensors: logits of the kept queries only, then masks of the whole image without
an enlarged map of logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distribution import NAMESPACE
from .library import OPERATORS


def mask_logits(queries: Tensor, pixels: Tensor, bias: Tensor | None = None) -> Tensor:
    """Query embeddings (..., K, d) x pixel embeddings (..., d, h, w) -> mask logits (..., K, h, w);
    ``bias`` (1,) is added.

    One matrix product, whose cost grows with the number of queries: select the queries first.
    """
    logits = (queries @ pixels.flatten(-2)).unflatten(-1, pixels.shape[-2:])
    return logits if bias is None else logits + bias


def masks_from_logits(
    logits: Tensor,
    height: int,
    width: int,
    *,
    boxes_xyxy: Tensor | None = None,
    packed: bool = False,
) -> Tensor:
    """Logits (K, h, w) -> bool (K, height, width), or ``packed`` uint8 (K, height, ceil(width /
    8)), low bit first.

    Equal to ``interpolate(mode="bilinear", align_corners=False) > 0`` in float32. ``boxes_xyxy``
    (K, 4) in pixels of the image sets only pixels whose centre is inside. No gradient. Raises
    RuntimeError for other shapes or 2^31 or more pixels.
    """
    boxes = None if boxes_xyxy is None else boxes_xyxy.float()
    return OPERATORS.masks_from_logits.default(logits.float(), height, width, boxes, packed)


def mask_runs(
    logits: Tensor, height: int, width: int, *, boxes_xyxy: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The masks of :func:`masks_from_logits` as COCO run lengths, down the columns and starting
    with unset pixels; CPU only.

    Returns (runs int32 (n,), starts int64 (K + 1,)): mask k has the runs ``runs[starts[k]:starts[k
    + 1]]``, which add up to height * width.
    """
    boxes = None if boxes_xyxy is None else boxes_xyxy.float()
    return OPERATORS.mask_runs.default(logits.float(), height, width, boxes)


@torch.library.register_fake(f"{NAMESPACE}::masks_from_logits")
def _shape(logits: Tensor, height: int, width: int, boxes: Tensor | None, packed: bool) -> Tensor:
    size = (logits.shape[0], height, (width + 7) // 8 if packed else width)
    return logits.new_empty(size, dtype=torch.uint8 if packed else torch.bool)


@torch.library.register_fake(f"{NAMESPACE}::mask_runs")
def _runs_shape(
    logits: Tensor, height: int, width: int, boxes: Tensor | None
) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return logits.new_empty(count, dtype=torch.int32), logits.new_empty(
        logits.shape[0] + 1, dtype=torch.int64
    )
