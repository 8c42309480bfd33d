"""What the operator benchmarks have in common: RF-DETR's shapes, calls of forward and backward,
other people's operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rfdetr_repro.ops import ms_deform_attn_reference

HEADS = 16
CHANNELS = 16
CASES = {  # name: (batch, queries, level sizes, points); nano, small/medium, three levels, training
    "b1-q300-24x24": (1, 300, [(24, 24)], 2),
    "b1-q300-36x36": (1, 300, [(36, 36)], 2),
    "b1-q300-3levels": (1, 300, [(40, 40), (20, 20), (10, 10)], 4),
    "b16-q300-24x24": (16, 300, [(24, 24)], 2),
    "b2-q3900-36x36": (2, 3900, [(36, 36)], 2),
}
Levels = list[tuple[int, int]]


def inputs(case: str, device: str = "cpu") -> tuple[Levels, list[Tensor]]:
    """Level sizes and seeded tensors (value, locations, weights) of a case, float32, with
    gradients.
    """
    batch, queries, levels, points = CASES[case]
    generator = torch.Generator().manual_seed(0)
    grid = (batch, queries, HEADS, len(levels), points)
    value = torch.randn(
        batch, sum(height * width for height, width in levels), HEADS, CHANNELS, generator=generator
    )
    tensors = [
        value,
        torch.rand(*grid, 2, generator=generator),
        torch.rand(grid, generator=generator),
    ]
    return levels, [tensor.to(device).requires_grad_() for tensor in tensors]


def forward(op: Callable[..., Tensor], levels: Levels, tensors: list[Tensor]) -> Callable[[], Any]:
    """A call of the operator's forward pass without gradients."""

    def call() -> Tensor:
        with torch.no_grad():
            return op(tensors[0], levels, *tensors[1:])

    return call


def forward_backward(
    op: Callable[..., Tensor], levels: Levels, tensors: list[Tensor]
) -> Callable[[], Any]:
    """A call of the operator's forward and backward pass."""
    upstream = torch.randn(*tensors[1].shape[:2], HEADS * CHANNELS, device=tensors[0].device)

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(op(tensors[0], levels, *tensors[1:]), tensors, upstream)

    return call


@lru_cache
def layout(levels: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes and first pixels of the levels as the others take them; made once, not in the timed
    call.
    """
    shapes = torch.tensor(levels, device=device)
    return shapes, torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])


def taking_tensors(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The signature that the original operator and its descendants share, under ours."""

    def call(value: Tensor, levels: Levels, locations: Tensor, weights: Tensor) -> Tensor:
        return op(value, *layout(tuple(levels), value.device), locations, weights)

    return call


def peers(device: str = "cpu") -> dict[str, Callable[..., Tensor]]:
    """Who is installed: the original operator as torch-ms-deform-attn brings it, deformops (CUDA),
    and grid_sample always.
    """
    found: dict[str, Callable[..., Tensor]] = {}
    if find_spec("torch_ms_deform_attn"):
        found["torch_ms_deform_attn"] = taking_tensors(
            import_module("torch_ms_deform_attn").ms_deform_attn
        )
    if device == "cuda" and find_spec("deformops"):
        found["deformops"] = taking_tensors(import_module("deformops.registry").msda)
    return {**found, "grid_sample": ms_deform_attn_reference}


def comparison(best_ms: dict[str, float]) -> dict[str, float]:
    """Times in ms, and by how much ours is faster than each other."""
    ratios = {
        f"over_{name}": round(time / best_ms["ours"], 2)
        for name, time in best_ms.items()
        if name != "ours"
    }
    return {**{f"{name}_ms": round(time, 4) for name, time in best_ms.items()}, **ratios}
