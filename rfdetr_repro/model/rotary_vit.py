"""Windowed DINOv3 ViT (arXiv 2508.10104): rotary positions in place of a table, registers, and
optionally gated feed-forward layers.

The coordinates of a patch are those of its centre in the image, from -1 to 1 in both directions,
whatever the grid; so every patch and resolution is served without resampling. Windows keep the
coordinates of the whole image. Class token and registers are not rotated.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.spec.model_config import ModelConfig

from .linear import Linear, PackedLinear
from .vit import WindowedViT, attention, to_windows

NORM_EPS = 1e-5


@lru_cache(maxsize=64)
def rotation(
    grid_hw: tuple[int, int], windows: int, prefix: int, head_dim: int, theta: float
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 (w*w, prefix + n, head_dim), by which queries and keys are
    rotated.

    The first quarter of the channels turns by the row, the second by the column, the other half
    repeats both; period k of a quarter is theta^(4k / head_dim) half images. The first ``prefix``
    tokens of each window have angle 0.
    """
    # tensors of inference mode cannot be used in training later, and these are kept
    with torch.inference_mode(False):
        frequencies = 1 / theta ** torch.arange(0, 1, 4 / head_dim, dtype=torch.float32)
        rows, columns = (
            2 * (torch.arange(0.5, side, dtype=torch.float32) / side) - 1 for side in grid_hw
        )
        centres = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        angles = (2 * math.pi * centres[..., None] * frequencies).flatten(-2).repeat(1, 1, 2)
        angles = to_windows(angles[None], windows)  # (w*w, n, head_dim)
        angles = F.pad(angles, (0, 0, prefix, 0))
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x (B*s, heads, N, d) turned by the angles of (s, N, d), for s sequences of each image."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    if len(cosines) == 1:
        return x * cosines + turned * sines
    sequences = (-1, len(cosines))
    mixed = (
        x.unflatten(0, sequences) * cosines[:, None]
        + turned.unflatten(0, sequences) * sines[:, None]
    )
    return mixed.flatten(0, 1)


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are rotated by position; keys have no
    bias.
    """

    def __init__(self, dim: int, heads: int) -> None:
        """``dim`` channels in ``heads`` heads."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = Linear(dim, dim)
        self._packed = PackedLinear()

    def forward(
        self,
        x: Tensor,
        cosines: Tensor,
        sines: Tensor,
        residual: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """(B*s, N, dim), angles of (s, N, dim / heads) -> (B*s, N, dim); ``residual`` and ``scale``
        as in :class:`.Linear`.
        """
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        mixed = self._packed(x, self.qkv.weight, bias)
        q, k, v = mixed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (rotate(part, cosines, sines) for part in (q, k))
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2), residual, scale)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them, or, gated, SiLU of one map times another."""

    def __init__(self, dim: int, gated: bool) -> None:
        """``dim`` channels, four times as many hidden channels."""
        super().__init__()
        self.fc1 = Linear(dim, 4 * dim, gelu=not gated)
        self.gate = Linear(dim, 4 * dim) if gated else None
        self.fc2 = Linear(4 * dim, dim)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """(B, N, dim) -> (B, N, dim); ``residual`` and ``scale`` as in :class:`.Linear`."""
        hidden = self.fc1(x)
        if self.gate is not None:
            hidden = F.silu(self.gate(x)) * hidden
        return self.fc2(hidden, residual, scale)


class RotaryBlock(nn.Module):
    """Pre-norm transformer block with rotary positions and optional LayerScale."""

    def __init__(self, config: ModelConfig) -> None:
        """Widths, heads, gate and LayerScale of ``config``."""
        super().__init__()
        dim = config.vit_dim
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = RotaryAttention(dim, config.vit_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = FeedForward(dim, config.gated)
        self.scale1 = nn.Parameter(torch.ones(dim)) if config.layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(dim)) if config.layer_scale else None

    def forward(self, x: Tensor, merge: int, cosines: Tensor, sines: Tensor) -> Tensor:
        """x (B*w*w, n, D), angles of (w*w, n, d) -> (B*w*w, n, D); ``merge`` windows form one
        attention sequence (1 = windowed, w*w = global).
        """
        shape = (-1, merge * x.shape[1], x.shape[2])
        sequences = len(cosines) // merge
        angles = (
            part.reshape(sequences, merge * x.shape[1], part.shape[-1]) for part in (cosines, sines)
        )
        given = (self.norm1(x).reshape(shape), *angles)
        x = self.attn(*given, x.reshape(shape), self.scale1).reshape(x.shape)
        return self.mlp(self.norm2(x), x, self.scale2)


class RotaryViT(WindowedViT):
    """DINOv3 ViT backbone; returns one normalised map per feature stage."""

    norm_eps = NORM_EPS

    def __init__(self, config: ModelConfig) -> None:
        """Widths and blocks of ``config``, with random weights."""
        super().__init__(config)
        self._on_device: dict[tuple[object, ...], tuple[Tensor, ...]] = {}

    def _block(self) -> nn.Module:
        return RotaryBlock(self.config)

    def _positions(
        self, grid_hw: tuple[int, int], windows: int, like: Tensor
    ) -> tuple[Tensor, ...]:
        """The angles of :func:`rotation`. On a GPU they are copied once and kept: a CUDA graph can
        hold no copy from the host.
        """
        config = self.config
        angles = rotation(
            grid_hw,
            windows,
            config.prefix_tokens,
            config.vit_dim // config.vit_heads,
            config.rope_theta,
        )
        traced = type(like) is not Tensor or torch.compiler.is_compiling()
        if like.device.type == "cpu" or traced:
            return tuple(part.to(like) for part in angles)
        key = (grid_hw, windows, like.device, like.dtype)
        if key not in self._on_device:
            with torch.inference_mode(False):  # as in :func:`rotation`
                self._on_device[key] = tuple(part.to(like.device, like.dtype) for part in angles)
        return self._on_device[key]
