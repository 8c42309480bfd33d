"""Projector: the backbone's maps, fused once per pyramid level (architecture facts section 4).

Level P4 keeps the ViT's grid, P3 doubles it, P5 halves it. All sizes use P4 alone, except the
deprecated Large (P3 and P5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.spec.backbone_kinds import MapShape
from rfdetr_repro.spec.model_config import LEVEL_SCALE, ModelConfig

from .linear import PackedLinear, in_rows


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of a (B, C, H, W) map, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        """LayerNorm over ``channels`` channels."""
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolution without bias, channel LayerNorm, activation."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int = 1,
        act: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        """A convolution with a square ``kernel``, padded by half its side."""
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False
        )
        self.norm = ChannelNorm(channels_out)
        self.act = act
        self._packed = PackedLinear()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h / stride, w / stride)."""
        return self.act(self.norm(self._convolved(x)))

    def _convolved(self, x: Tensor) -> Tensor:
        """The convolution, or the same sums as one product over neighbourhoods of pixels whose
        channels follow each other.
        """
        weight = self.conv.weight
        if self.conv.stride != (1, 1) or not in_rows(x, weight):
            return self.conv(x)
        return self._packed(
            neighbourhoods(x.permute(0, 2, 3, 1), weight.shape[-1]),
            weight,
            weight.new_zeros(len(weight)),
        ).permute(0, 3, 1, 2)


def neighbourhoods(pixels: Tensor, side: int) -> Tensor:
    """(B, h, w, C) -> (B, h, w, side * side * C): for each pixel, the ``side`` x ``side`` pixels
    around it, row by row; zeros outside the map. ``side`` is odd.
    """
    if side == 1:
        return pixels
    margin = side // 2
    padded = F.pad(pixels, (0, 0, margin, margin, margin, margin))
    windows = padded.unfold(1, side, 1).unfold(2, side, 1)  # (B, h, w, C, side, side)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, no residual."""

    def __init__(self, channels: int) -> None:
        """``channels`` channels in and out."""
        super().__init__()
        self.cv1 = ConvNorm(channels, channels, 3)
        self.cv2 = ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, channels, h, w)."""
        return self.cv2(self.cv1(x))


class Fusion(nn.Module):
    """C2f block over concatenated channels, then a channel LayerNorm: (B, channels, h, w) -> (B,
    hidden, h, w).
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        """``channels`` is the number of concatenated input channels."""
        super().__init__()
        half = config.hidden // 2
        self.cv1 = ConvNorm(channels, config.hidden, 1)
        self.m = nn.ModuleList(Bottleneck(half) for _ in range(config.projector_blocks))
        self.cv2 = ConvNorm((2 + config.projector_blocks) * half, config.hidden, 1)
        self.norm = ChannelNorm(config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, hidden, h, w)."""
        parts = list(self.cv1(x).chunk(2, dim=1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.norm(self.cv2(torch.cat(parts, dim=1)))


def _sampler(level: str, given: MapShape) -> nn.Module:
    """From a map of the backbone to the grid of ``level``; enlarging halves the channels."""
    factor = LEVEL_SCALE[level] / given.scale
    if factor == 2:
        return nn.ConvTranspose2d(given.width, given.width // 2, 2, 2)
    if factor == 0.5:
        return ConvNorm(given.width, given.width, 3, stride=2, act=F.relu)
    return nn.Identity()


def _sampled_width(level: str, given: MapShape) -> int:
    """Channels that :func:`_sampler` returns."""
    return given.width // 2 if LEVEL_SCALE[level] / given.scale == 2 else given.width


class Projector(nn.Module):
    """One resampling per level and input map, and one fusion per level."""

    def __init__(self, config: ModelConfig) -> None:
        """Levels and widths of ``config``."""
        super().__init__()
        self.sampling = nn.ModuleList(
            nn.ModuleList(_sampler(level, given) for given in config.maps)
            for level in config.levels
        )
        widths = [
            sum(_sampled_width(level, given) for given in config.maps) for level in config.levels
        ]
        self.stages = nn.ModuleList(Fusion(config, width) for width in widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w) of ``config.maps`` -> per level (B, hidden, h_l, w_l)."""
        fused = []
        for samplers, stage in zip(self.sampling, self.stages, strict=True):
            sampled = [
                sampler(x) for sampler, x in zip(cast(nn.ModuleList, samplers), maps, strict=True)
            ]
            fused.append(stage(torch.cat(_same_size(sampled), dim=1)))
        return fused


def _same_size(maps: list[Tensor]) -> list[Tensor]:
    """The maps, cut to the smallest height and width: a map that was enlarged from half a grid of
    odd side, rounded up, has one row or column more than the grid.
    """
    height = min(one.shape[-2] for one in maps)
    width = min(one.shape[-1] for one in maps)
    return [one if one.shape[-2:] == (height, width) else one[..., :height, :width] for one in maps]
