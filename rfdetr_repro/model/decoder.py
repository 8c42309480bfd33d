"""Decoder with fixed references (architecture facts section 6): every layer reads the same
reference boxes, and no layer refines them.

Queries form *segments* (the groups of training, or the query counts of a shared evaluation):
self-attention stays inside a segment, everything else is per query. So one pass serves many query
sets and gives each exactly the numbers of a pass of its own.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from rfdetr_repro.ops import ms_deform_attn_fused
from rfdetr_repro.spec.model_config import ModelConfig

from .feed_forward import feed_forward
from .linear import Linear, PackedLinear
from .vit import attention

Source = tuple[Tensor, list[tuple[int, int]]]  # memory (B, S, d) and its level sizes


def sine_embedding(boxes_cxcywh: Tensor, dim: int) -> Tensor:
    """(..., 4) in 0..1 -> (..., 2*dim): dim/2 channels per number, sin and cos interleaved, in the
    order y, x, w, h.
    """
    # periods in float32, as in upstream
    channel = torch.arange(dim // 2, dtype=torch.float32, device=boxes_cxcywh.device)
    period = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / (dim // 2))
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    # (..., 4, dim/2)
    angle = torch.stack([cy, cx, w, h], dim=-1)[..., None] * (2 * math.pi) / period
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-3)


class MLP(nn.Module):
    """Linear layers with ReLU between them, (..., widths[0]) -> (..., widths[-1]); ``zero_last``
    initialises the last layer with 0.
    """

    def __init__(self, widths: tuple[int, ...], zero_last: bool = False) -> None:
        """Layers of ``widths[0]`` inputs, hidden widths, and ``widths[-1]`` outputs."""
        super().__init__()
        layers = [Linear(a, b) for a, b in itertools.pairwise(widths)]
        if zero_last:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = layer(x, relu=True)
        return self.layers[-1](x)


class SegmentSelfAttention(nn.Module):
    """Multi-head self-attention inside segments; parameters have the layout of
    ``nn.MultiheadAttention``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        """``dim`` channels in ``heads`` heads."""
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self._query_key = PackedLinear()
        self._value = PackedLinear()
        self.out_proj = Linear(dim, dim)

    def forward(self, x: Tensor, pos: Tensor, segments: tuple[int, ...]) -> Tensor:
        """x, pos (B, N, d), N = sum(segments) -> (B, N, d), the sum of x and what it attends to."""
        dim = x.shape[-1]
        qk = self._query_key(x + pos, self.in_proj_weight[: 2 * dim], self.in_proj_bias[: 2 * dim])
        v = self._value(x, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :])
        packed = torch.cat([qk, v], dim=-1)  # (B, N, 3d)
        if len(set(segments)) == 1:  # equal segments become batch entries
            out = self._attend(packed.reshape(-1, segments[0], 3 * dim)).reshape(x.shape)
        else:
            out = torch.cat([self._attend(part) for part in packed.split(segments, dim=1)], dim=1)
        return self.out_proj(out, x)

    def _attend(self, packed: Tensor) -> Tensor:
        q, k, v = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return attention(q, k, v).transpose(1, 2).flatten(2)


