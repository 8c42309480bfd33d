"""Hungarian matching per image and per query group (architecture facts section 8).

The costs of all images of a stage are one tensor, and those of all stages one transfer to the host:
on a GPU launches and synchronisations take the time. SciPy assigns a group of 300 queries and 7
objects in 0.01 to 0.02 ms, for which a GPU waits some hundred times in a step; so a group whose
assignment is clear is not given to SciPy. len(query rows) == len(target rows) == groups *
min(queries per group, targets) for each image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rfdetr_repro.data.transforms import Target, sent
from rfdetr_repro.model.detector import Outputs
from rfdetr_repro.ops.boxes import cxcywh_to_xyxy, paired_giou
from rfdetr_repro.spec.train_config import TrainConfig

from .mask_points import PointDraws, mask_costs

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
Match = tuple[Tensor, Tensor]  # query rows, target rows; both (n,) int64


def class_costs(logits: Tensor) -> Tensor:
    """Focal cost of predicting a target's class, from the logit of that class; any shape."""
    p = logits.sigmoid()
    positive = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -F.logsigmoid(logits)
    negative = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -F.logsigmoid(-logits)
    return positive - negative


def images_of(targets: Sequence[Target], device: torch.device) -> Tensor:
    """Number of the image of each of the batch's T targets: int64 (T,) on ``device``."""
    counts = torch.tensor([len(target.labels) for target in targets], dtype=torch.long)
    return sent(torch.repeat_interleave(torch.arange(len(targets)), counts), device)


@torch.no_grad()
def stage_costs(
    outputs: Outputs,
    targets: Sequence[Target],
    config: TrainConfig,
    points: Tensor | None,
    image: Tensor | None = None,
) -> Tensor:
    """Costs (T, N) of each of the batch's T targets against every query of its own image; NaN and
    infinities become a large cost. ``image``: of each target (None: :func:`images_of`).
    """
    if image is None:
        image = images_of(targets, outputs.logits.device)
    labels = torch.cat([target.labels for target in targets])
    # (T, 1, 4)
    truth = torch.cat([target.boxes_cxcywh for target in targets]).to(outputs.boxes_cxcywh)[:, None]
    boxes = outputs.boxes_cxcywh[image]  # (T, N, 4)
    cost = 2.0 * class_costs(outputs.logits[image, :, labels])
    cost += config.l1_weight * (boxes - truth).abs().sum(-1)
    cost -= config.giou_weight * paired_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth))
    if (
        points is not None
        and outputs.masks is not None
        and all(target.masks is not None for target in targets)
    ):
        masks = [
            mask_costs(outputs.masks, i, target.masks, points)
            for i, target in enumerate(targets)
            if target.masks is not None
        ]
        bce, dice = (torch.cat([pair[part].T for pair in masks]) for part in range(2))
        cost += config.mask_bce_weight * bce + config.mask_dice_weight * dice
    finite = cost.isfinite()
    large = 2 * torch.where(finite, cost, 0).abs().amax() + 1 if cost.numel() else cost.new_ones(())
    return torch.where(finite, cost, large).clamp(max=1e9)


def _points(outputs: Outputs, draws: PointDraws, stage: int) -> Tensor | None:
    """One random point set per stage, shared by the batch; None without masks."""
    if outputs.masks is None:
        return None
    height, width = outputs.masks.pixels.shape[-2:]
    points = torch.rand(
        max(1, height * width // 16), 2, generator=draws.shared(stage), dtype=outputs.logits.dtype
    )
    return sent(points, outputs.logits.device)


@torch.no_grad()
def match(
    stages: Sequence[Outputs],
    targets: Sequence[Target],
    groups: int,
    config: TrainConfig,
    draws: PointDraws | None = None,
) -> list[list[Match]]:
    """For each stage and image the optimal assignment of each group; rows index the group-major N
    queries of the stage.

    ``draws`` fixes the random points at which masks are compared (None: seed 0).
    """
    draws = draws or PointDraws(0)
    device = stages[0].logits.device
    image = images_of(targets, device)
    costs = [
        stage_costs(one, targets, config, _points(one, draws, number), image)
        for number, one in enumerate(stages)
    ]
    host = _on_host(torch.cat(costs, dim=1))
    parts = np.split(host, np.cumsum([cost.shape[1] for cost in costs])[:-1], axis=1)
    # (2, n) for every stage and image
    pairs = [pair for part in parts for pair in _assign(part, targets, groups)]
    rows, columns = sent(torch.from_numpy(np.concatenate(pairs, axis=1)), device)
    sizes = [pair.shape[1] for pair in pairs]
    flat = list(zip(rows.split(sizes), columns.split(sizes), strict=True))
    return [flat[start : start + len(targets)] for start in range(0, len(flat), len(targets))]


def _on_host(costs: Tensor) -> np.ndarray:
    """The only place of a pass over a batch that waits for the GPU."""
    if costs.device.type != "cuda":
        return costs.cpu().numpy()
    host = torch.empty(costs.shape, dtype=costs.dtype, pin_memory=True)
    host.copy_(costs, non_blocking=True)
    torch.cuda.current_stream(costs.device).synchronize()
    return host.numpy()


def _assign(cost: np.ndarray, targets: Sequence[Target], groups: int) -> Iterator[np.ndarray]:
    """(query rows, target rows) int64 (2, n) of each image, from (T, N) costs.

    Where the cheapest queries of an image's targets are different queries, they are the optimum,
    and the only one if each target has one cheapest query; that is so in most groups. SciPy
    assigns the others.
    """
    ends = list(accumulate((len(target.labels) for target in targets), initial=0))
    queries = cost.shape[1] // groups
    costs = cost.reshape(len(cost), groups, queries)
    cheapest = costs.argmin(-1)  # (T, G)
    lowest = np.take_along_axis(costs, cheapest[..., None], axis=-1)
    equal = costs == lowest
    tied = np.zeros(cheapest.shape, dtype=bool)
    if np.count_nonzero(equal) > cheapest.size:
        tied = np.count_nonzero(equal, axis=-1) > 1
    for first, last in pairwise(ends):
        part = slice(first, last)
        yield _assign_image(costs[part], cheapest[part], tied[part])


def _assign_image(costs: np.ndarray, cheapest: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """(query rows, target rows) int64 (2, n) of one image, group by group, in order of queries.

    ``costs`` (n, G, q); ``cheapest`` (n, G): the cheapest query of each target; ``tied`` (n, G):
    whether another query costs as much.
    """
    count, groups, queries = costs.shape
    columns = np.argsort(cheapest, axis=0)  # (n, G)
    rows = np.take_along_axis(cheapest, columns, axis=0)
    unclear = tied.any(0) | (rows[1:] == rows[:-1]).any(0)
    if count > queries:  # so that some query is the cheapest of two
        found = [linear_sum_assignment(costs[:, group].T) for group in range(groups)]
        shifted = [row + group * queries for group, (row, _) in enumerate(found)]
        return np.stack([np.concatenate(shifted), np.concatenate([pair[1] for pair in found])])
    for group in np.flatnonzero(unclear).tolist():
        rows[:, group], columns[:, group] = linear_sum_assignment(costs[:, group].T)
    rows = rows + np.arange(groups) * queries
    return np.stack([rows.T.reshape(-1), columns.T.reshape(-1)])
