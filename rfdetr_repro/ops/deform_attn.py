"""Multi-scale deformable attention: the operators' interface, shape rules, gradients of both
orders, autocast and vmap.

Each query reads a few bilinear samples of each head's feature map and adds them up by weight
(Deformable DETR, Zhu et al. 2021, eq. 3; architecture facts section 6). Work and memory grow with
queries x samples, never with queries x pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import reference
from .distribution import NAMESPACE
from .library import OPERATORS
from .reference import Levels, accumulate_dtype

DEVICES = ("cpu", "cuda")  # devices with kernels
_PLAIN = OPERATORS.ms_deform_attn.default
_FUSED = OPERATORS.ms_deform_attn_fused.default


def ms_deform_attn(
    value: Tensor, level_sizes: Levels, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Weighted bilinear samples of ``value``: (B, S, M, D), levels, (B, Q, M, L, P, 2), (B, Q, M,
    L, P) -> (B, Q, M * D).

    B images, S = sum(H * W) < 2^31 pixels of all levels in row-major order, M heads of D channels,
    Q queries, L <= 8 levels, P points. ``level_sizes`` is [(H, W), ...] in pixels; locations are
    (x, y), 0..1 from the outer left/top to the outer right/bottom edge of the map
    (``align_corners=False``), zero outside. Weights are used as given (callers apply the softmax).
    Points wholly outside a map, and NaN or infinite locations, contribute nothing and get exactly
    zero gradients.

    ``value`` may be float32, float64, float16 or bfloat16 and sets the output's type; locations and
    weights are cast to :func:`accumulate_dtype`, in which everything is computed. Under autocast
    all of it is float32 on the CPU; on CUDA ``value`` keeps its type, for half the memory traffic.
    On the CPU results and gradients are bitwise reproducible, whatever the number of threads; on
    CUDA the gradients of ``value`` and of the reference boxes are reproducible only under
    ``torch.use_deterministic_algorithms``, which is slower. Second derivatives go through plain
    PyTorch. Raises RuntimeError when shapes, types or devices disagree.
    """
    dtype = accumulate_dtype(value.dtype)
    return _call(
        _PLAIN,
        _Plain,
        value,
        _flat(level_sizes),
        _as(sampling_locations, dtype),
        _as(attention_weights, dtype),
    )


