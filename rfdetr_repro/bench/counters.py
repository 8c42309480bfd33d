"""Operations of a module as two public programs count them, from shapes alone: modules live on
PyTorch's meta device.

- ``flopcountermode``: PyTorch's own; 2 per multiply-add of matrix products, convolutions and
  attention, nothing else;
- ``calflops`` (optional package, what D-FINE's authors use): 2 per multiply-add of ``F.linear``,
  convolutions and ``torch.matmul``, and about one per element of activations, normalisations,
  softmax and resizing. It patches Python functions, so it does not see fused attention, ``@``,
  ``bmm`` or elementwise operators: LW-DETR loses a quarter (Table 9).
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


class Count(NamedTuple):
    flops: float
    macs: float


class _ShapesOnly(TorchDispatchMode):
    """Keeps everything on the meta device: tensors made elsewhere move there, and checks of values
    are taken to hold.

    ``tallies``: stacks of lists that a patching counter fills; entries that PyTorch's own shape
    rules cause are taken out again.
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
    """One forward pass by ``torch.utils.flop_counter``; attention is decomposed so that it is
    seen.
    """
    with (
        torch.device("meta"),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        _ShapesOnly(),
        FlopCounterMode(display=False) as counter,
    ):
        module(*map(_to_meta, inputs))
    flops = float(counter.get_total_flops())
    return Count(flops, flops / 2)


def calflops(module: nn.Module, *inputs: Tensor) -> Count:
    """One forward pass by the package calflops; not installed: :class:`InputError`."""
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
    # under torch.device(...) operators and activations would count twice
    with torch.no_grad(), _ShapesOnly(tallies):
        flops, macs, _ = package.calculate_flops(
            module, args=args, print_results=False, output_as_string=False
        )
    return Count(float(flops), float(macs))


def _register_once(module: nn.Module) -> None:
    """A module that stands under two names, as transformers' heads do, counts once; it stays an
    attribute under both.
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
