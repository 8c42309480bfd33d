"""From raw outputs to ranked detections (architecture facts section 11): sigmoid, top k over query x class, no NMS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .detector import Outputs


class Ranked(NamedTuple):
    """The k best (query, class) pairs of each image, best first; a query may appear with several labels."""

    scores: Tensor  # (B, k) in 0..1
    labels: Tensor  # (B, k) int64
    boxes_xyxy: Tensor  # (B, k, 4), parts of the image, not clamped
    mask_logits: Tensor | None  # (B, k, h, w); > 0 is foreground


def top_k(outputs: Outputs, k: int, *, masks: bool = True) -> Ranked:
    """Ranks ``outputs``; k is capped at queries x classes."""
    b, n, classes = outputs.logits.shape
    scores, flat = outputs.logits.flatten(1).topk(min(k, n * classes), dim=1)  # (B, k)
    query = torch.div(flat, classes, rounding_mode="floor")
    cx, cy, w, h = outputs.boxes_cxcywh.gather(1, query[..., None].expand(-1, -1, 4)).unbind(-1)
    boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    mask_logits = None
    if masks and outputs.masks is not None:
        embedding = outputs.masks.queries
        chosen = embedding.gather(1, query[..., None].expand(-1, -1, embedding.shape[-1]))
        mask_logits = outputs.masks._replace(queries=chosen).logits()
    return Ranked(scores.sigmoid(), flat - query * classes, boxes, mask_logits)
