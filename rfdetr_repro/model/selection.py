"""Two-stage query selection (architecture facts section 5): every token proposes a box, and the
most confident proposals become references.

The G groups of training are one batched computation over stacked weights; evaluation uses group 0.
Rows are in order of confidence, so dropping queries means taking a prefix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.ops import accumulate_dtype
from rfdetr_repro.spec.model_config import ModelConfig

from .linear import PackedLinear

PRIOR_LOGIT = -math.log((1 - 0.01) / 0.01)


class Selected(NamedTuple):
    """k = min(queries, S) tokens per group, most confident first; N = G * k, group-major."""

    features: Tensor  # (B, G, k, d)
    logits: Tensor  # (B, G, k, C)
    boxes_cxcywh: Tensor  # (B, G, k, 4), with gradient
    tokens: Tensor  # (B, G, k) int64, their places among the S tokens


class GroupLinear(nn.Module):
    """G independent linear maps with stacked weights: (B, G or 1, N, in) -> (B, g, N, out) for the
    first g groups.
    """

    def __init__(self, groups: int, features_in: int, features_out: int) -> None:
        """``groups`` maps from ``features_in`` to ``features_out`` channels, which start as
        copies.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, features_out, features_in))
        self.bias = nn.Parameter(torch.zeros(groups, features_out))
        first = nn.init.xavier_uniform_(torch.empty(features_out, features_in))
        # groups start as copies (facts section 6)
        self.weight.data.copy_(first.expand_as(self.weight))
        self._first = PackedLinear()

    def forward(self, x: Tensor, groups: int, relu: bool = False) -> Tensor:
        """(B, G or 1, N, in) -> (B, groups, N, out); with ``relu``, the ReLU of that."""
        if groups == 1:
            return self._first(x, self.weight[0], self.bias[0], "relu" if relu else "none")
        found = torch.matmul(x, self.weight[:groups].transpose(1, 2)) + self.bias[:groups, None]
        return F.relu(found) if relu else found


class GroupNorm1d(nn.Module):
    """G independent LayerNorms (eps 1e-5) over the last axis of (B, g, N, d)."""

    def __init__(self, groups: int, dim: int) -> None:
        """``groups`` norms over ``dim`` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, dim))
        self.bias = nn.Parameter(torch.zeros(groups, dim))

    def forward(self, x: Tensor, groups: int) -> Tensor:
        """(B, groups, N, d) -> (B, groups, N, d)."""
        if groups == 1:
            return F.layer_norm(x, x.shape[-1:], self.weight[0], self.bias[0])
        return F.layer_norm(x, x.shape[-1:]) * self.weight[:groups, None] + self.bias[:groups, None]


def in_full(x: Tensor) -> Tensor:
    """``x`` in the type in which coordinates and scores are computed: float32 for float16 and
    bfloat16, whose steps near 1 are 1/2048 and 1/256 of the image; else its own.
    """
    return x.to(accumulate_dtype(x.dtype))


def apply_deltas(deltas: Tensor, references_cxcywh: Tensor) -> Tensor:
    """Box reparametrisation: the centre moves by delta * size, the size scales by exp(delta); all
    (..., 4), cxcywh; computed :func:`in_full`.
    """
    deltas = in_full(deltas)
    references_cxcywh = in_full(references_cxcywh)
    centre = deltas[..., :2] * references_cxcywh[..., 2:] + references_cxcywh[..., :2]
    return torch.cat([centre, deltas[..., 2:].exp() * references_cxcywh[..., 2:]], dim=-1)


def token_proposals(
    level_sizes: list[tuple[int, int]], side: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Proposals (S, 4) cxcywh, zero where invalid, and validity (S, 1). A token is valid if all
    four numbers lie in (0.01, 0.99).
    """
    levels = []
    for level, (h, w) in enumerate(level_sizes):
        y = (torch.arange(h, device=like.device) + 0.5) / h
        x = (torch.arange(w, device=like.device) + 0.5) / w
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        size = torch.full_like(grid_x, side * 2.0**level)
        levels.append(torch.stack([grid_x, grid_y, size, size], dim=-1).flatten(0, 1))
    # built in float32, as in upstream
    proposals = torch.cat(levels).to(accumulate_dtype(like.dtype))
    valid = ((proposals > 0.01) & (proposals < 0.99)).all(-1, keepdim=True)
    return torch.where(valid, proposals, torch.zeros_like(proposals)), valid


class QuerySelection(nn.Module):
    """Projection, class head and box head over tokens, one of each per group."""

    def __init__(self, config: ModelConfig) -> None:
        """Groups, widths and classes of ``config``."""
        super().__init__()
        groups = config.groups
        dim = config.hidden
        self.proposal_side = config.proposal_side
        self.proj = GroupLinear(groups, dim, dim)
        self.norm = GroupNorm1d(groups, dim)
        self.class_embed = GroupLinear(groups, dim, config.num_classes)
        boxes = [GroupLinear(groups, dim, out) for out in (dim, dim, 4)]
        self.bbox_embed = nn.ModuleList(boxes)
        nn.init.constant_(self.class_embed.bias, PRIOR_LOGIT)
        nn.init.zeros_(boxes[2].weight)

    def forward(
        self,
        memory: Tensor,
        level_sizes: list[tuple[int, int]],
        groups: int,
        queries: int,
        tokens: Tensor | None = None,
    ) -> Selected:
        """memory (B, S, d) -> the min(queries, S) most confident tokens of each of the first
        ``groups`` groups; or ``tokens`` (B, groups, k) int64 themselves, for a comparison that
        leaves the choice out.
        """
        proposals, valid = token_proposals(level_sizes, self.proposal_side, memory)
        memory = torch.where(valid, memory, torch.zeros_like(memory))
        projected = self.norm(self.proj(memory[:, None], groups), groups)  # (B, G, S, d)
        logits = self.class_embed(projected, groups)  # (B, G, S, C)
        k = min(queries, memory.shape[1])
        if tokens is None:
            tokens = logits.detach().amax(-1).topk(k, dim=-1).indices
        rank = tokens[..., None]  # (B, G, k, 1)
        features = projected.gather(2, rank.expand(-1, -1, -1, projected.shape[-1]))
        chosen_logits = logits.gather(2, rank.expand(-1, -1, -1, logits.shape[-1]))
        chosen = proposals[rank.squeeze(-1)]  # (B, G, k, 4)
        deltas = features
        for index, layer in enumerate(self.bbox_embed):
            deltas = layer(deltas, groups, relu=index < 2)
        return Selected(features, chosen_logits, apply_deltas(deltas, chosen), tokens)
