"""ConvNeXt (arXiv 2201.03545) whose patch side is an argument of the call.

A patch of p px is the grid of the projector and of every knob of an architecture: the third stage
has one position per patch, the stages before it two and four along each side, the fourth half of
one. So the stem is a convolution of p / 4 px, whose kernel is resampled as a ViT's patch kernel;
the 2 x 2 and 7 x 7 convolutions behind it do not depend on p. There is no attention, hence there
are no windows, and no table of positions.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.model_config import ModelConfig

from .backbone import Backbone, init_products
from .linear import Linear
from .projector import ChannelNorm
from .vit import resample_patch_kernel

STEM_PARTS = 4  # the stem's kernel has the patch's side divided by this


class ConvBlock(nn.Module):
    """Depthwise 7 x 7 convolution, LayerNorm, two linear maps with a GELU, optional LayerScale."""

    def __init__(self, width: int, layer_scale: bool) -> None:
        """``width`` channels in and out, four times as many hidden channels."""
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = Linear(width, 4 * width, gelu=True)
        self.fc2 = Linear(4 * width, width)
        self.scale = nn.Parameter(torch.ones(width)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> (B, width, h, w)."""
        mixed = self.depthwise(x).permute(0, 2, 3, 1)
        mixed = self.fc2(self.fc1(self.norm(mixed)), x.permute(0, 2, 3, 1), self.scale)
        return mixed.permute(0, 3, 1, 2)


class Halving(nn.Module):
    """LayerNorm and a 2 x 2 convolution of stride 2."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """``channels_in`` channels become ``channels_out``."""
        super().__init__()
        self.norm = ChannelNorm(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h / 2, w / 2), rounded up.

        An odd side is made even by zeros behind the norm, so that no position is left out.
        """
        x = self.norm(x)
        bottom, right = (side % 2 for side in x.shape[-2:])
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        return self.conv(x)


class ConvStage(nn.Module):
    """Blocks of one width, after a halving of the map in all stages but the first."""

    halving: Halving | None
    blocks: nn.ModuleList

    def __init__(self, channels_in: int | None, width: int, depth: int, layer_scale: bool) -> None:
        """``channels_in`` None: the map comes from the stem, with ``width`` channels."""
        super().__init__()
        self.halving = None if channels_in is None else Halving(channels_in, width)
        self.blocks = nn.ModuleList(ConvBlock(width, layer_scale) for _ in range(depth))


class ConvNeXt(Backbone):
    """ConvNeXt backbone; returns one normalised map per feature stage."""

    def __init__(self, config: ModelConfig) -> None:
        """Depths and widths of ``config``, with random weights."""
        super().__init__(config)
        widths = config.conv_widths
        side = config.patch // STEM_PARTS
        self.patch_embed = nn.Conv2d(3, widths[0], side, side)
        self.patch_norm = ChannelNorm(widths[0])
        self.stages = nn.ModuleList(
            ConvStage(before, width, depth, config.layer_scale)
            for before, width, depth in zip(
                (None, *widths[:-1]), widths, config.conv_depths, strict=True
            )
        )
        self.norms = nn.ModuleDict(
            {str(stage): ChannelNorm(widths[stage - 1]) for stage in sorted(config.feature_stages)}
        )
        init_products(self)

    def forward(self, images: Tensor, patch: int, windows: int) -> list[Tensor]:
        """(B, 3, H, W), H and W divisible by patch -> one map per feature stage, ascending: stage 2
        of 2 H / patch, stage 3 of H / patch, stage 4 of half of that, rounded up.

        Raises :class:`InputError` for windows other than 1, and for a patch that is no multiple
        of 4.
        """
        self.config.check_arch(patch, windows)
        side = patch // STEM_PARTS
        kernel = resample_patch_kernel(self.patch_embed.weight, side)
        x = self.patch_norm(F.conv2d(images, kernel, self.patch_embed.bias, stride=side))
        maps = []
        for number in range(1, max(self.config.feature_stages) + 1):
            stage = cast(ConvStage, self.stages[number - 1])
            if stage.halving is not None:
                x = stage.halving(x)
            for block in stage.blocks:
                x = self.run(block, x)
            if str(number) in self.norms:
                maps.append(self.norms[str(number)](x))
        return maps

    def sliced(self, arch: Arch) -> dict[str, Tensor]:
        """The stem's kernel for patches of ``arch.patch`` px."""
        side = arch.patch // STEM_PARTS
        return {"patch_embed.weight": resample_patch_kernel(self.patch_embed.weight, side)}
