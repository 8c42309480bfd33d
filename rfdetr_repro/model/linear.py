"""Float32 linear layers on the CPU by this package's kernels.

On CPUs with AMX (``rfdetr::split_linear``) a float32 product of three bfloat16 parts per number is
as exact as the float32 product and faster. On other x86-64 CPUs with AVX2 or AVX-512, inference
uses ``rfdetr::packed_linear``: the weight is kept in the order in which the product reads it, and
bias, activation, scale and residual are part of the product. Everywhere else, and for every other
type or device, the layer is ``F.linear`` itself. In training the outputs and the gradient of the
inputs are split products; the gradient of the weights stays a float32 product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from rfdetr_repro.ops import (
    HAS_PACKED_LINEAR,
    HAS_SPLIT_LINEAR,
    packed_linear,
    packed_linear_pack,
    split_linear,
    split_linear_pack,
)

ALIGNMENT = 32  # the number of inputs must be a multiple of this
# below these sizes, padding to tiles costs more than the tiles save
FEWEST_ROWS = 16
FEWEST_OUTPUTS = 32


_PLAIN = ContextVar("plain", default=False)


@contextmanager
def plain_linear() -> Iterator[None]:
    """Makes linear layers use ``F.linear`` everywhere while the block runs: exporters record the
    operators that run.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def float32_parts() -> int:
    """bfloat16 parts per float32: 3 (all 24 bits) for PyTorch's matmul precision "highest", 2 (16
    bits) for lower precisions.

    ``torch.set_float32_matmul_precision`` defines "high" as "each float32 number as the sum of two
    bfloat16 numbers".
    """
    return 3 if torch.get_float32_matmul_precision() == "highest" else 2


class _Packed(NamedTuple):
    # shares the parameter's memory, so that the address cannot be reused for another tensor
    # meanwhile
    weight: Tensor
    version: int
    parts: int  # 0: the layout of packed_linear
    tiles: Tensor  # bfloat16, or float32


def _rows_first(weight: Tensor) -> Tensor:
    """The matrix of a linear map (O, I) is its weight; of a convolution (O, I, h, w), whose input
    rows are ordered (h, w, I), it is (O, h * w * I).
    """
    return weight if weight.dim() == 2 else weight.permute(0, 2, 3, 1).flatten(1)


