"""The signatures under which other packages compute multi-scale deformable attention, each over the
compiled operator, and a comparison of the two on random input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .deform_attn import ms_deform_attn

Sizes = Tensor | Sequence[Any]  # heights and widths of the levels


@dataclass(frozen=True)
class Form:
    """One signature.

    ``parameters`` are the names that it begins with, ``functions`` the names under which packages
    have it (none: the ``forward`` of a module), ``call`` computes it with the operator, and
    ``arguments`` makes a call of it from (value, sizes, locations, weights).
    """

    name: str
    parameters: tuple[str, ...]
    functions: tuple[str, ...]
    call: Callable[..., Tensor]
    arguments: Callable[..., tuple[Any, ...]]
    points: tuple[int, ...] = (2, 2)  # of each level in the comparison

    def compare(self, original: Callable[..., Tensor]) -> tuple[float, float]:
        """Largest difference of values and of gradients between ``original`` and the operator,
        relative to the largest number of each, on seeded random input with points inside and
        outside the maps.
        """
        tensors = _random(self.points)
        results = []
        for function in (original, self.call):
            own = [tensor.clone().requires_grad_() for tensor in tensors]
            out = function(*self.arguments(own[0], _SIZES, *own[1:], self.points))
            upstream = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
            grads = torch.autograd.grad(out, own, upstream, allow_unused=True)
            results.append((out.detach(), grads))
        (first, first_grads), (second, second_grads) = results
        if first.shape != second.shape or first.dtype != second.dtype:
            return float("inf"), float("inf")
        return _relative(first, second), max(
            map(_relative, map(_or_zero, first_grads), map(_or_zero, second_grads))
        )


_SIZES = [(5, 4), (3, 2)]


def _random(points: tuple[int, ...]) -> list[Tensor]:
    """Value (2, 26, 2, 8), locations (2, 3, 2, P, 2) from -0.2 to 1.2, weights (2, 3, 2, P)."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 2, sum(points))

    def drawn(*sizes: int) -> Tensor:
        return torch.rand(*sizes, generator=generator, dtype=torch.float32, device="cpu")

    return [drawn(2, 26, 2, 8) - 0.5, 1.4 * drawn(*shape, 2) - 0.2, drawn(*shape)]


def _or_zero(grad: Tensor | None) -> Tensor:
    return torch.zeros(1) if grad is None else grad


def _relative(first: Tensor, second: Tensor) -> float:
    largest = max(float(first.abs().max()), 1e-30)
    return float((first - second).abs().max()) / largest


def form_of(function: Any, expected: Sequence[Form] | None) -> Form | None:
    """The form that ``function`` has by its parameters' names: one of ``expected``, or, for None,
    one of a module's ``forward``.
    """
    names = tuple(inspect.signature(function).parameters)
    if expected is None:
        names = names[1:]  # without self
        expected = [form for form in FORMS if not form.functions]
    matching = [form for form in expected if form.parameters == names]
    return matching[0] if matching else None


def pairs(sizes: Sizes) -> list[tuple[int, int]]:
    """[(H, W), ...] of a tensor (L, 2) or a sequence of pairs; a tensor is read."""
    if isinstance(sizes, Tensor):
        sizes = sizes.tolist()
    return [(height, width) for height, width in sizes]


