"""Mask supervision at sampled points (architecture facts section 8; PointRend, arXiv 1912.08193):
no full-size masks are built.

Mask logits stay factored (pixel and query embeddings); they are computed only at the sampled
points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_repro.data.transforms import sent
from rfdetr_repro.model.mask_head import MaskFeatures

OVERSAMPLE = 3
UNCERTAIN_SHARE = 0.75


@dataclass(frozen=True)
class PointDraws:
    """Random points of a micro-batch, a function of seed, stage and the image's place, so that
    processes may split the batch.
    """

    seed: int
    first_image: int = 0  # place of this process's first image in the whole micro-batch

    def shared(self, stage: int) -> torch.Generator:
        """Generator of the points that all images of the batch share."""
        return self._generator(stage, 0)

    def of_image(self, stage: int, image: int) -> torch.Generator:
        """Generator of the points of one image; ``image`` is its index in this process's batch."""
        return self._generator(stage, 1 + self.first_image + image)

    def _generator(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            int(np.random.default_rng((self.seed, *key)).integers(2**62))
        )


def sample_map(maps: Tensor, points: Tensor) -> Tensor:
    """(N, C, h, w) at points (N, P, 2) xy in 0..1 -> (N, C, P), bilinear; border padding,
    align_corners False.
    """
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False).squeeze(-1)


def nearest_pixels(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Bool masks (N, H, W) -> values 0 or 1 of mask ``rows[i]`` (n,) at ``points[i]`` (n or 1, P,
    2) xy in 0..1, as a tensor (n, P) of the type of ``points``.

    The pixels are those of ``F.grid_sample`` in "nearest" mode with border padding, but the masks
    are neither copied nor converted: of a mask of 512 x 512 pixels a few hundred are read.
    """
    height, width = masks.shape[-2:]
    x, y = (
        (((2 * points[..., axis] - 1 + 1) * side - 1) / 2).clamp(0, side - 1).round().long()
        for axis, side in ((0, width), (1, height))
    )
    pixels = rows[:, None] * (height * width) + y * width + x
    return masks.reshape(-1)[pixels].to(points.dtype)


def query_logits(features: MaskFeatures, image: int, queries: Tensor, points: Tensor) -> Tensor:
    """Logits of ``queries`` (n,) of one image at shared points (P, 2) -> (n, P): samples the pixel
    embedding, then computes dot products.
    """
    pixels = sample_map(features.pixels[image, None], points[None])[0]  # (d, P)
    return features.queries[image, queries] @ pixels + features.bias_of(image, queries)


def matched_logits(features: MaskFeatures, rows: Sequence[Tensor]) -> list[Tensor]:
    """Whole mask logits of the matched queries of each image: (n, h, w) for the rows (n,) of
    queries.

    The maps are unbound once: an index per image would give a gradient of the size of the whole
    batch for each image.
    """
    parts = zip(rows, features.queries.unbind(), features.pixels.unbind(), strict=True)
    return [
        (queries[chosen] @ pixels.flatten(1) + features.bias_of(i, chosen)).unflatten(
            1, pixels.shape[1:]
        )
        for i, (chosen, queries, pixels) in enumerate(parts)
    ]


@torch.no_grad()
def uncertain_points(logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(n, h, w) logits -> (n, count, 2): three quarters where |logit| is smallest among 3x random
    points, the rest random.
    """
    n = len(logits)
    uncertain = int(count * UNCERTAIN_SHARE)
    drawn = torch.rand(n, OVERSAMPLE * count, 2, generator=generator, dtype=logits.dtype)
    candidates = sent(drawn, logits.device)
    doubt = -sample_map(logits[:, None], candidates).squeeze(1).abs()  # (n, 3*count)
    chosen = doubt.topk(uncertain, dim=1).indices[..., None].expand(-1, -1, 2)
    drawn = torch.rand(n, count - uncertain, 2, generator=generator, dtype=logits.dtype)
    rest = sent(drawn, logits.device)
    return torch.cat([candidates.gather(1, chosen), rest], dim=1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss per mask, with +1 smoothing: (n, P) logits and 0/1 targets -> (n,)."""
    p = logits.sigmoid()
    return 1 - (2 * (p * targets).sum(-1) + 1) / (p.sum(-1) + targets.sum(-1) + 1)


def mask_losses(
    features: MaskFeatures,
    matches: list[tuple[Tensor, Tensor]],
    masks: list[Tensor],
    draws: PointDraws,
    stage: int = 0,
) -> Tensor:
    """Sum over matched queries of (BCE, dice) as a (2,) tensor, before division by the number of
    boxes.

    ``matches[i]`` = (query rows, target rows) of image i, ``masks[i]`` bool (n, H, W) ground truth.
    """
    per_image = matched_logits(features, [rows for rows, _ in matches])
    logits = torch.cat(per_image)
    if not len(logits):
        return features.queries.sum() * 0 + features.pixels.sum() * 0 + logits.new_zeros(2)
    height, width = logits.shape[-2:]
    count = max(height, height * width // 16)
    chosen = []
    truth = []
    for i, (one, mask, (_, columns)) in enumerate(zip(per_image, masks, matches, strict=True)):
        if len(one):
            points = uncertain_points(one.detach(), count, draws.of_image(stage, i))
            chosen.append(points)
            truth.append(nearest_pixels(mask, columns, points))
    predicted = sample_map(logits[:, None], torch.cat(chosen)).squeeze(1)  # (n, P)
    wanted = torch.cat(truth)
    bce = F.binary_cross_entropy_with_logits(predicted, wanted, reduction="none").mean(-1)
    return torch.stack([bce.sum(), dice_loss(predicted, wanted).sum()])


@torch.no_grad()
def mask_costs(
    features: MaskFeatures, image: int, masks: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairwise (BCE, dice) costs of all queries of one image against its ground truth at shared
    points: two (N, n).
    """
    rows = torch.arange(features.queries.shape[1], device=masks.device)
    logits = query_logits(features, image, rows, points)  # (N, P)
    truth = nearest_pixels(masks, torch.arange(len(masks), device=masks.device), points[None])
    truth = truth.to(logits.dtype)  # (n, P)
    count = truth.shape[-1]
    bce = (F.softplus(-logits) @ truth.T + F.softplus(logits) @ (1 - truth).T) / count
    p = logits.sigmoid()
    dice = 1 - (2 * p @ truth.T + 1) / (p.sum(-1, keepdim=True) + truth.sum(-1) + 1)
    return bce, dice
