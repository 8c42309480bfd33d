"""The compiled ops: multi-scale deformable attention with its gradient, shape rule, autocast rule and ``grid_sample`` reference;
and a float32 linear layer for CPUs with a matrix unit, :func:`split_linear`.

Each query reads a few bilinear samples of each head's feature map and adds them up by weight (Deformable DETR, Zhu et al. 2021,
eq. 3; architecture facts section 6). Work and memory grow with queries x samples, never with queries x pixels.
The kernels are in csrc/, one file per device, built by setup.py into one library that this module loads. Without it the import
fails: there is no silent fallback. :data:`DECOMPOSITIONS` turns the op into plain ATen for exporters:
``exported.run_decompositions(DECOMPOSITIONS)``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

LIBRARY = Path(__file__).resolve().parent / "librfdetr_ops.so"
_OP, _BACKWARD = "rfdetr::ms_deform_attn", "rfdetr::ms_deform_attn_backward"


class LibraryNotBuilt(InputError, ImportError):
    """The compiled library is missing or cannot be loaded."""


def _load(path: Path) -> None:
    mend = "build it from the repository with: pip install --no-build-isolation -e ."
    if not path.is_file():
        raise LibraryNotBuilt("the compiled operators are not built", path, mend)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise LibraryNotBuilt(f"the compiled operators do not load ({error})", path, mend) from error


_load(LIBRARY)


def build_info() -> dict[str, Any]:
    """What the loaded library was built with: ``torch`` (version), ``cuda`` (bool), ``cuda_archs`` (list), ``compiler``."""
    function = ctypes.CDLL(str(LIBRARY)).rfdetr_build_info
    function.restype = ctypes.c_char_p
    torch_version, archs, compiler = function().decode().split("|")
    return {"torch": torch_version, "cuda": bool(archs), "cuda_archs": archs.split(), "compiler": compiler}


HAS_SPLIT_LINEAR = bool(ctypes.CDLL(str(LIBRARY)).rfdetr_has_split_linear())  # x86-64 Linux with AMX-BF16


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which samples of ``dtype`` values are located, weighted and summed: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def ms_deform_attn(
    value: Tensor, level_sizes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Weighted bilinear samples of ``value``: (B, S, M, D), levels, (B, Q, M, L, P, 2), (B, Q, M, L, P) -> (B, Q, M * D).

    B images, S = sum(H * W) pixels of all levels in row-major order, M heads of D channels, Q queries, L <= 8 levels, P points.
    ``level_sizes`` is [(H, W), ...] in pixels; locations are (x, y), 0..1 from the outer left/top to the outer right/bottom
    edge of the map (``align_corners=False``), zero outside. Weights are used as given (callers apply the softmax).
    Points wholly outside a map, and NaN or infinite locations, contribute nothing and get exactly zero gradients.

    ``value`` may be float32, float64, float16 or bfloat16 and sets the output's type; locations and weights are cast to
    :func:`accumulate_dtype`, in which everything is computed. Under autocast all of it is float32. On the CPU the gradient is
    bitwise reproducible, whatever the number of threads; on CUDA it is summed by atomics and is not. First order only.
    Raises RuntimeError when shapes, types or devices disagree.
    """
    dtype = accumulate_dtype(value.dtype)
    sizes = [side for size in level_sizes for side in size]
    op = torch.ops.rfdetr.ms_deform_attn.default
    return op(value, sizes, sampling_locations.to(dtype), attention_weights.to(dtype))