def _hub(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: Sequence[Any],
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    return ms_deform_attn(
        value, pairs(value_spatial_shapes_list), sampling_locations, attention_weights
    )


def _plain(
    value: Tensor,
    value_spatial_shapes: Sizes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    return ms_deform_attn(value, pairs(value_spatial_shapes), sampling_locations, attention_weights)


def _points_per_level(
    value: Tensor,
    value_spatial_shapes: Sizes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    num_points_list: list[int],
    method: str = "default",
) -> Tensor:
    """Locations (B, Q, M, sum of points, 2). Levels with fewer points than the most get points
    outside the map, which contribute nothing.
    """
    sizes = pairs(value_spatial_shapes)
    if method == "discrete":
        sampling_locations = _at_pixels(sampling_locations, sizes, num_points_list)
    elif method != "default":
        raise ValueError(f"the operator has no sampling method {method!r}")
    most = max(num_points_list)
    if min(num_points_list) < most:
        split = (
            sampling_locations.split(num_points_list, -2),
            attention_weights.split(num_points_list, -1),
        )
        sampling_locations = torch.stack(
            [F.pad(one, (0, 0, 0, most - one.shape[-2]), value=-9.0) for one in split[0]], dim=-3
        )
        attention_weights = torch.stack(
            [F.pad(one, (0, most - one.shape[-1])) for one in split[1]], dim=-2
        )
    else:
        sampling_locations = sampling_locations.unflatten(-2, (len(sizes), most))
        attention_weights = attention_weights.unflatten(-1, (len(sizes), most))
    return ms_deform_attn(value, sizes, sampling_locations, attention_weights)


def _at_pixels(locations: Tensor, sizes: list[tuple[int, int]], points: list[int]) -> Tensor:
    """Locations moved to the centre of the pixel that RT-DETRv2's discrete sampling reads."""
    moved = []
    for (height, width), part in zip(sizes, locations.detach().split(points, -2), strict=True):
        size = part.new_tensor([width, height])
        pixel = (part * size + 0.5).to(torch.int64).clamp(min=0)
        moved.append((torch.minimum(pixel, size.to(torch.int64) - 1) + 0.5) / size)
    return torch.cat(moved, -2)


def _channels_first(
    value: Tensor,
    value_spatial_shapes: Sizes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    value_spatial_shapes_hw: Sequence[Any] | None = None,
) -> Tensor:
    """Value (B, M, D, S); locations (B, Q, M, L, P, 2) or (B, Q, M, L * P, 2)."""
    sizes = pairs(
        value_spatial_shapes if value_spatial_shapes_hw is None else value_spatial_shapes_hw
    )
    if sampling_locations.dim() == 5:
        sampling_locations = sampling_locations.unflatten(3, (len(sizes), -1))
    weights = attention_weights.reshape(sampling_locations.shape[:-1])
    return ms_deform_attn(value.permute(0, 3, 1, 2), sizes, sampling_locations, weights)


def _levels(points: tuple[int, ...]) -> tuple[int, int]:
    return len(points), points[0]


FORMS = (
    Form(
        "MultiScaleDeformableAttention of the kernel hub",
        (
            "value",
            "value_spatial_shapes",
            "value_spatial_shapes_list",
            "level_start_index",
            "sampling_locations",
            "attention_weights",
            "im2col_step",
        ),
        (),
        _hub,
        lambda value, sizes, locations, weights, points: (
            value,
            torch.tensor(sizes),
            sizes,
            torch.tensor([0, sizes[0][0] * sizes[0][1]]),
            locations.unflatten(3, _levels(points)),
            weights.unflatten(3, _levels(points)),
            64,
        ),
    ),
    Form(
        "multi_scale_deformable_attention",
        ("value", "value_spatial_shapes", "sampling_locations", "attention_weights"),
        ("multi_scale_deformable_attention", "multi_scale_deformable_attn_pytorch"),
        _plain,
        lambda value, sizes, locations, weights, points: (
            value,
            sizes,
            locations.unflatten(3, _levels(points)),
            weights.unflatten(3, _levels(points)),
        ),
    ),
    Form(
        "multi_scale_deformable_attention_v2",
        (
            "value",
            "value_spatial_shapes",
            "sampling_locations",
            "attention_weights",
            "num_points_list",
            "method",
        ),
        ("multi_scale_deformable_attention_v2",),
        _points_per_level,
        lambda value, sizes, locations, weights, points: (
            value,
            sizes,
            locations,
            weights,
            list(points),
        ),
        (2, 3),
    ),
    Form(
        "ms_deform_attn_core_pytorch with value_spatial_shapes_hw",
        (
            "value",
            "value_spatial_shapes",
            "sampling_locations",
            "attention_weights",
            "value_spatial_shapes_hw",
        ),
        ("ms_deform_attn_core_pytorch",),
        _channels_first,
        lambda value, sizes, locations, weights, points: (
            value.permute(0, 2, 3, 1).contiguous(),
            torch.tensor(sizes),
            locations.unflatten(3, _levels(points)),
            weights,
            sizes,
        ),
    ),
    Form(
        "ms_deform_attn_core_pytorch",
        ("value", "value_spatial_shapes", "sampling_locations", "attention_weights"),
        ("ms_deform_attn_core_pytorch",),
        _channels_first,
        lambda value, sizes, locations, weights, points: (
            value.permute(0, 2, 3, 1).contiguous(),
            torch.tensor(sizes),
            locations.unflatten(3, _levels(points)),
            weights,
        ),
    ),
)
