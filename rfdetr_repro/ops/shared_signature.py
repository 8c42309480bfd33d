"""Multi-scale deformable attention under the signature that Deformable DETR introduced and its
descendants share (mmcv, detectron2 projects, transformers, torch-ms-deform-attn).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .deform_attn import ms_deform_attn

Numbers = Sequence[int]


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[Numbers],
    level_start_index: Tensor | Numbers,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int | None = None,
) -> Tensor:
    """:func:`ms_deform_attn` for code that calls another implementation: only the import changes.

    ``value`` (B, S, M, D), ``spatial_shapes`` (L, 2) as (H, W), ``level_start_index`` (L,) as the
    first pixel of each level in ``value``, ``sampling_locations`` (B, Q, M, L, P, 2) as (x, y) in
    0..1, ``attention_weights`` (B, Q, M, L, P) -> (B, Q, M * D). Shapes and first pixels may be
    integer tensors on any device, or plain numbers; a tensor on a GPU is read once per call, which
    waits for the GPU, so a module that is called often should keep plain numbers.
    ``im2col_step`` is accepted and has no effect, because the batch is never divided.

    Types, limits, gradients and reproducibility are those of :func:`ms_deform_attn`. Raises
    RuntimeError when shapes, types or devices disagree, and for levels that do not follow each
    other in ``value`` without a gap.
    """
    sizes, starts = _numbers(spatial_shapes, level_start_index)
    expected = [0]
    for height, width in sizes:
        expected.append(expected[-1] + height * width)
    torch._check(
        starts == expected[:-1],
        lambda: f"level_start_index is {starts}, and the spatial shapes give {expected[:-1]}",
    )
    return ms_deform_attn(value, sizes, sampling_locations, attention_weights)


def _numbers(
    spatial_shapes: Tensor | Sequence[Numbers], level_start_index: Tensor | Numbers
) -> tuple[list[tuple[int, int]], list[int]]:
    """Sizes and first pixels of the levels as plain numbers; tensors on a GPU are read together."""
    shapes = spatial_shapes
    starts = level_start_index
    if isinstance(shapes, Tensor):
        torch._check(
            shapes.dim() == 2 and shapes.shape[1] == 2,
            lambda: f"spatial_shapes must be (L, 2), is {tuple(shapes.shape)}",
        )
        if isinstance(starts, Tensor) and starts.device == shapes.device:
            flat = torch.cat([shapes.flatten(), starts.flatten()]).tolist()
            count = shapes.numel()
            shapes, starts = _rows(flat[:count]), flat[count:]
        else:
            shapes = shapes.tolist()
    if isinstance(starts, Tensor):
        starts = starts.tolist()
    return [(int(height), int(width)) for height, width in shapes], [int(one) for one in starts]


def _rows(flat: Sequence[int]) -> list[list[int]]:
    return [list(flat[place : place + 2]) for place in range(0, len(flat), 2)]
