"""Records one forward pass of a module as a list of ATen calls, from which the ONNX graph is built.

A ``TorchDispatchMode`` sees every ATen call. Calls that do not depend on the input are not
recorded: their results become constants, so that position tables, proposals and other fixed values
are folded. Custom operators are replaced by their decompositions. Branches on values and in-place
writes, which a graph cannot express, raise an error. ``torch.onnx.export`` is not used because of
its duration: for the pico subnet, on one busy core, 18 s were measured, for ``torch.export`` alone
6 s, and for this module 0.1 s; a campaign exports dozens of subnets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rfdetr_repro.model.linear import plain_linear


class Call(NamedTuple):
    """One ATen call that depends on the input."""

    op: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]


class Trace(NamedTuple):
    """``calls`` in order; tensors are identified by ``id``; any tensor that no call produced is a
    constant (or the input).
    """

    calls: list[Call]
    input: Tensor
    outputs: tuple[Tensor | None, ...]
    parameters: dict[str, Tensor]  # qualified name -> parameter or buffer


class TraceError(RuntimeError):
    """The module does something that a graph with static shapes cannot express; a bug in this
    project rather than a user's error.
    """


aten = torch.ops.aten
_SHAPE_ONLY = {  # operators whose results depend on a tensor's shape only
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}


class _Recorder(TorchDispatchMode):
    def __init__(self, source: Tensor, decompositions: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.decompositions = decompositions
        self.traced = {id(source): source}  # keeps the tensors alive, so that no id is used twice
        self.storages = {source.untyped_storage().data_ptr()}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.decompositions:
            with self:
                return self.decompositions[func](*args, **kwargs)
        with self:  # inside a decomposition, composite operators arrive undivided
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        depends = (
            any(self._is_traced(tensor, func) for tensor in inputs) and func not in _SHAPE_ONLY
        )
        result = func(*args, **kwargs)
        if depends:
            if func._schema.is_mutable:
                raise TraceError(f"{func} writes in place; an artifact cannot")
            outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
            if not outputs:
                raise TraceError(
                    f"{func} turns a traced tensor into a Python number; the graph would be fixed "
                    f"to this image"
                )
            self.calls.append(Call(func, args, kwargs, outputs))
            self.traced.update((id(tensor), tensor) for tensor in outputs)
            self.storages.update(
                tensor.untyped_storage().data_ptr() for tensor in outputs if tensor.numel()
            )
        return result

    def _is_traced(self, tensor: Tensor, func: Any) -> bool:
        if id(tensor) in self.traced:
            return True
        if tensor.numel() and tensor.untyped_storage().data_ptr() in self.storages:
            raise TraceError(
                f"an argument of {func} lost its identity; it would be frozen into a constant"
            )
        return False


def trace(
    module: nn.Module,
    source: Tensor,
    run: Callable[[Tensor], tuple[Tensor | None, ...]],
    decompositions: Mapping[Any, Any],
) -> Trace:
    """Runs ``run(source)``, which calls ``module`` on the CPU, once, and records the calls that
    depend on ``source``.
    """
    recorder = _Recorder(source, decompositions)
    with torch.no_grad(), plain_linear(), sdpa_kernel(SDPBackend.FLASH_ATTENTION), recorder:
        outputs = run(source)
    for output in outputs:
        if output is not None and id(output) not in recorder.traced:
            raise TraceError("an output does not depend on the input")
    return Trace(
        recorder.calls, source, outputs, dict((*module.named_parameters(), *module.named_buffers()))
    )
