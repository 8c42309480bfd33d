"""RF-DETR's training losses (architecture facts section 8): IoU-aware classification, L1, GIoU, and
masks at points.

Every decoder layer and the encoder output have the same terms and the same denominator; the total
is their weighted sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_repro.data.transforms import Target
from rfdetr_repro.model.detector import Outputs, TrainingOutputs
from rfdetr_repro.ops.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from rfdetr_repro.spec.train_config import TrainConfig

from .mask_points import PointDraws, mask_losses
from .matcher import Match, match


def iou_aware_classification(logits: Tensor, rows: Tensor, labels: Tensor, ious: Tensor) -> Tensor:
    """Summed "ia_bce" over flattened queries: logits (R, C), matched rows, labels, IoUs (n,) ->
    scalar.

    A matched entry is weighted t on -log p and (1 - t) on -log(1 - p), t = p^0.25 * IoU^0.75
    (detached, >= 0.01); every other entry p^2 on -log(1 - p), with gradient through the weight.
    """
    p = logits.sigmoid()
    log_p = F.logsigmoid(logits)
    log_not_p = F.logsigmoid(-logits)
    everywhere = -(p**2 * log_not_p)
    chosen = p[rows, labels].detach()
    t = (chosen**0.25 * ious.detach() ** 0.75).clamp(min=0.01)
    matched = -(t * log_p[rows, labels] + (1 - t) * log_not_p[rows, labels])
    return everywhere.sum() - everywhere[rows, labels].sum() + matched.sum()


def stage_losses(
    outputs: Outputs,
    targets: list[Target],
    matches: list[Match],
    num_boxes: float,
    draws: PointDraws,
    stage: int,
) -> dict[str, Tensor]:
    """Losses of one stage, unweighted, each divided by ``num_boxes``: class, l1, giou and, with
    masks, mask_bce, mask_dice.
    """
    queries = outputs.logits.shape[1]
    rows = torch.cat([rows + image * queries for image, (rows, _) in enumerate(matches)])
    labels = torch.cat(
        [target.labels[columns] for target, (_, columns) in zip(targets, matches, strict=True)]
    )
    truth = torch.cat(
        [
            target.boxes_cxcywh[columns]
            for target, (_, columns) in zip(targets, matches, strict=True)
        ]
    )
    boxes = outputs.boxes_cxcywh.flatten(0, 1)[rows]
    predicted_xyxy = cxcywh_to_xyxy(boxes)
    truth_xyxy = cxcywh_to_xyxy(truth.to(boxes))
    losses = {
        "class": iou_aware_classification(
            outputs.logits.flatten(0, 1), rows, labels, paired_iou(predicted_xyxy, truth_xyxy)
        ),
        "l1": (boxes - truth.to(boxes)).abs().sum(),
        "giou": (1 - paired_giou(predicted_xyxy, truth_xyxy)).sum(),
    }
    if outputs.masks is not None and all(target.masks is not None for target in targets):
        masks = [target.masks for target in targets if target.masks is not None]
        losses["mask_bce"], losses["mask_dice"] = mask_losses(
            outputs.masks, matches, masks, draws, stage
        )
    return {name: loss / num_boxes for name, loss in losses.items()}


def count_boxes(targets: list[Target], groups: int) -> float:
    """The common denominator: number of ground-truth boxes times groups, at least 1."""
    return float(max(1, sum(len(target.labels) for target in targets) * groups))


def detection_losses(
    outputs: TrainingOutputs,
    targets: list[Target],
    groups: int,
    config: TrainConfig,
    draws: PointDraws | None = None,
    num_boxes: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted total over all decoder layers and the encoder output, and every part by name (such
    as ``layer1/giou``), without gradient and on the device of the outputs.

    ``draws`` fixes the random mask points (None: seed 0). ``num_boxes`` is the denominator where
    these images are only a part of the batch (None: :func:`count_boxes` of these images).
    """
    weights = {
        "class": config.class_weight,
        "l1": config.l1_weight,
        "giou": config.giou_weight,
        "mask_bce": config.mask_bce_weight,
        "mask_dice": config.mask_dice_weight,
    }
    num_boxes, draws = num_boxes or count_boxes(targets, groups), draws or PointDraws(0)
    stages = {f"layer{index}": stage for index, stage in enumerate(outputs.layers, 1)} | {
        "encoder": outputs.encoder
    }
    total = outputs.encoder.logits.new_zeros(())
    parts = {}
    matches = match(list(stages.values()), targets, groups, config, draws)
    for index, (stage_name, stage) in enumerate(stages.items()):
        for name, loss in stage_losses(
            stage, targets, matches[index], num_boxes, draws, index
        ).items():
            total = total + weights[name] * loss
            parts[f"{stage_name}/{name}"] = loss.detach()
    return total, parts
