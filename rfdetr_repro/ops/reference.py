"""Multi-scale deformable attention in plain PyTorch: the reference that the operators are checked
against, and their second derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Levels = Sequence[tuple[int, int]]


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which samples of ``dtype`` values are located, weighted and summed: float64
    for float64, else float32.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def box_relative_locations(offsets: Tensor, reference_boxes: Tensor) -> Tensor:
    """Offsets (B, Q, M, L, P, 2) in units of half a box per P, boxes (B, Q, 4) cxcywh -> locations
    (B, Q, M, L, P, 2).

    Architecture facts section 6: centre + offset / P * size / 2.
    """
    boxes = reference_boxes[:, :, None, None, None]
    return boxes[..., :2] + offsets / offsets.shape[4] * boxes[..., 2:] * 0.5


def ms_deform_attn_reference(
    value: Tensor, level_sizes: Levels, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """:func:`ms_deform_attn` through ``torch.nn.functional.grid_sample``; arguments, shapes and
    types are the same.

    Differs from the operator where ``grid_sample`` does: the gradient of a point exactly on the
    rim, and locations that are not finite.
    """
    dtype = accumulate_dtype(value.dtype)
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    points = sampling_locations.shape[4]
    maps = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)  # (B * M, D, S)
    # (B * M, L, Q, P, 2)
    grids = (2 * sampling_locations.to(dtype) - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)
    samples = []
    for level, part in enumerate(
        maps.split([height * width for height, width in level_sizes], dim=-1)
    ):
        image = part.unflatten(-1, level_sizes[level])  # (B * M, D, H, W)
        samples.append(
            F.grid_sample(
                image, grids[:, level], mode="bilinear", padding_mode="zeros", align_corners=False
            )
        )
    weights = (
        attention_weights.to(dtype)
        .permute(0, 2, 1, 3, 4)
        .reshape(batch * heads, 1, queries, len(samples) * points)
    )
    total = (torch.cat(samples, dim=-1) * weights).sum(-1)  # (B * M, D, Q)
    return total.reshape(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)


def ms_deform_attn_fused_reference(
    value: Tensor,
    level_sizes: Levels,
    offsets: Tensor,
    reference_boxes: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """:func:`ms_deform_attn_fused` through softmax, location arithmetic and ``grid_sample``."""
    locations, weights = _unfused(value, offsets, reference_boxes, attention_logits)
    return ms_deform_attn_reference(value, level_sizes, locations, weights)


def _unfused(
    value: Tensor, offsets: Tensor, boxes: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    dtype = accumulate_dtype(value.dtype)
    weights = logits.to(dtype).flatten(-2).softmax(-1).unflatten(-1, logits.shape[-2:])
    return box_relative_locations(offsets.to(dtype), boxes.to(dtype)), weights


def ms_deform_attn_smooth(
    value: Tensor, level_sizes: Levels, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """:func:`ms_deform_attn_reference` from gathers and products, which autograd can differentiate
    any number of times.

    ``grid_sample`` has no second derivative. Memory grows with B * Q * M * L * P * 4 * D.
    """
    dtype = accumulate_dtype(value.dtype)
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    wide = value.to(dtype)
    total = wide.new_zeros(batch, queries, heads, channels)
    start = 0
    image = torch.arange(batch, device=value.device)[:, None, None, None]
    head = torch.arange(heads, device=value.device)[:, None]
    for level, (height, width) in enumerate(level_sizes):
        size = torch.tensor([width, height], dtype=dtype, device=value.device)
        where = sampling_locations[:, :, :, level].to(dtype) * size - 0.5  # (B, Q, M, P, 2)
        inside = ((where > -1) & (where < size)).all(-1, keepdim=True)
        where = torch.where(inside, where, torch.zeros_like(where))
        corner = where.detach().floor()
        share = where - corner  # of the right and the lower pixel
        for right in (0, 1):
            for lower in (0, 1):
                column = (corner[..., 0] + right).long()
                row = (corner[..., 1] + lower).long()
                seen = (
                    inside[..., 0] & (column >= 0) & (column < width) & (row >= 0) & (row < height)
                )
                pixel = start + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
                weight = (share[..., 0] if right else 1 - share[..., 0]) * (
                    share[..., 1] if lower else 1 - share[..., 1]
                )
                weight = weight * attention_weights[:, :, :, level].to(dtype)
                weight = torch.where(seen, weight, torch.zeros_like(weight))
                part = (weight[..., None] * wide[image, pixel, head]).sum(3)  # (B, Q, M, D)
                total = total + part
        start += height * width
    return total.reshape(batch, queries, heads * channels).to(value.dtype)


def ms_deform_attn_fused_smooth(
    value: Tensor, level_sizes: Levels, offsets: Tensor, boxes: Tensor, logits: Tensor
) -> Tensor:
    """:func:`ms_deform_attn_smooth` for the fused operator's arguments."""
    locations, weights = _unfused(value, offsets, boxes, logits)
    return ms_deform_attn_smooth(value, level_sizes, locations, weights)
