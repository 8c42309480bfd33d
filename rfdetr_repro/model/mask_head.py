"""Segmentation head (architecture facts section 7): a finer map, one block per decoder layer, and
dot products with the queries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.spec.model_config import ModelConfig

from .linear import Linear


class MaskFeatures(NamedTuple):
    """Mask logits in factored form. Training samples the logits at points and never builds (B, N,
    h, w).
    """

    pixels: Tensor  # (B, d, h, w)
    queries: Tensor  # (B, N, d)
    bias: Tensor  # (1,), or (B, N) where each query has its own

    def logits(self) -> Tensor:
        """Mask logits (B, N, h, w); above 0 is foreground."""
        bias = self.bias if self.bias.ndim == 1 else self.bias[..., None, None]
        return torch.einsum("bnd,bdhw->bnhw", self.queries, self.pixels) + bias

    def bias_of(self, image: int, rows: Tensor) -> Tensor:
        """Bias of queries ``rows`` (n,) of one image, as a column: (1,) or (n, 1)."""
        return self.bias if self.bias.ndim == 1 else self.bias[image, rows, None]


class MaskBlock(nn.Module):
    """Depthwise 3x3, LayerNorm, linear, GELU, residual; no expansion and no layer scale."""

    def __init__(self, dim: int) -> None:
        """``dim`` channels."""
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = Linear(dim, dim, gelu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, h, w) -> (B, dim, h, w)."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.pwconv1(y).permute(0, 3, 1, 2)


class QueryBlock(nn.Module):
    """x + MLP(LayerNorm(x)), then a linear map; shared by all layers."""

    def __init__(self, dim: int) -> None:
        """``dim`` channels."""
        super().__init__()
        self.norm_in = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, 4 * dim, gelu=True)
        self.fc2 = Linear(4 * dim, dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.proj(x + self.fc2(self.fc1(self.norm_in(x))))


class MaskHead(nn.Module):
    """One block per decoder layer on the side of the pixels, and one block for queries that all
    layers share.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Width, stride and number of layers of ``config``."""
        super().__init__()
        dim = config.hidden
        self.stride = config.mask_stride
        self.encoder_projected = config.encoder_masks_projected
        self.blocks = nn.ModuleList(MaskBlock(dim) for _ in range(config.decoder_layers))
        self.pixel_proj = nn.Conv2d(dim, dim, 1)
        self.query_block = QueryBlock(dim)
        self.bias = nn.Parameter(torch.zeros(1))

    def resized(self, memory_map: Tensor, image_hw: tuple[int, int]) -> Tensor:
        """(B, d, gh, gw) -> (B, d, H/stride, W/stride), bilinear."""
        size = (image_hw[0] // self.stride, image_hw[1] // self.stride)
        return F.interpolate(memory_map, size=size, mode="bilinear", align_corners=False)

    def layer_pixels(self, resized: Tensor, depth: int) -> list[Tensor]:
        """Pixel embeddings of decoder layers 1..depth; block k refines the map of block k-1."""
        pixels = []
        for block in self.blocks[:depth]:
            resized = block(resized)
            pixels.append(resized)
        return pixels  # not projected yet: a caller that needs one layer projects only that layer

    def features(self, pixels: Tensor, queries: Tensor, *, project: bool = True) -> MaskFeatures:
        """pixels (B, d, h, w), queries (B, N, d) -> factored mask logits."""
        return MaskFeatures(
            self.pixel_proj(pixels) if project else pixels, self.query_block(queries), self.bias
        )

    def training_features(
        self, pixels: Tensor, queries: Tensor, *, project: bool = True
    ) -> MaskFeatures:
        """The same logits as of :meth:`features`, up to rounding, for training.

        The projection of the pixels is applied to the queries instead, q . (W p + b) = (W^T q) . p
        + q . b, because there are some hundred queries for thousands of pixels.
        """
        embedded = self.query_block(queries)
        if not project:
            return MaskFeatures(pixels, embedded, self.bias)
        weight = self.pixel_proj.weight[:, :, 0, 0]
        bias = self.pixel_proj.bias
        return MaskFeatures(pixels, embedded @ weight, self.bias + embedded @ bias)