def ms_deform_attn_fused(
    value: Tensor,
    level_sizes: Levels,
    offsets: Tensor,
    reference_boxes: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """:func:`ms_deform_attn` from what a decoder layer predicts: offsets relative to a box per
    query, and logits.

    value (B, S, M, D), offsets (B, Q, M, L, P, 2), reference_boxes (B, Q, 4) cxcywh in the units of
    locations (0..1), attention_logits (B, Q, M, L, P) -> (B, Q, M * D). Locations are centre +
    offset / P * size / 2 (architecture facts section 6), and weights are the softmax of the L * P
    logits of a head. Types, limits, reproducibility and errors are those of :func:`ms_deform_attn`.
    """
    dtype = accumulate_dtype(value.dtype)
    return _call(
        _FUSED,
        _Fused,
        value,
        _flat(level_sizes),
        _as(offsets, dtype),
        _as(reference_boxes, dtype),
        _as(attention_logits, dtype),
    )


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, without a call where it changes nothing."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _flat(level_sizes: Levels) -> list[int]:
    return [side for size in level_sizes for side in size]


def _pairs(level_sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(level_sizes[::2], level_sizes[1::2], strict=True))


def _call(op: Any, direct: Any, value: Tensor, *rest: Any) -> Tensor:
    device = value.device.type
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or device not in DEVICES or torch.is_autocast_enabled(device):
        return op(value, *rest)
    return (
        direct.apply(value, *rest) if torch.is_grad_enabled() else _below_autograd(op, value, *rest)
    )


class _Direct(torch.autograd.Function):
    """The eager way to an operator.

    The gradients registered below compute the same, but their Python overhead exceeds the time of a
    small call.
    """

    op: Any
    backward_op: Any

    @classmethod
    def forward(cls, ctx: Any, value: Tensor, level_sizes: list[int], *tensors: Tensor) -> Tensor:
        ctx.level_sizes = level_sizes
        ctx.save_for_backward(value, *tensors)
        return _below_autograd(cls.op, value, level_sizes, *tensors)

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _gradient(cls.backward_op, ctx, grad)


class _Plain(_Direct):
    op = _PLAIN
    backward_op = OPERATORS.ms_deform_attn_backward.default


class _Fused(_Direct):
    op = _FUSED
    backward_op = OPERATORS.ms_deform_attn_fused_backward.default


def _below_autograd(op: Any, *arguments: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def _gradient(backward_op: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, *tensors = ctx.saved_tensors
    arguments = (
        grad,
        value,
        ctx.level_sizes,
        *tensors,
        value.is_cuda and torch.are_deterministic_algorithms_enabled(),
    )
    twice = torch.is_grad_enabled()  # create_graph: the gradient is differentiated too
    first, *rest = backward_op(*arguments) if twice else _below_autograd(backward_op, *arguments)
    return first, None, *rest


# Below, ``tensors`` are an operator's tensor arguments after the level sizes: (locations, weights)
# or (offsets, boxes, logits).


def _decomposition(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The reference under the operator's own signature, whose sizes are flat: [H, W, H, W, ...]."""

    def decomposed(value: Tensor, level_sizes: Sequence[int], *tensors: Tensor) -> Tensor:
        return function(value, _pairs(level_sizes), *tensors)

    return decomposed


DECOMPOSITIONS = {
    _PLAIN: _decomposition(reference.ms_deform_attn_reference),
    _FUSED: _decomposition(reference.ms_deform_attn_fused_reference),
}


def _shape(value: Tensor, level_sizes: Sequence[int], points: Tensor, *tensors: Tensor) -> Tensor:
    torch._check(value.dim() == 4 and points.dim() == 6)
    return value.new_empty(value.shape[0], points.shape[1], value.shape[2] * value.shape[3])


def _backward_shape(
    grad: Tensor, value: Tensor, level_sizes: Sequence[int], *rest: Any
) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, *_tensors(rest)))


def _tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """Without the deterministic flag of the backward operators, which may be left out."""
    return [argument for argument in arguments if isinstance(argument, Tensor)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.level_sizes, *tensors = inputs
    ctx.save_for_backward(value, *tensors)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, value, ctx.level_sizes, *rest = inputs
    ctx.save_for_backward(grad, value, *_tensors(rest))


def _second_order(smooth: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    """Gradient of the gradient: the same function from operators that autograd differentiates
    twice.
    """

    def gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed]
        with torch.enable_grad():
            upstream, *inputs = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
            out = smooth(inputs[0], _pairs(ctx.level_sizes), *inputs[1:])
            first = torch.autograd.grad(
                out, inputs, upstream, create_graph=True, materialize_grads=True
            )
            arguments = [upstream, inputs[0], None, *inputs[1:]]
            chosen = [arguments[index] for index in wanted]
            second = torch.autograd.grad(
                first, chosen, grads, allow_unused=True, materialize_grads=True
            )
        by_index = dict(zip(wanted, second, strict=True))
        return tuple(by_index.get(index) for index in range(len(ctx.needs_input_grad)))

    return gradient


def _batched(op: Any) -> Callable[..., tuple[Any, Any]]:
    """The mapped axis becomes part of the batch."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def folded(argument: Any, dim: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            full = (
                argument.movedim(dim, 0)
                if dim is not None
                else argument[None].expand(info.batch_size, *argument.shape)
            )
            return full.flatten(0, 1)

        batch = args[0].shape[0 if in_dims[0] is None else (1 if in_dims[0] == 0 else 0)]
        out = op(*(folded(argument, dim) for argument, dim in zip(args, in_dims, strict=True)))
        unfolded = [
            part.unflatten(0, (info.batch_size, batch))
            for part in (out if isinstance(out, tuple) else (out,))
        ]
        return (
            (tuple(unfolded), tuple(0 for _ in unfolded))
            if isinstance(out, tuple)
            else (unfolded[0], 0)
        )

    return rule


_AUTOCAST = torch.library.Library(NAMESPACE, "FRAGMENT")


def _keeping_values(op: Any) -> Callable[..., Tensor]:
    """``op`` under autocast on CUDA: ``value`` keeps its type, which sets the output's, and the
    other tensors are cast to :func:`accumulate_dtype`.
    """

    def call(value: Tensor, level_sizes: list[int], *tensors: Tensor) -> Tensor:
        dtype = accumulate_dtype(value.dtype)
        with torch.autocast("cuda", enabled=False):
            out: Tensor = op(value, level_sizes, *(tensor.to(dtype) for tensor in tensors))
        return out

    return call


def _register(name: str, smooth: Callable[..., Tensor]) -> None:
    op, backward = (
        getattr(OPERATORS, name.split("::")[1] + end).default for end in ("", "_backward")
    )
    torch.library.register_fake(name, _shape)
    torch.library.register_fake(name + "_backward", _backward_shape)
    torch.library.register_autograd(name, partial(_gradient, backward), setup_context=_save)
    torch.library.register_autograd(
        name + "_backward", _second_order(smooth), setup_context=_save_backward
    )
    torch.library.register_vmap(name, _batched(op))
    torch.library.register_vmap(name + "_backward", _batched(backward))
    torch.library.register_autocast(name, "cpu", torch.float32)
    _AUTOCAST.impl(name.split("::")[1], _keeping_values(op), "AutocastCUDA")


_register(f"{NAMESPACE}::ms_deform_attn", reference.ms_deform_attn_smooth)
_register(f"{NAMESPACE}::ms_deform_attn_fused", reference.ms_deform_attn_fused_smooth)