def ms_deform_attn_reference(
    value: Tensor, level_sizes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The same function through ``torch.nn.functional.grid_sample``; arguments, shapes and types as :func:`ms_deform_attn`.

    Differs where ``grid_sample`` does: the gradient of a point exactly on the rim, and locations that are not finite.
    """
    dtype = accumulate_dtype(value.dtype)
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    maps = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)  # (B * M, D, S)
    grids = (2 * sampling_locations.to(dtype) - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (B * M, L, Q, P, 2)
    samples = []
    for level, part in enumerate(maps.split([height * width for height, width in level_sizes], dim=-1)):
        image = part.unflatten(-1, level_sizes[level])  # (B * M, D, H, W)
        samples.append(F.grid_sample(image, grids[:, level], mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = attention_weights.to(dtype).permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, len(samples) * points)
    total = (torch.cat(samples, dim=-1) * weights).sum(-1)  # (B * M, D, Q)
    return total.reshape(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)


def split_linear_pack(weight: Tensor, parts: int) -> Tensor:
    """float32 (O, I) -> bfloat16 (ceil(O / 32), I / 32, 1024 * parts): the layout :func:`split_linear` reads.

    ``parts`` bfloat16 per number: 3 keep all 24 bits of it, 2 keep 16. I must be a multiple of 32. Raises RuntimeError
    otherwise, and without :data:`HAS_SPLIT_LINEAR`.
    """
    return torch.ops.rfdetr.split_linear_pack.default(weight, parts)


def split_linear(x: Tensor, packed: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """x float32 (N, I), packed weight of (O, I), bias float32 (O,) -> x @ weight.T + bias, float32 (N, O); ``gelu``: its GELU.

    Sums of products of bfloat16 parts, in float32 on the AMX unit (the idea: Henry, Tang and Heinecke 2019, arXiv 1904.06376).
    With 3 parts the error is at most that of a float32 product; with 2 it is about 2^-16 of the summed magnitudes. Each row's
    result is bitwise the same whatever the other rows and the number of threads. NaN and infinite inputs give non-finite
    results, subnormal numbers count as zero. No gradient. Raises RuntimeError as :func:`split_linear_pack`.
    """
    return torch.ops.rfdetr.split_linear.default(x, packed, bias, gelu)


def _decomposition(value: Tensor, level_sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """The reference under the op's own signature, whose sizes are flat: [H, W, H, W, ...]."""
    sizes = list(zip(level_sizes[::2], level_sizes[1::2], strict=True))
    return ms_deform_attn_reference(value, sizes, sampling_locations, attention_weights)


DECOMPOSITIONS = {torch.ops.rfdetr.ms_deform_attn.default: _decomposition}


@torch.library.register_fake(_OP)
def _shape(value: Tensor, level_sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    torch._check(value.dim() == 4 and sampling_locations.dim() == 6 and attention_weights.dim() == 5)
    return value.new_empty(value.shape[0], sampling_locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake(_BACKWARD)
def _backward_shape(
    grad_output: Tensor, value: Tensor, level_sizes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (value, sampling_locations, attention_weights)
    grad_value, grad_locations, grad_weights = (tensor.new_empty(tensor.shape) for tensor in inputs)
    return grad_value, grad_locations, grad_weights


@torch.library.register_fake("rfdetr::split_linear")
def _split_linear_shape(x: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return x.new_empty(x.shape[0], bias.shape[0])


def _save(ctx: Any, inputs: tuple[Tensor, list[int], Tensor, Tensor], output: Tensor) -> None:
    value, ctx.level_sizes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradient(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if strict and value.is_cuda:
        raise RuntimeError("ms_deform_attn has no deterministic CUDA gradient: it adds by atomics; use the CPU or warn_only=True")
    backward = torch.ops.rfdetr.ms_deform_attn_backward.default
    grad_value, grad_locations, grad_weights = backward(grad_output, value, ctx.level_sizes, locations, weights)
    wanted = ctx.needs_input_grad
    return (
        grad_value if wanted[0] else None,
        None,
        grad_locations if wanted[2] else None,
        grad_weights if wanted[3] else None,
    )


def _no_second_order(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("ms_deform_attn has no second derivative; ms_deform_attn_reference has none either")


torch.library.register_autograd(_OP, _gradient, setup_context=_save)
torch.library.register_autograd(_BACKWARD, _no_second_order)  # PyTorch would only warn, and give wrong numbers
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(_OP, _device, torch.float32)
