"""The decoder's feed-forward network, computed in strips of rows when training on the CPU.

With 13 groups the hidden activations of one layer are 13 x 300 x 2048 numbers per image, the
largest tensor of a training step; writing these activations and their gradient to fresh memory
costs more than the products. Strips fit into the cache, and the backward pass recomputes their
activations (one additional product per six) instead of keeping them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .linear import Linear, Product, float32_on_cpu

# bytes of hidden activations of a strip: below the size from which C libraries return memory to the
# system
STRIP_BYTES = 1 << 24


def feed_forward(
    x: Tensor, first: Linear, second: Linear, residual: Tensor | None = None
) -> Tensor:
    """second(relu(first(x))), added to ``residual`` if there is one: (..., d) -> (..., d)."""
    if not (torch.is_grad_enabled() and float32_on_cpu(x, first.weight, second.weight)):
        return second(first(x, relu=True), residual)
    flat = x.reshape(-1, x.shape[-1])
    found = _Strips.apply(flat, first.weight, first.bias, second.weight, second.bias).view(x.shape)
    return found if residual is None else residual + found


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        up = Product(w1, b1)
        down = Product(w2, b2)
        out = x.new_empty(len(x), len(w2))
        for rows in _strips(x, w1):
            out[rows] = down(up(x[rows]).relu_())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        up = Product(w1, b1)
        up_back = Product(w1.t())
        down_back = Product(w2.t())
        dx = torch.empty_like(x)
        dw1 = torch.zeros_like(w1)
        db1 = torch.zeros_like(b1)
        dw2 = torch.zeros_like(w2)
        grad = grad.contiguous()
        for rows in _strips(x, w1):
            hidden = up(x[rows]).relu_()
            dw2.addmm_(grad[rows].t(), hidden)
            hidden = torch.ops.aten.threshold_backward(down_back(grad[rows]), hidden, 0)
            dw1.addmm_(hidden.t(), x[rows])
            db1 += hidden.sum(0)
            dx[rows] = up_back(hidden)
        return dx, dw1, db1, dw2, grad.sum(0)


def _strips(x: Tensor, w1: Tensor) -> list[slice]:
    rows = max(1, STRIP_BYTES // (w1.element_size() * len(w1)))
    return [slice(start, start + rows) for start in range(0, len(x), rows)]
