"""Operations of a module as two public counters see them, from shapes alone: modules are on
PyTorch's meta device.

- ``flopcountermode``: PyTorch's own; 2 per multiply-add of matrix products, convolutions and
  attention, nothing else;
- ``calflops`` (optional package, what D-FINE's authors use): 2 per multiply-add of ``F.linear``,
  convolutions and ``torch.matmul``, and about one per element of activations, normalisations,
  softmax and resizing. The package patches Python functions, so it does not see fused attention,
  ``@``, ``bmm`` or elementwise operators: a quarter of LW-DETR's operations is missing (Table 9).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from rfdetr_repro.spec.errors import InputError

# products of two batches of matrices; a product with weights is one of matrices
ACTIVATIONS_ONLY = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)


class Count(NamedTuple):
    """Operations of one forward pass: floating-point operations and multiply-adds."""

    flops: float
    macs: float


class _ShapesOnly(TorchDispatchMode):
    """Keeps all tensors on the meta device: tensors made elsewhere are moved there, and checks of
    values are assumed to pass.

    ``tallies``: stacks of lists that a patching counter fills; entries caused by PyTorch's own
    shape rules are removed.
    """

    def __init__(self, tallies: Sequence[list[list[Any]]] = ()) -> None:
        super().__init__()
        self.tallies = tallies

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        args, kwargs = tree_map(_to_meta, (args, kwargs or {}))
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        before = [(stack[-1], len(stack[-1])) for stack in self.tallies if stack]
        result = func(*args, **kwargs)
        for tally, length in before:
            del tally[length:]
        return result


def _to_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value


def flopcountermode(module: nn.Module, *inputs: Tensor) -> Count:
    """Counts one forward pass with ``torch.utils.flop_counter``; attention is decomposed so that
    the counter sees it.
    """
    flops = float(sum(_by_operator(module, *inputs).values()))
    return Count(flops, flops / 2)


def weight_products(module: nn.Module, *inputs: Tensor) -> Count:
    """As :func:`flopcountermode`, without products of two activations, which are attention's: what
    counters see that do not see fused attention.
    """
    counted = _by_operator(module, *inputs)
    flops = float(sum(value for name, value in counted.items() if name not in ACTIVATIONS_ONLY))
    return Count(flops, flops / 2)


def _by_operator(module: nn.Module, *inputs: Tensor) -> dict[Any, int]:
    """Operator -> operations of one forward pass."""
    with (
        torch.device("meta"),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        _ShapesOnly(),
        FlopCounterMode(display=False) as counter,
    ):
        module(*map(_to_meta, inputs))
    return dict(counter.get_flop_counts().get("Global", {}))


def calflops(module: nn.Module, *inputs: Tensor) -> Count:
    """Counts one forward pass with the package calflops; raises :class:`InputError` if the package
    is not installed.
    """
    try:
        package = importlib.import_module("calflops")
        # the package's own spelling
        pipeline = importlib.import_module("calflops.calculate_pipline")
    except ImportError as error:
        raise InputError(
            f"calflops cannot be imported ({error})", hint="pip install calflops accelerate"
        ) from error
    _register_once(module)
    tallies = (pipeline.module_flop_count, pipeline.module_mac_count)
    args = [_to_meta(one) for one in inputs]
    # inside torch.device(...), operators and activations would count twice
    with torch.no_grad(), _ShapesOnly(tallies):
        flops, macs, _ = package.calculate_flops(
            module, args=args, print_results=False, output_as_string=False
        )
    return Count(float(flops), float(macs))


def _register_once(module: nn.Module) -> None:
    """Registers a module with two names, like transformers' heads, once, so that it counts once;
    both attributes stay.
    """
    seen: set[int] = set()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in seen and not isinstance(parent, (nn.ModuleList, nn.Sequential)):
                del parent._modules[name]
                object.__setattr__(parent, name, child)
            seen.add(id(child))


COUNTERS: dict[str, Callable[..., Count]] = {
    "flopcountermode": flopcountermode,
    "calflops": calflops,
}