class DeformableCrossAttention(nn.Module):
    """Multi-scale deformable attention with offsets relative to the reference box; each map is a
    level.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Heads, points, levels and width of ``config``; offsets start on a ring, as in Deformable
        DETR.
        """
        super().__init__()
        self.heads = config.cross_heads
        self.points = config.points
        self.levels = len(config.levels)
        dim = config.hidden
        samples = config.cross_heads * self.levels * config.points
        self.sampling_offsets = Linear(dim, 2 * samples)
        self.attention_weights = Linear(dim, samples)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self._init_weights()

    def _init_weights(self) -> None:
        # on the CPU whatever the device: on the meta device PyTorch would import its compiler
        angle = torch.arange(self.heads, device="cpu") * (2 * math.pi / self.heads)
        ring = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ring = ring / ring.abs().amax(-1, keepdim=True)  # (M, 2)
        steps = torch.arange(1, self.points + 1, device="cpu")[:, None]
        points = (ring[:, None, None] * steps).expand(-1, self.levels, -1, -1)  # (M, L, P, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.data.copy_(points.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        for bias in (self.attention_weights.bias, self.value_proj.bias, self.output_proj.bias):
            nn.init.zeros_(bias)

    def forward(
        self,
        query: Tensor,
        references: Tensor,
        memory: Tensor,
        level_sizes: list[tuple[int, int]],
        residual: Tensor | None = None,
    ) -> Tensor:
        """query (B, N, d), references (B, N, 4) cxcywh, memory (B, S, d) -> (B, N, d), added to
        ``residual`` (B, N, d) if there is one.
        """
        shape = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*shape, 2))  # (B, N, M, L, P, 2)
        logits = self.attention_weights(query).unflatten(-1, shape)  # (B, N, M, L, P)
        value = self.value_proj(memory).unflatten(-1, (self.heads, -1))  # (B, S, M, D)
        return self.output_proj(
            ms_deform_attn_fused(value, level_sizes, offsets, references, logits), residual
        )


class DecoderLayer(nn.Module):
    """Post-norm layer: self-attention, deformable cross-attention, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        """Widths and heads of ``config``."""
        super().__init__()
        dim = config.hidden
        self.self_attn = SegmentSelfAttention(dim, config.self_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = DeformableCrossAttention(config)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, config.ffn)
        self.linear2 = Linear(config.ffn, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, pos: Tensor, segments: tuple[int, ...], references: Tensor, source: Source
    ) -> Tensor:
        """x, pos (B, N, d), references (B, N, 4) cxcywh, N = sum(segments) -> (B, N, d)."""
        x = self.norm1(self.self_attn(x, pos, segments))
        x = self.norm2(self.cross_attn(x + pos, references, *source, residual=x))
        return self.norm3(feed_forward(x, self.linear1, self.linear2, x))


class Decoder(nn.Module):
    """Learned query tables, reference embedding and the stack of layers."""

    def __init__(self, config: ModelConfig) -> None:
        """Tables for ``config.groups`` groups of ``config.queries`` queries, and
        ``config.decoder_layers`` layers.
        """
        super().__init__()
        dim = config.hidden
        rows = config.groups * config.queries
        self.stored_queries = config.queries
        self.query_feat = nn.Parameter(torch.randn(rows, dim))
        self.refpoint_embed = nn.Parameter(torch.zeros(rows, 4))
        self.ref_point_head = MLP((2 * dim, dim, dim))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.endswith(
                ("query_feat", "refpoint_embed", "offsets.weight", "attention_weights.weight")
            ):
                nn.init.xavier_uniform_(parameter)

    def tables(self, groups: int, queries: int) -> tuple[Tensor, Tensor]:
        """First ``queries`` rows of each of the first ``groups`` groups: content (g*q, d) and
        reference deltas (g*q, 4).
        """
        content = self.query_feat.unflatten(0, (-1, self.stored_queries))[:groups, :queries]
        deltas = self.refpoint_embed.unflatten(0, (-1, self.stored_queries))[:groups, :queries]
        return content.flatten(0, 1), deltas.flatten(0, 1)

    def forward(
        self,
        references: Tensor,
        content: Tensor,
        segments: tuple[int, ...],
        source: Source,
        depth: int,
    ) -> list[Tensor]:
        """references (B, N, 4) cxcywh, content (N, d) -> hidden states (B, N, d) after each of the
        layers 1..depth, normalised.
        """
        # the embedding is computed in float32 at any precision of the layers
        embedding = sine_embedding(references, content.shape[-1])
        pos = self.ref_point_head(embedding.to(content.dtype))
        x = content[None].expand(len(references), -1, -1)
        states = []
        for layer in self.layers[:depth]:
            x = layer(x, pos, segments, references, source)
            states.append(self.norm(x))
        return states
