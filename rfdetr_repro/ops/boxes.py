"""Box formats and overlaps: differentiable torch functions for the matcher, the losses and the
decoder.

``cxcywh`` is centre x, centre y, width, height; ``xyxy`` is left, top, right, bottom. Both are
float tensors whose last axis is 4, in a common unit (fractions of the image, or pixels); leading
axes are free. Overlaps follow GIoU (Rezatofighi et al. 2019) and never divide by zero: two boxes
without area have IoU 0 (and GIoU 0 when their hull has no area either).
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centre/size to corners, (..., 4) -> (..., 4)."""
    centre = boxes_cxcywh[..., :2]
    size = boxes_cxcywh[..., 2:]
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Area, (..., 4) -> (...); a box with a negative side (right < left) has area 0."""
    size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 where the denominator is 0 (finite gradient there too)."""
    empty = denominator <= 0
    return torch.where(
        empty, torch.zeros_like(numerator), numerator / torch.where(empty, 1, denominator)
    )


def _overlap(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcast IoU and union of boxes in corners."""
    low = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    inter = box_area(torch.cat([low, high], dim=-1))
    union = box_area(a_xyxy) + box_area(b_xyxy) - inter
    return _ratio(inter, union), union


def _generalise(iou: Tensor, union: Tensor, a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU minus the share of the common hull that neither box covers."""
    low = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = box_area(torch.cat([low, high], dim=-1))
    return iou - _ratio(hull - union, hull)


def paired_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """Box i against other i; leading axes are broadcast: (..., 4), (..., 4) -> IoU in 0..1,
    (...).
    """
    return _overlap(boxes_xyxy, others_xyxy)[0]


def paired_giou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """Box i against other i; leading axes are broadcast: (..., 4), (..., 4) -> GIoU in -1..1,
    (...).
    """
    iou, union = _overlap(boxes_xyxy, others_xyxy)
    return _generalise(iou, union, boxes_xyxy, others_xyxy)
