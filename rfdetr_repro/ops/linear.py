"""Float32 linear layers for CPUs: on the matrix unit (``rfdetr::split_linear``), and on vector
units with bias, activation and residual in the same pass (``rfdetr::packed_linear``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distribution import NAMESPACE
from .library import HANDLE, OPERATORS, build_info

HAS_SPLIT_LINEAR = bool(HANDLE.rfdetr_has_split_linear())  # x86-64 Linux with AMX-BF16
# the kernels run everywhere, but only these instruction sets have been compared with PyTorch
HAS_PACKED_LINEAR = build_info()["isa"] in ("avx2", "avx512")
ACTIVATIONS = ("none", "relu", "gelu")


def split_linear_pack(weight: Tensor, parts: int) -> Tensor:
    """float32 (O, I) -> bfloat16 (ceil(O / 32), I / 32, 1024 * parts): the layout
    :func:`split_linear` reads.

    ``parts`` is the number of bfloat16 per float32: 3 keep all 24 bits, 2 keep 16 bits. Raises
    RuntimeError unless I is a multiple of 32, and without :data:`HAS_SPLIT_LINEAR`.
    """
    return OPERATORS.split_linear_pack.default(weight, parts)


def split_linear(x: Tensor, packed: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """x float32 (N, I), packed weight of (O, I), bias float32 (O,) -> x @ weight.T + bias, float32
    (N, O); with ``gelu``, the GELU of that.

    Sums of products of bfloat16 parts, in float32 on the AMX unit (the idea: Henry, Tang and
    Heinecke 2019, arXiv 1904.06376). With 3 parts the error is at most that of a float32 product;
    with 2 it is about 2^-16 of the summed magnitudes. Each row's result is bitwise independent of
    the other rows and of the number of threads. NaN and infinite inputs give non-finite results,
    subnormal numbers count as zero. No gradient. Raises RuntimeError like
    :func:`split_linear_pack`.
    """
    return OPERATORS.split_linear.default(x, packed, bias, gelu)


@torch.library.register_fake(f"{NAMESPACE}::split_linear")
def _shape(x: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return x.new_empty(x.shape[0], bias.shape[0])


def packed_linear_pack(weight: Tensor) -> Tensor:
    """float32 (O, I) -> float32 (I, O rounded up): the layout :func:`packed_linear` reads, which
    depends on the processor's vectors; not for storage. Raises RuntimeError for another type and
    for an empty weight.
    """
    return OPERATORS.packed_linear_pack.default(weight)


def packed_linear(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    activation: str = "none",
    scale: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """x float32 (N, I), packed weight of (O, I), bias float32 (O,) -> residual + scale *
    activation(x @ weight.T + bias), float32 (N, O).

    ``activation``: one of :data:`ACTIVATIONS`; GELU is the exact one, to 4e-7. ``scale`` (O,) and
    ``residual`` (N, O) are float32. Sums are float32, over chunks of inputs (at most 128 with
    AVX-512, 384 with AVX2) that are added in their order; each row's result is bitwise independent
    of the other rows and of the number of threads. No gradient. Raises RuntimeError for other types
    or sizes, ValueError for another activation.
    """
    return OPERATORS.packed_linear.default(
        x, packed, bias, ACTIVATIONS.index(activation), scale, residual
    )


@torch.library.register_fake(f"{NAMESPACE}::packed_linear")
def _packed_shape(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    activation: int,
    scale: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    return x.new_empty(x.shape[0], bias.shape[0])
