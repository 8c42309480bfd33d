"""Windowed DINOv2 ViT whose patch size, image side and window count are arguments of the call
(architecture facts section 3).

The token grid is cut into w x w windows, each with its own copies of the class token and of the
registers. Windowed blocks attend inside a window, global blocks over all windows of an image,
copies included. Patch kernels are resampled as in FlexiViT (arXiv 2212.08013, section 3.4),
positions bicubically; both are pure functions of the stored weights, so one set of weights serves
every architecture.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbone_kinds import kind_of
from rfdetr_repro.spec.model_config import ModelConfig

from .backbone import Backbone, init_normal, init_products
from .linear import Linear, PackedLinear, in_rows

# limit of attention() on a CPU: the crossover, measured, lies between 785 and 1024 tokens
UNFUSED_TOKENS = 800


@lru_cache(maxsize=64)
def _kernel_resize_matrix(old: int, new: int) -> Tensor:
    """(new*new, old*old) float64: pseudo-inverse of the transposed bilinear resize from old x old
    to new x new pixels.
    """
    basis = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)
    resized = F.interpolate(
        basis, size=(new, new), mode="bilinear", antialias=True, align_corners=False
    )
    resize = resized.reshape(old * old, new * new).T  # rows = new pixels, columns = old pixels
    return torch.linalg.pinv(resize.T)


def _kernel_resize_matrix_like(old: int, new: int, like: Tensor) -> Tensor:
    """The matrix with the type and on the device of ``like``. On a GPU it is kept, because a copy
    to the GPU for every image would make the program wait.
    """
    if like.device.type != "cuda" or torch.compiler.is_compiling():
        return _kernel_resize_matrix(old, new).to(like)
    return _kernel_resize_matrix_on(old, new, like.dtype, like.device)


@lru_cache(maxsize=64)
def _kernel_resize_matrix_on(
    old: int, new: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    with torch.inference_mode(False):  # training may be the next to use it
        return _kernel_resize_matrix(old, new).to(device, dtype, copy=True)


def resample_patch_kernel(weight: Tensor, patch: int) -> Tensor:
    """(D, C, p, p) -> (D, C, patch, patch) such that, for patch >= p, a bilinearly enlarged patch
    gives the same token (FlexiViT, section 3.4).

    Differentiable; gradients reach the stored kernel. For patch < p the result is the least-squares
    solution.
    """
    old = weight.shape[-1]
    if old == patch:
        return weight
    with torch.autocast(weight.device.type, enabled=False):
        matrix = _kernel_resize_matrix_like(old, patch, weight)
        return (weight.flatten(2) @ matrix.T).unflatten(2, (patch, patch))


def resample_positions(
    positions: Tensor, stored_hw: tuple[int, int], grid_hw: tuple[int, int]
) -> Tensor:
    """(1, 1 + Gh*Gw, D) -> (1, 1 + gh*gw, D): bicubic with antialiasing; the class row is kept.
    Unchanged if the grids are equal.
    """
    if grid_hw == stored_hw:
        return positions
    exact = positions.float()  # as in upstream, at any precision of the model
    table = exact[:, 1:].unflatten(1, stored_hw).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=grid_hw, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([exact[:, :1], table.flatten(2).transpose(1, 2)], dim=1).to(positions.dtype)


def to_windows(tokens: Tensor, windows: int) -> Tensor:
    """(B, H, W, D) -> (B*w*w, H/w * W/w, D), image-major, then window row, then window column."""
    b, h, w, d = tokens.shape
    tokens = tokens.reshape(b, windows, h // windows, windows, w // windows, d).transpose(2, 3)
    return tokens.reshape(b * windows * windows, (h // windows) * (w // windows), d)


def from_windows(tokens: Tensor, windows: int, grid_hw: tuple[int, int]) -> Tensor:
    """Inverse of :func:`to_windows`, then channels first: (B*w*w, n, D) -> (B, D, H, W)."""
    h, w = grid_hw
    tokens = tokens.reshape(
        -1, windows, windows, h // windows, w // windows, tokens.shape[-1]
    ).transpose(2, 3)
    return tokens.reshape(-1, h, w, tokens.shape[-1]).permute(0, 3, 1, 2)


def share_class_token(tokens: Tensor, windows: int) -> Tensor:
    """(B*w*w, n, D), class token first -> the same, with the mean over the windows of an image in
    place of each window's class token.
    """
    if windows == 1:
        return tokens
    of_image = tokens.unflatten(0, (-1, windows * windows))
    shared = of_image[:, :, :1].mean(1, keepdim=True).expand(-1, windows * windows, -1, -1)
    return torch.cat([shared, of_image[:, :, 1:]], 2).flatten(0, 1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention, (B, heads, N, d) -> (B, heads, N, d).

    On the CPU, bfloat16 training is faster unfused for short sequences (measured 2.5 times). For
    long sequences the fused form is faster, and does not keep the N x N scores of all blocks.
    """
    if (
        q.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and q.shape[-2] <= UNFUSED_TOKENS
        and torch.is_grad_enabled()
    ):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return scores.softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value projection."""

    def __init__(self, dim: int, heads: int) -> None:
        """``dim`` channels in ``heads`` heads."""
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """(B, N, dim) -> (B, N, dim); ``residual`` and ``scale`` as in :class:`.Linear`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2), residual, scale)