class PackedLinear:
    """``F.linear`` that caches the packed form of its weight, which takes as much memory as the
    weight, and 1.5 times as much on the matrix unit.

    The weight is packed at the first call that can use the packed form, and again whenever it has
    changed. A weight that was made in ``torch.inference_mode``, whose changes PyTorch does not
    count, is never packed: the product is PyTorch's. Copies and pickles start with an empty cache.
    """

    def __init__(self) -> None:
        """Starts with an empty cache."""
        self._packed: _Packed | None = None

    def __reduce__(self) -> tuple[type[PackedLinear], tuple[()]]:
        return PackedLinear, ()

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: str = "none",
        scale: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """x (..., I), weight (O, I), bias (O,) -> residual + scale * activation(x @ weight.T +
        bias), (..., O).

        ``activation`` is "none", "relu" or "gelu" (the exact one); ``scale`` (O,); ``residual``
        (..., O). A weight (O, I, h, w) is that of a convolution, see :func:`_rows_first`.
        """
        if splits(x, weight):
            found = self._split(x, weight, bias, activation == "gelu")
            return _finished(found, "none" if activation == "gelu" else activation, scale, residual)
        if packs(x, weight):
            found = packed_linear(
                x.reshape(-1, x.shape[-1]),
                self._tiles(weight.detach(), 0),
                bias,
                activation,
                scale,
                None if residual is None else residual.reshape(-1, len(bias)),
            )
            return found.view(*x.shape[:-1], len(bias))
        return _finished(F.linear(x, _rows_first(weight), bias), activation, scale, residual)

    def _split(self, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
        if torch.is_grad_enabled():
            trained = _TrainedLinear.apply(
                x.reshape(-1, x.shape[-1]), _rows_first(weight), bias
            ).view(*x.shape[:-1], len(bias))
            return F.gelu(trained) if gelu else trained
        tiles = self._tiles(weight.detach(), float32_parts())
        flat = split_linear(x.reshape(-1, x.shape[-1]), tiles, bias, gelu)
        return flat.view(*x.shape[:-1], len(bias))

    def _tiles(self, weight: Tensor, parts: int) -> Tensor:
        key = (weight._version, parts)
        packed = self._packed
        if (
            packed is None
            or (packed.version, packed.parts) != key
            or not _same_memory(packed.weight, weight)
        ):
            matrix = _rows_first(weight)
            tiles = split_linear_pack(matrix, parts) if parts else packed_linear_pack(matrix)
            packed = self._packed = _Packed(weight, *key, tiles)
        return packed.tiles


def _finished(
    found: Tensor, activation: str, scale: Tensor | None, residual: Tensor | None
) -> Tensor:
    """What :class:`PackedLinear` adds to a product, by PyTorch's operators."""
    if activation != "none":
        found = F.gelu(found) if activation == "gelu" else F.relu(found)
    if scale is not None:
        found = found * scale
    return found if residual is None else residual + found


class Linear(nn.Linear):
    """(..., in) -> (..., out) with bias; parameters, their names and results are those of
    ``nn.Linear``.

    ``gelu`` applies the exact GELU to the result.
    """

    def __init__(self, inputs: int, outputs: int, gelu: bool = False) -> None:
        """``inputs`` and ``outputs`` are numbers of channels."""
        super().__init__(inputs, outputs)
        self.gelu = gelu
        self._packed = PackedLinear()

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        scale: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """(..., in) -> (..., out): the ReLU of the result with ``relu``, then its product with
        ``scale`` (out,), then its sum with ``residual`` (..., out).
        """
        activation = "gelu" if self.gelu else "relu" if relu else "none"
        return self._packed(x, self.weight, self.bias, activation, scale, residual)


class Product:
    """x (N, I) -> x @ weight.T (+ bias) for one weight (O, I) and many x, split where that is
    faster; not differentiable.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """``weight`` (O, I), ``bias`` (O,) or None for 0."""
        self._weight = weight
        self._bias = weight.new_zeros(len(weight)) if bias is None else bias
        self._tiles: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O), float32."""
        if not splits(x, self._weight):
            return torch.addmm(self._bias, x, self._weight.t())
        if self._tiles is None:
            self._tiles = split_linear_pack(self._weight, float32_parts())
        return split_linear(x, self._tiles, self._bias)


class _TrainedLinear(torch.autograd.Function):
    """x (N, I), weight (O, I), bias (O,) -> (N, O).

    Packs the weight at every call, because the weight changes at every step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return Product(weight, bias)(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            Product(weight.t())(grad) if wanted[0] else None,
            grad.t() @ x if wanted[1] else None,
            grad.sum(0) if wanted[2] else None,
        )


def float32_on_cpu(*tensors: Tensor) -> bool:
    """Whether the tensors meet in eager float32 arithmetic on the CPU: no autocast, no tracing, no
    compiling.
    """
    if torch.compiler.is_compiling():  # first: a compiler cannot look at what follows
        return False
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not _PLAIN.get()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()  # type: ignore[attr-defined] # public, not declared so
    )


def splits(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of x (..., I) and weight (O, I) is computed by :func:`split_linear`."""
    return (
        HAS_SPLIT_LINEAR
        and _packable(x, weight)
        and weight[0].numel() % ALIGNMENT == 0
        and weight.shape[0] >= FEWEST_OUTPUTS
    )


def packs(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of x (..., I) and weight (O, I) is computed by :func:`packed_linear`,
    where it is not split.
    """
    return HAS_PACKED_LINEAR and not torch.is_grad_enabled() and _packable(x, weight)


def in_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether the convolution of a map x (B, C, h, w) by ``weight`` is computed as a product of
    rows by :func:`packed_linear`.
    """
    return not HAS_SPLIT_LINEAR and packs(x, weight)


def _packable(x: Tensor, weight: Tensor) -> bool:
    return (
        float32_on_cpu(x, weight)
        and not weight.is_inference()  # changes of an inference tensor cannot be detected
        and x.numel() >= FEWEST_ROWS * weight[0].numel()
    )


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


@register_flop_formula([torch.ops.rfdetr.split_linear, torch.ops.rfdetr.packed_linear])
def _flops(
    x_shape: tuple[int, int], packed_shape: object, bias_shape: tuple[int], *_: object, **__: object
) -> int:
    return 2 * x_shape[0] * x_shape[1] * bias_shape[0]
