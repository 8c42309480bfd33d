"""Linear layers that use the processor's matrix unit for float32, where the processor has one
(``rfdetr::split_linear``).

On CPUs with AMX a float32 product of three bfloat16 parts per number is as exact as the float32
product and faster. Everywhere else, and for every other type or device, the layer is ``F.linear``
itself. In training the outputs and the gradient of the inputs are split products; the gradient of
the weights stays a float32 product.
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

from rfdetr_repro.ops import HAS_SPLIT_LINEAR, split_linear, split_linear_pack

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
    parts: int
    tiles: Tensor  # bfloat16


class PackedLinear:
    """``F.linear`` that caches the packed form of its weight, which takes 1.5 times the weight's
    memory.

    The weight is packed at the first call that can use the packed form, and again whenever it has
    changed. Copies and pickles start with an empty cache.
    """

    def __init__(self) -> None:
        """Starts with an empty cache."""
        self._packed: _Packed | None = None

    def __reduce__(self) -> tuple[type[PackedLinear], tuple[()]]:
        return PackedLinear, ()

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
        """x (..., I), weight (O, I), bias (O,) -> (..., O); with ``gelu``, the exact GELU of the
        result.
        """
        if not splits(x, weight):
            plain = F.linear(x, weight, bias)
            return F.gelu(plain) if gelu else plain
        if torch.is_grad_enabled():
            trained = _TrainedLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(
                *x.shape[:-1], len(bias)
            )
            return F.gelu(trained) if gelu else trained
        flat = split_linear(x.reshape(-1, x.shape[-1]), self._tiles(weight.detach()), bias, gelu)
        return flat.view(*x.shape[:-1], len(bias))

    def _tiles(self, weight: Tensor) -> Tensor:
        key = (weight._version, float32_parts())
        packed = self._packed
        if (
            packed is None
            or (packed.version, packed.parts) != key
            or not _same_memory(packed.weight, weight)
        ):
            packed = self._packed = _Packed(weight, *key, split_linear_pack(weight, key[1]))
        return packed.tiles


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

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self._packed(x, self.weight, self.bias, self.gelu)


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
        and float32_on_cpu(x, weight)
        and not weight.is_inference()  # changes of an inference tensor cannot be detected
        and weight.shape[1] % ALIGNMENT == 0
        and weight.shape[0] >= FEWEST_OUTPUTS
        and x.numel() >= FEWEST_ROWS * weight.shape[1]
    )


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


@register_flop_formula(torch.ops.rfdetr.split_linear)
def _flops(
    x_shape: tuple[int, int], packed_shape: object, bias_shape: tuple[int], *_: object, **__: object
) -> int:
    return 2 * x_shape[0] * x_shape[1] * bias_shape[0]
