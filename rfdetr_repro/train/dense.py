"""Auxiliary per-token loss for training from scratch (not in the paper; off unless
``TrainConfig.dense_weight`` > 0).

Every token of the projected map predicts the class of the object at its centre and that object's
box. This speeds up the start of tiny runs (docs/method/pico.md); the head is dropped after
training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.data.transforms import Target, sent
from rfdetr_repro.model.selection import PRIOR_LOGIT, apply_deltas
from rfdetr_repro.ops.boxes import cxcywh_to_xyxy, paired_giou
from rfdetr_repro.spec.model_config import ModelConfig

FOCUS = 1.5  # exponent on |p - target|


class DenseHead(nn.Module):
    """Linear class and box predictions on (B, d, h, w)."""

    def __init__(self, config: ModelConfig) -> None:
        """Widths and number of classes of ``config``."""
        super().__init__()
        self.side = config.proposal_side
        self.classes = nn.Linear(config.hidden, config.num_classes)
        self.boxes = nn.Linear(config.hidden, 4)
        nn.init.constant_(self.classes.bias, PRIOR_LOGIT)
        nn.init.zeros_(self.boxes.weight)
        nn.init.zeros_(self.boxes.bias)

    def loss(self, memory_map: Tensor, targets: list[Target]) -> tuple[Tensor, int]:
        """Loss and number of object tokens. The loss is a sum: class BCE weighted by |p -
        target|^1.5, plus GIoU of the object tokens.

        ``memory_map``: (B, d, h, w).
        """
        h, w = memory_map.shape[-2:]
        tokens = memory_map.flatten(2).transpose(1, 2)  # (B, S, d)
        logits = self.classes(tokens)
        centres = _centres(h, w, like=memory_map)
        # (B, S), -1 = background
        owner = torch.stack([smallest_box_at(centres, target.boxes_cxcywh) for target in targets])
        image, token = (owner >= 0).nonzero(as_tuple=True)
        counts = [0] + [len(target.labels) for target in targets]
        # row of each image's first box
        first = sent(torch.tensor(counts).cumsum(0), image.device)
        row = owner[image, token] + first[image]
        wanted = torch.zeros_like(logits)
        wanted[image, token, torch.cat([target.labels for target in targets])[row]] = 1
        anchors = torch.cat([centres, torch.full_like(centres, self.side)], dim=-1)
        predicted = apply_deltas(self.boxes(tokens[image, token]), anchors[token])
        truth = torch.cat([target.boxes_cxcywh for target in targets])[row].to(predicted)
        loss_boxes = (1 - paired_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(truth))).sum()
        focus = (logits.detach().sigmoid() - wanted).abs() ** FOCUS
        loss_classes = F.binary_cross_entropy_with_logits(
            logits, wanted, weight=focus, reduction="sum"
        )
        return loss_classes + loss_boxes, len(image)


def _centres(h: int, w: int, like: Tensor) -> Tensor:
    """Token centres (h*w, 2) xy in 0..1."""
    y = (torch.arange(h, dtype=like.dtype, device=like.device) + 0.5) / h
    x = (torch.arange(w, dtype=like.dtype, device=like.device) + 0.5) / w
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).flatten(0, 1)


def smallest_box_at(points: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Index of the smallest box that contains each point, -1 for none: points (S, 2) xy, boxes (n,
    4) cxcywh -> (S,) int64.
    """
    if not len(boxes_cxcywh):
        return torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    offset = (points[:, None] - boxes_cxcywh[None, :, :2]).abs() * 2  # (S, n, 2)
    inside = (offset < boxes_cxcywh[None, :, 2:]).all(-1)
    area = torch.where(inside, boxes_cxcywh[:, 2] * boxes_cxcywh[:, 3], torch.inf)
    smallest = area.min(dim=1)
    return torch.where(smallest.values.isfinite(), smallest.indices, -1)
