"""From raw outputs to ranked detections (architecture facts section 11): sigmoid, top k over query
x class, no NMS.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .detector import Outputs
from .selection import in_full


class Ranked(NamedTuple):
    """The k best (query, class) pairs of each image, best first; a query may appear with several
    labels.
    """

    scores: Tensor  # (B, k) in 0..1
    labels: Tensor  # (B, k) int64
    boxes_xyxy: Tensor  # (B, k, 4), fractions of the image, not clamped
    mask_logits: Tensor | None  # (B, k, h, w); > 0 is foreground


def best_first(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, N) -> the k largest values of each row and their indices, both (B, k). Of equal values
    the lower index wins and comes first.

    ``torch.topk`` chooses among equal values arbitrarily, and differently on each device.
    """
    last = values.topk(k, dim=1).values[:, -1:]
    above = values > last
    equal = values == last
    chosen = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    index = chosen.to(torch.uint8).topk(k, dim=1).indices.sort(1).values
    ordered = values.gather(1, index).sort(dim=1, descending=True, stable=True)
    return ordered.values, index.gather(1, ordered.indices)


def top_k(
    outputs: Outputs, k: int, *, masks: bool = True, threshold: float = 0.0, recording: bool = False
) -> Ranked:
    """Ranks ``outputs``; k is capped at queries x classes. Of equal scores the earlier query comes
    first, then the lower label.

    ``threshold`` (0..1, for a batch of one) drops lower scores before anything is gathered for
    them. ``recording`` uses a single TopK node, for an exported graph; ONNX prescribes the same
    order of equal scores.
    """
    _, n, classes = outputs.logits.shape
    k = min(k, n * classes)
    flat_logits = outputs.logits.flatten(1)
    scores, flat = flat_logits.topk(k, dim=1) if recording else best_first(flat_logits, k)  # (B, k)
    if threshold > 0:
        kept = int((scores[0].sigmoid() >= threshold).sum())
        scores, flat = scores[:, :kept], flat[:, :kept]
    query = torch.div(flat, classes, rounding_mode="floor")
    cx, cy, w, h = outputs.boxes_cxcywh.gather(1, query[..., None].expand(-1, -1, 4)).unbind(-1)
    boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    mask_logits = None
    if masks and outputs.masks is not None:
        embedding = outputs.masks.queries
        chosen = embedding.gather(1, query[..., None].expand(-1, -1, embedding.shape[-1]))
        mask_logits = outputs.masks._replace(queries=chosen).logits()
    return Ranked(in_full(scores).sigmoid(), flat - query * classes, boxes, mask_logits)
