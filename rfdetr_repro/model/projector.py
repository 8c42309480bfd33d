"""Projector: four backbone maps -> one map of `hidden` channels on the same grid (architecture facts section 4, level P4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of a (B, C, H, W) map, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNormSiLU(nn.Module):
    """Convolution without bias, channel LayerNorm, SiLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, no residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvNormSiLU(channels, channels, 3)
        self.cv2 = ConvNormSiLU(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))


class Projector(nn.Module):
    """C2f block over the concatenated maps, then a channel LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        half = config.hidden // 2
        self.cv1 = ConvNormSiLU(config.vit_dim * len(config.feature_stages), config.hidden, 1)
        self.m = nn.ModuleList(Bottleneck(half) for _ in range(config.projector_blocks))
        self.cv2 = ConvNormSiLU((2 + config.projector_blocks) * half, config.hidden, 1)
        self.norm = ChannelNorm(config.hidden)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps of (B, vit_dim, h, w) -> (B, hidden, h, w)."""
        parts = list(self.cv1(torch.cat(maps, dim=1)).chunk(2, dim=1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.norm(self.cv2(torch.cat(parts, dim=1)))
