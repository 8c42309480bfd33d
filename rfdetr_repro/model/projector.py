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

from rfdetr_repro.spec.model_config import ModelConfig


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

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h / stride, w / stride)."""
        return self.act(self.norm(self.conv(x)))


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


def _sampler(level: str, channels: int) -> nn.Module:
    """From the ViT's grid to the grid of ``level``; P3 halves the channels."""
    if level == "P3":
        return nn.ConvTranspose2d(channels, channels // 2, 2, 2)
    if level == "P5":
        return ConvNorm(channels, channels, 3, stride=2, act=F.relu)
    return nn.Identity()


class Projector(nn.Module):
    """One resampling per level and input map, and one fusion per level."""

    def __init__(self, config: ModelConfig) -> None:
        """Levels and widths of ``config``."""
        super().__init__()
        dim = config.vit_dim
        inputs = len(config.feature_stages)
        self.sampling = nn.ModuleList(
            nn.ModuleList(_sampler(level, dim) for _ in range(inputs)) for level in config.levels
        )
        widths = [dim // 2 if level == "P3" else dim for level in config.levels]
        self.stages = nn.ModuleList(Fusion(config, inputs * width) for width in widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of (B, vit_dim, h, w) -> per level (B, hidden, h_l, w_l)."""
        fused = []
        for samplers, stage in zip(self.sampling, self.stages, strict=True):
            fused.append(
                stage(
                    torch.cat(
                        [
                            sampler(x)
                            for sampler, x in zip(cast(nn.ModuleList, samplers), maps, strict=True)
                        ],
                        dim=1,
                    )
                )
            )
        return fused
