"""The compiled operator inside other people's models: their deformable attention is replaced in one
model, and put back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, MethodType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .deform_attn import DEVICES
from .distribution import InputError
from .foreign_forms import FORMS, Form, form_of
from .library import build_info

_MARK = "_rfdetr_accelerated"  # the attribute of a module that holds what was there before
_TOLERANCE = 1e-5  # of outputs; the gradients of locations are larger by the side of the map
BY_NAME: dict[str, list[Form]] = {}  # name of a function -> the forms that it can have
for _form in FORMS:
    for _name in _form.functions:
        BY_NAME.setdefault(_name, []).append(_form)
_OTHERS_CUDA = {"MSDeformAttnFunction", "MultiScaleDeformableAttnFunction"}
_SUPPORTED = (
    "RF-DETR, LW-DETR, RT-DETR and v2, D-FINE, DEIMv2, Deformable DETR, (MM) Grounding DINO, "
    "OmDet, Mask2Former, OneFormer, PP-DocLayout of transformers, and rfdetr are known"
)


@dataclass(frozen=True)
class Replaced:
    """One deformable attention that runs on the compiled operator.

    ``name`` is the module's place in the model, ``kind`` its class, ``form`` the signature under
    which it was replaced, ``difference`` the largest difference of outputs found when the two were
    compared on random input, relative to the largest output.
    """

    name: str
    kind: str
    form: str
    difference: float


class Acceleration:
    """What :func:`accelerate` replaced; a context manager that puts the model back at its end."""

    def __init__(self, model: str, replaced: tuple[Replaced, ...], modules: list[nn.Module]):
        """``model`` is the class of the model, ``modules`` the modules that hold replacements."""
        self.model = model
        self.replaced = replaced
        self._modules = modules

    def undo(self) -> None:
        """Puts the model's own attention back. A second call does nothing; what another
        :func:`accelerate` of the same model still needs stays until that one is undone too.
        """
        while self._modules:
            _release(self._modules.pop())

    def __enter__(self) -> Acceleration:
        """The acceleration itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undoes the acceleration, after an exception too."""
        self.undo()

    def __str__(self) -> str:
        """One line for each replaced module, for people."""
        lines = [f"{self.model}: {len(self.replaced)} deformable attentions on the operator"]
        lines += [f"  {one.name} ({one.kind}, {one.form})" for one in self.replaced]
        return "\n".join(lines)


@dataclass
class _Held:
    """What an attribute of a module was before, and how many accelerations need the new value."""

    attribute: str
    had: bool
    previous: Any
    replaced: Replaced
    count: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        """A copied model is accelerated, and no acceleration owns that: the next one does."""
        previous = copy.deepcopy(self.previous, memo)
        return _Held(self.attribute, self.had, previous, self.replaced)


@dataclass
class _Place:
    """Where a module keeps its attention: the attribute, the function found, and the new value."""

    attribute: str
    form: Form
    original: Callable[..., Tensor]
    new: Any
    found: float = field(default=0.0)


def accelerate(model: Any) -> Acceleration:
    """Lets every deformable attention of ``model`` run on the compiled operator, forward and
    backward, on the CPU and on a GPU.

    ``model`` is a PyTorch module: a detector of transformers, of the ``rfdetr`` package (an
    ``RFDETR`` object stands for the module inside it), or a module that holds one. Only this model
    changes: neither its class, nor its parameters, its ``state_dict`` or its hooks. Before anything
    changes, each kind of attention found is compared with the operator on random input, values and
    gradients. The result says what was replaced; its ``undo()``, or the end of a ``with`` block,
    puts everything back. Accelerations of one model may be nested; a deep copy of an accelerated
    model is accelerated.

    Outputs and gradients equal the model's own to about 1e-5 in float32. At a location exactly on a
    pixel's centre, where the derivative jumps, the gradient is that of one side. Call it before
    ``torch.compile``, and before a tool that replaces ``forward`` of modules.

    Raises :class:`InputError`, and changes nothing, for a model without deformable attention, for
    one whose attention is of an unknown kind or differs from the operator, and for a device without
    kernels.
    """
    module = _module(model)
    _check_device(module)
    found = list(_places(module))
    if not found:
        raise InputError("no deformable attention to accelerate", type(module).__name__, _SUPPORTED)
    checked: dict[tuple[Any, str], float] = {}
    for name, owner, place in found:
        if place is not None:
            key = (getattr(place.original, "__func__", place.original), place.form.name)
            if key not in checked:
                checked[key] = _difference(place, name, owner)
            place.found = checked[key]
    replaced = tuple(_hold(name, owner, place) for name, owner, place in found)
    return Acceleration(type(module).__name__, replaced, [owner for _, owner, _ in found])


def _module(model: Any) -> nn.Module:
    """The PyTorch module in ``model``: itself, or what is under ``.model`` of wrappers as rfdetr
    has them.
    """
    inner = model
    for _ in range(3):
        if isinstance(inner, nn.Module):
            break
        inner = getattr(inner, "model", None)
    if not isinstance(inner, nn.Module):
        raise InputError(
            "only a PyTorch module can be accelerated", type(model).__name__, "pass the model"
        )
    if "_orig_mod" in dict(inner.named_children()):
        raise InputError(
            "the model is compiled already",
            type(inner).__name__,
            "accelerate the model first, then call torch.compile",
        )
    if isinstance(inner, torch.jit.ScriptModule):
        raise InputError(
            "a TorchScript module cannot be changed",
            type(inner).__name__,
            "accelerate the model that was scripted or traced",
        )
    return inner


def _check_device(module: nn.Module) -> None:
    devices = {tensor.device.type for tensor in module.parameters()} - {"meta"}
    unknown = sorted(devices - set(DEVICES))
    if unknown:
        raise InputError(
            f"the operators have no kernels for {unknown[0]}", hint="move the model to cpu or cuda"
        )
    if "cuda" in devices and not build_info()["cuda"]:
        raise InputError(
            "the operators were built for the CPU only",
            hint="build them on a machine with nvcc, or move the model to the CPU",
        )


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module, _Place | None]]:
    """(name, module, where its attention is) of every deformable attention; None for the place
    where an earlier acceleration holds it.
    """
    for name, module in model.named_modules():
        if _MARK in vars(module):
            yield name, module, None
            continue
        place = _place(module)
        if place is not None:
            if place.attribute == "forward":
                _check_own_forward(name, module)
            yield name, module, place
        elif _is_deformable(module) and not any(
            _MARK in vars(child) or _place(child) is not None for child in module.children()
        ):
            raise InputError(
                f"{type(module).__name__} is a deformable attention of an unknown kind",
                name or "the model",
                _SUPPORTED,
            )


def _is_deformable(module: nn.Module) -> bool:
    kind = type(module).__name__.lower().replace("_", "")
    return (
        isinstance(getattr(module, "sampling_offsets", None), nn.Module)
        or "msdeform" in kind
        or "multiscaledeform" in kind
    )


def _place(module: nn.Module) -> _Place | None:
    for attribute, value in vars(module).items():  # D-FINE and DEIMv2 keep the function so
        if isinstance(value, FunctionType) and value.__name__ in BY_NAME:
            form = form_of(value, BY_NAME[value.__name__])
            if form is not None:
                return _Place(attribute, form, value, form.call)
    forward = type(module).forward
    if not isinstance(forward, FunctionType):
        return None
    whole = form_of(forward, None)
    if whole is not None:
        return _Place("forward", whole, MethodType(forward, module), whole.call)
    for called in forward.__code__.co_names:
        function = forward.__globals__.get(called)
        if called in BY_NAME and isinstance(function, FunctionType):
            form = form_of(function, BY_NAME[called])
            if form is not None and not _OTHERS_CUDA & set(forward.__code__.co_names):
                return _Place("forward", form, function, _rebound(module, called, form.call))
    return None


def _rebound(module: nn.Module, name: str, function: Callable[..., Tensor]) -> MethodType:
    """The class's own ``forward`` for this instance, in whose eyes the global ``name`` is
    ``function``.
    """
    plain = type(module).forward
    own = FunctionType(
        plain.__code__,
        {**plain.__globals__, name: function},
        plain.__name__,
        plain.__defaults__,
        plain.__closure__,
    )
    own.__kwdefaults__ = plain.__kwdefaults__
    own.__annotations__ = plain.__annotations__
    own.__qualname__ = plain.__qualname__
    own.__module__ = plain.__module__
    own.__doc__ = plain.__doc__
    return MethodType(own, module)


def _check_own_forward(name: str, module: nn.Module) -> None:
    """Refuses a module whose ``forward`` another tool has replaced: its work would be lost."""
    there = vars(module).get("forward")
    if there is not None and getattr(there, "__func__", None) is not type(module).forward:
        raise InputError(
            f"forward of {type(module).__name__} has been replaced already",
            name or "the model",
            "accelerate the model first",
        )


def _difference(place: _Place, name: str, owner: nn.Module) -> float:
    """The largest difference of the module's attention from the operator on random input.

    Raises :class:`InputError` where values or gradients are not equal, or the call fails.
    """
    kind = type(owner).__name__
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            value, gradient = place.form.compare(place.original)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{kind} cannot be called as {place.form.name} ({error})", name, _SUPPORTED
        ) from error
    if not (value <= _TOLERANCE and gradient <= 10 * _TOLERANCE):
        raise InputError(
            f"{kind} computes something else than the operator (largest difference of values "
            f"{value:.1e}, of gradients {gradient:.1e})",
            name or "the model",
            "this kind cannot be accelerated",
        )
    return value


def _hold(name: str, module: nn.Module, place: _Place | None) -> Replaced:
    if place is not None:
        replaced = Replaced(name, type(module).__name__, place.form.name, place.found)
        own = vars(module)
        held = _Held(place.attribute, place.attribute in own, own.get(place.attribute), replaced)
        setattr(module, _MARK, held)
        setattr(module, place.attribute, place.new)
    held = vars(module)[_MARK]
    held.count += 1
    return Replaced(name, held.replaced.kind, held.replaced.form, held.replaced.difference)


def _release(module: nn.Module) -> None:
    held = vars(module).get(_MARK)
    if held is None:
        return
    held.count -= 1
    if held.count > 0:
        return
    if held.had:
        setattr(module, held.attribute, held.previous)
    else:
        delattr(module, held.attribute)
    delattr(module, _MARK)
