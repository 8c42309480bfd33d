"""Hungarian matching per image and per query group (architecture facts section 8).

len(query rows) == len(target rows) == groups * min(queries per group, targets) for each image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, pairwise_giou
from ..config import TrainConfig
from ..data.transforms import Target
from ..model.detector import Outputs
from .mask_points import PointDraws, mask_costs

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
Match = tuple[Tensor, Tensor]  # query rows, target rows; both (n,) int64


def class_costs(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal cost of each query for each target's class: logits (N, C), labels (n,) -> (N, n)."""
    chosen = logits[:, labels]
    p = chosen.sigmoid()
    positive = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -F.logsigmoid(chosen)
    negative = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -F.logsigmoid(-chosen)
    return positive - negative


@torch.no_grad()
def image_costs(outputs: Outputs, image: int, target: Target, config: TrainConfig, points: Tensor | None) -> Tensor:
    """(N, n) matching cost of one image; NaN and infinite entries become a large finite cost."""
    boxes = outputs.boxes_cxcywh[image]
    cost = 2.0 * class_costs(outputs.logits[image], target.labels)
    cost += config.l1_weight * torch.cdist(boxes, target.boxes_cxcywh.to(boxes), p=1)
    cost -= config.giou_weight * pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target.boxes_cxcywh.to(boxes)))
    if points is not None and outputs.masks is not None and target.masks is not None:
        bce, dice = mask_costs(outputs.masks, image, target.masks, points)
        cost += config.mask_bce_weight * bce + config.mask_dice_weight * dice
    finite = cost[cost.isfinite()]
    return cost.nan_to_num(*[2 * float(finite.abs().max()) + 1 if finite.numel() else 1.0] * 2).clamp(max=1e9)


@torch.no_grad()
def match(
    outputs: Outputs,
    targets: list[Target],
    groups: int,
    config: TrainConfig,
    draws: PointDraws | None = None,
    stage: int = 0,
) -> list[Match]:
    """One optimal assignment per image and group; rows index the group-major N queries of ``outputs``.

    ``draws`` and ``stage`` fix the random points at which masks are compared (None: seed 0).
    """
    points = None
    if outputs.masks is not None:  # one random point set per call, shared by the batch
        height, width = outputs.masks.pixels.shape[-2:]
        generator = (draws or PointDraws(0)).shared(stage)
        points = torch.rand(max(1, height * width // 16), 2, generator=generator, dtype=outputs.logits.dtype)
        points = points.to(outputs.logits.device)
    matches = []
    for image, target in enumerate(targets):
        cost = image_costs(outputs, image, target, config, points).cpu().unflatten(0, (groups, -1))  # (G, q, n)
        rows, columns = [], []
        for group, block in enumerate(cost.numpy()):
            row, column = linear_sum_assignment(block)
            rows.append(torch.as_tensor(row) + group * block.shape[0])
            columns.append(torch.as_tensor(column))
        matches.append((torch.cat(rows).to(outputs.logits.device), torch.cat(columns).to(outputs.logits.device)))
    return matches