class Block(nn.Module):
    """Pre-norm transformer block with optional LayerScale."""

    def __init__(self, dim: int, heads: int, layer_scale: bool) -> None:
        """``dim`` channels in ``heads`` heads; ``layer_scale`` adds a learned scale per channel to
        both branches.
        """
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = Linear(dim, 4 * dim, gelu=True)
        self.fc2 = Linear(4 * dim, dim)
        self.scale1 = nn.Parameter(torch.ones(dim)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(dim)) if layer_scale else None

    def forward(self, x: Tensor, merge: int) -> Tensor:
        """x (B*w*w, n, D) -> (B*w*w, n, D); ``merge`` windows form one attention sequence (1 =
        windowed, w*w = global).
        """
        sequences = (-1, merge * x.shape[1], x.shape[2])
        attended = self.attn(self.norm1(x).reshape(sequences), x.reshape(sequences), self.scale1)
        x = attended.reshape(x.shape)
        return self.fc2(self.fc1(self.norm2(x)), x, self.scale2)


class WindowedViT(Backbone):
    """DINOv2 backbone, with or without registers; returns one normalised map per feature stage.

    :class:`.rotary_vit.RotaryViT` replaces the blocks and the positions.
    """

    norm_eps = 1e-6

    def __init__(self, config: ModelConfig) -> None:
        """Widths, blocks and position table of ``config``, with random weights."""
        super().__init__(config)
        dim = config.vit_dim
        patch = config.patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        # rotary positions need no table
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1 + math.prod(config.pos_grid_hw), dim))
            if kind_of(config.backbone).table
            else None
        )
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, config.registers, dim)) if config.registers else None
        )
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self._patches = PackedLinear()
        self.blocks = nn.ModuleList(self._block() for _ in range(config.vit_depth))
        self.norm = nn.LayerNorm(dim, eps=self.norm_eps)  # shared by all feature stages
        self._init_weights()

    def _block(self) -> nn.Module:
        """One block, called with tokens, ``merge`` and what :meth:`_positions` returns."""
        return Block(self.config.vit_dim, self.config.vit_heads, self.config.layer_scale)

    def _positions(
        self, grid_hw: tuple[int, int], windows: int, like: Tensor
    ) -> tuple[Tensor, ...]:
        """What every block receives about positions: nothing where the tokens hold them."""
        return ()

    def _init_weights(self) -> None:
        init_normal(self.cls_token, 0.02)
        if self.pos_embed is not None:
            init_normal(self.pos_embed, 0.02)
        if self.register_tokens is not None:
            init_normal(self.register_tokens, 0.02)
        init_products(self)

    def embed(self, images: Tensor, patch: int, windows: int) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> ((B*w*w, 1 + registers + n, D) window-major tokens, grid (H/patch,
        W/patch)).
        """
        kernel = resample_patch_kernel(self.patch_embed.weight, patch)
        if in_rows(images, kernel):
            return self._embed_product(images, kernel, windows)
        # (B, gh, gw, D)
        tokens = F.conv2d(images, kernel, self.patch_embed.bias, stride=patch).permute(0, 2, 3, 1)
        grid_hw = (tokens.shape[1], tokens.shape[2])
        cls = self.cls_token.to(tokens.dtype)
        if self.pos_embed is not None:
            positions = resample_positions(self.pos_embed, self.config.pos_grid_hw, grid_hw).to(
                tokens.dtype
            )
            tokens = tokens + positions[:, 1:].unflatten(1, grid_hw)
            cls = cls + positions[:, :1]
        return self._with_prefix(cls, to_windows(tokens, windows)), grid_hw

    def _embed_product(
        self, images: Tensor, kernel: Tensor, windows: int
    ) -> tuple[Tensor, tuple[int, int]]:
        """:meth:`embed` as one linear map of patches in the order of the tokens, whose sums start
        at the positions.
        """
        patch = kernel.shape[-1]
        grid_hw = (images.shape[2] // patch, images.shape[3] // patch)
        pixels = images.permute(0, 2, 3, 1)  # (B, H, W, 3); rows of a patch become tokens' numbers
        pixels = pixels.unflatten(2, (grid_hw[1], patch)).unflatten(1, (grid_hw[0], patch))
        patches = to_windows(pixels.transpose(2, 3).flatten(3), windows)
        cls: Tensor = self.cls_token
        residual = None
        if self.pos_embed is not None:
            positions = resample_positions(self.pos_embed, self.config.pos_grid_hw, grid_hw)
            residual = to_windows(positions[:, 1:].unflatten(1, grid_hw), windows)
            residual = residual.repeat(len(images), 1, 1) if len(images) > 1 else residual
            cls = cls + positions[:, :1]
        bias = cast(Tensor, self.patch_embed.bias)
        tokens = self._patches(patches, kernel, bias, residual=residual)
        return self._with_prefix(cls, tokens), grid_hw

    def _with_prefix(self, cls: Tensor, tokens: Tensor) -> Tensor:
        """Class token, registers and tokens of each window."""
        prefix = [cls.expand(len(tokens), -1, -1)]
        if self.register_tokens is not None:  # registers have no positions
            prefix.append(self.register_tokens.to(tokens.dtype).expand(len(tokens), -1, -1))
        return torch.cat([*prefix, tokens], dim=1)

    def forward(self, images: Tensor, patch: int, windows: int) -> list[Tensor]:
        """(B, 3, H, W), H and W divisible by patch * windows -> one map (B, D, H/patch, W/patch)
        per feature stage.
        """
        x, grid_hw = self.embed(images, patch, windows)
        positions = self._positions(grid_hw, windows, x)
        stages = self.config.feature_stages
        maps = []
        for index in range(max(stages)):  # later blocks have no effect on the maps
            merge = windows * windows if index in self.config.global_blocks else 1
            x = self.run(self.blocks[index], x, merge, *positions)
            if self.config.shared_class_token:
                x = share_class_token(x, windows)
            if index + 1 in stages:
                patches = self.norm(x)[:, self.config.prefix_tokens :]
                maps.append(from_windows(patches, windows, grid_hw))
        return maps

    def sliced(self, arch: Arch) -> dict[str, Tensor]:
        """The patch kernel for ``arch.patch`` px, and the positions of ``arch.grid_hw``."""
        cut = {"patch_embed.weight": resample_patch_kernel(self.patch_embed.weight, arch.patch)}
        if self.pos_embed is not None:
            cut["pos_embed"] = resample_positions(
                self.pos_embed, self.config.pos_grid_hw, arch.grid_hw
            )
        return cut
