"""The operator inside transformers' and rfdetr's models: values and gradients are the models' own,
one model alone changes, and everything is put back.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from samples_accelerate import FAMILIES, tiny
from torch import Tensor, nn

from rfdetr_repro.ops import InputError, accelerate, ms_deform_attn
from rfdetr_repro.ops import deform_attn as operator_module

pytest.importorskip("transformers.models.rf_detr", reason="transformers (>= 5) is not installed")

TOLERANCE = 1e-5
VERSIONS_VARIABLE = "RFDETR_VERSIONS"  # names a folder with a folder for each version of rfdetr


def tensors_of(outputs: Any) -> dict[str, Tensor]:
    """The floating-point tensors of a model's outputs by name, those in lists too."""
    found = {}
    for name, value in outputs.items():
        parts = value if isinstance(value, tuple | list) else [value]
        for number, part in enumerate(parts):
            if isinstance(part, Tensor) and part.is_floating_point():
                found[f"{name} {number}"] = part
    return found


def values_and_gradients(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Every output, and the gradient of every parameter for a fixed upstream gradient."""
    model.zero_grad(set_to_none=True)
    for cache in ("language_cache_class", "language_cache_prompt"):  # of OmDet, between calls
        if hasattr(model, cache):
            getattr(model, cache).cache.clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(next(model.parameters()).dtype)  # of what OmDet makes on the way
    try:
        outputs = tensors_of(model(**inputs))
    finally:
        torch.set_default_dtype(before)
    total = torch.zeros(())
    for output in outputs.values():
        if output.requires_grad and torch.isfinite(output).all():
            total = (
                total + (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum()
            )
    total.backward()
    found = {name: output.detach() for name, output in outputs.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad.clone()
    return found


def assert_equal_to(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = TOLERANCE
) -> None:
    """Equal to ``tolerance`` of the largest number of each tensor, if that is above 1."""
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        finite = one[torch.isfinite(one)]
        scale = max(1.0, finite.detach().abs().max().item()) if finite.numel() else 1.0
        torch.testing.assert_close(
            found[name] / scale,
            one / scale,
            atol=tolerance,
            rtol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def in_float64(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Makes the model float64, and returns its inputs so: rounding of a whole network is away."""
    model.double()
    return {
        name: value.double() if value.is_floating_point() else value
        for name, value in inputs.items()
    }


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operator calls made from now on."""
    calls: list[str] = []
    plain = operator_module._call

    def call(op: Any, *rest: Any) -> Tensor:
        calls.append(str(op))
        return plain(op, *rest)

    monkeypatch.setattr(operator_module, "_call", call)
    return calls


def state(model: nn.Module) -> list[tuple[str, type, list[str]]]:
    """What could be left behind: the class and the attributes of every module."""
    return [(name, type(part), sorted(vars(part))) for name, part in model.named_modules()]


@pytest.mark.parametrize("name", FAMILIES)
def test_values_and_gradients_are_the_models_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = tiny(name)
    count = FAMILIES[name][2]
    with torch.no_grad():
        single = tensors_of(model(**inputs))
        with accelerate(model):
            assert_equal_to(tensors_of(model(**inputs)), single)
    inputs = in_float64(model, inputs)
    expected = values_and_gradients(model, inputs)
    before = state(model)
    keys = list(model.state_dict())
    done = accelerate(model)
    assert len(done.replaced) == count
    assert all(0 <= one.difference <= TOLERANCE for one in done.replaced)
    assert str(done).count("\n") == count
    calls = counting(monkeypatch)
    assert_equal_to(values_and_gradients(model, inputs), expected, 1e-9)
    assert len(calls) >= count
    assert list(model.state_dict()) == keys
    done.undo()
    calls.clear()
    again = values_and_gradients(model, inputs)
    assert calls == [] and state(model) == before
    assert all(torch.equal(again[name], one) for name, one in expected.items())


def test_every_model_of_the_installed_transformers_is_tested() -> None:
    """A family with the attention that transformers adds must be tested here."""
    models = importlib.import_module("transformers.models")
    found = set()
    for family in pkgutil.iter_modules(models.__path__):
        file = Path(models.__path__[0], family.name, f"modeling_{family.name}.py")
        if file.is_file() and "MultiscaleDeformableAttention(nn.Module)" in file.read_text("utf-8"):
            found.add(family.name)
    assert len(found) >= 10
    assert found <= {name.split()[0] for name in FAMILIES}


def test_one_model_alone_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rf_detr", "d_fine", "mask2former"):
        first, inputs = tiny(name)
        second, _ = tiny(name)
        calls = counting(monkeypatch)
        with accelerate(first):
            calls.clear()  # of the comparison
            second(**inputs)
            assert calls == []
            first(**inputs)
            assert calls
        monkeypatch.undo()


def test_two_models_are_undone_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    first, inputs = tiny("rt_detr_v2")
    second, _ = tiny("rt_detr_v2")
    one, other = accelerate(first), accelerate(second)
    one.undo()
    calls = counting(monkeypatch)
    first(**inputs)
    assert calls == []
    second(**inputs)
    assert calls
    other.undo()


@pytest.mark.parametrize("name", ["rf_detr", "deimv2", "oneformer"])
@pytest.mark.parametrize("outer_first", [False, True])
def test_nested(name: str, outer_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny(name)
    before = state(model)
    outer = accelerate(model)
    inner = accelerate(model)
    assert inner.replaced == outer.replaced
    order = (outer, inner) if outer_first else (inner, outer)
    order[0].undo()
    order[0].undo()  # a second time does nothing
    calls = counting(monkeypatch)
    model(**inputs)
    assert calls
    order[1].undo()
    assert state(model) == before


def test_undone_after_an_exception() -> None:
    model, inputs = tiny("mask2former")
    before = state(model)
    with pytest.raises(ZeroDivisionError), accelerate(model) as done:
        model(**inputs)
        assert done.replaced
        raise ZeroDivisionError
    assert state(model) == before


def test_part_of_an_accelerated_model_and_the_whole() -> None:
    model, inputs = tiny("grounding_dino")
    before = state(model)
    expected = tensors_of(model(**inputs))
    part = accelerate(model.model.decoder)
    whole = accelerate(model)
    assert len(part.replaced) < len(whole.replaced)
    assert_equal_to(tensors_of(model(**inputs)), expected)
    part.undo()
    whole.undo()
    assert state(model) == before


@pytest.mark.parametrize("name", ["rf_detr", "rt_detr_v2", "d_fine"])
def test_a_deep_copy_is_accelerated_and_independent(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = tiny(name)
    before = state(model)
    with accelerate(model):
        other = copy.deepcopy(model)
    assert state(model) == before
    calls = counting(monkeypatch)
    other(**inputs)
    assert calls
    with torch.no_grad():  # the copy reads its own parameters
        for parameter in other.parameters():
            parameter.mul_(1.25)
    changed = tensors_of(other(**inputs))
    accelerate(other).undo()
    calls.clear()
    assert_equal_to(tensors_of(other(**inputs)), changed)
    assert calls == [] and state(other) == before


def test_hooks_still_run_and_training_mode_too() -> None:
    model, inputs = tiny("rf_detr")
    seen: list[str] = []
    for part in model.modules():
        if type(part).__name__ == "MultiScaleDeformableAttention":
            part.register_forward_hook(lambda *_: seen.append("hook"))
    model.train()
    with accelerate(model):
        model(**inputs).logits.sum().backward()
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["rf_detr", "rt_detr_v2", "mask2former"])
def test_types_are_the_models_own(name: str) -> None:
    """In bfloat16 and under autocast, outputs have the type that they have without."""
    for kind in (torch.bfloat16, None):
        model, inputs = tiny(name)
        model.to(kind or torch.float32)
        images = inputs["pixel_values"].to(kind or torch.float32)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind is None):
            expected = tensors_of(model(images))
            with accelerate(model):
                found = tensors_of(model(images))
        assert {key: one.dtype for key, one in found.items()} == {
            key: one.dtype for key, one in expected.items()
        }


def test_exported_with_the_operator_inside() -> None:
    model, _ = tiny("mask2former")
    attention = next(part for part in model.modules() if hasattr(part, "sampling_offsets"))

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, states: Tensor, points: Tensor) -> Tensor:
            sizes = [(4, 4), (2, 2), (1, 1)]
            return self.attention(
                states,
                encoder_hidden_states=states,
                reference_points=points,
                spatial_shapes_list=sizes,
            )[0]

    inputs = (torch.randn(1, 21, 32), torch.rand(1, 21, 3, 2))
    expected = One()(*inputs)
    with accelerate(attention):
        program = torch.export.export(One(), inputs)
    assert "rfdetr.ms_deform_attn" in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_the_program_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "accelerate.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    exec(compile(block, str(page), "exec"), {})
    assert "2 deformable attentions on the operator" in capsys.readouterr().out


# what is refused


def unchanged_and_refused(model: Any, told: str) -> None:
    before = state(model) if isinstance(model, nn.Module) else None
    with pytest.raises(InputError, match=told) as raised:
        accelerate(model)
    assert "\n" not in str(raised.value)
    if before is not None:
        assert state(model) == before


def test_nothing_to_accelerate() -> None:
    unchanged_and_refused(nn.Linear(2, 2), r"no deformable attention to accelerate \(Linear\)")
    unchanged_and_refused("model.pt", r"only a PyTorch module can be accelerated \(str\)")
    unchanged_and_refused(None, r"only a PyTorch module can be accelerated \(NoneType\)")


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sampling_offsets = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


def multi_scale_deformable_attention(
    value: Tensor, value_spatial_shapes: Any, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """As others have it, but with the corners of the map where ``align_corners=True`` puts them."""
    sides = torch.tensor([[width, height] for height, width in value_spatial_shapes])
    moved = (sampling_locations * (sides - 1)[:, None] + 0.5) / sides[:, None]
    return ms_deform_attn(value, value_spatial_shapes, moved, attention_weights)


class Different(nn.Module):
    def forward(self, *arguments: Any) -> Tensor:
        return multi_scale_deformable_attention(*arguments)


def test_an_unknown_kind_is_refused_and_nothing_changes() -> None:
    model, _ = tiny("rf_detr")
    both = nn.ModuleDict({"known": model, "unknown": Unknown()})
    unchanged_and_refused(both, r"Unknown is a deformable attention of an unknown kind \(unknown\)")


def test_another_computation_is_refused_and_nothing_changes() -> None:
    model, _ = tiny("rf_detr")
    both = nn.ModuleDict({"known": model, "other": Different()})
    unchanged_and_refused(both, r"Different computes something else than the operator.*\(other\)")


def test_a_replaced_forward_is_refused() -> None:
    model, _ = tiny("rf_detr")
    attention = model.model.decoder.layers[0].cross_attn.attn
    attention.forward = lambda *arguments: arguments[0]
    unchanged_and_refused(model, "forward of MultiScaleDeformableAttention has been replaced")


def test_a_compiled_model_is_refused() -> None:
    model, _ = tiny("rf_detr")
    unchanged_and_refused(torch.compile(model), "the model is compiled already")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_scripted_model_is_refused() -> None:
    scripted = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    unchanged_and_refused(scripted, "a TorchScript module cannot be changed")


# the rfdetr package, of which any version may be installed


def upstream_versions() -> list[Path]:
    """Folders with the package ``rfdetr``: the installed version, and others as they are unpacked
    from wheels.
    """
    installed = importlib.util.find_spec("rfdetr")
    found = [Path(installed.origin).parents[1]] if installed and installed.origin else []
    unpacked = os.environ.get(VERSIONS_VARIABLE)
    return found + (sorted(Path(unpacked).glob("*/")) if unpacked else [])


VERSIONS = upstream_versions()


def upstream_attention(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module MSDeformAttn of a version, without the rest of the package, which wants more."""
    for name in [name for name in sys.modules if name.split(".")[0] == "rfdetr"]:
        monkeypatch.delitem(sys.modules, name)
    for package in ("rfdetr", "rfdetr.models", "rfdetr.utilities"):
        spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__path__ = [str(folder.joinpath(*package.split(".")))]
        monkeypatch.setitem(sys.modules, package, module)
    if importlib.util.find_spec("torchvision") is None:  # imported for what is not used here
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    try:
        return importlib.import_module("rfdetr.models.ops.modules.ms_deform_attn").MSDeformAttn
    except ImportError as error:
        pytest.skip(f"{folder.name}: {error}")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.skipif(
    not VERSIONS, reason=f"rfdetr is not installed, and {VERSIONS_VARIABLE} names no folder"
)
@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_the_attention_of_rfdetr(
    folder: Path, exported: bool, coordinates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = upstream_attention(folder, monkeypatch)(32, 2, 4, 3)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    if exported and not hasattr(attention, "export"):
        pytest.skip("this version has no export mode")
    if exported:
        attention.export()
    sizes = [(5, 4), (3, 2)]
    arguments = [
        torch.randn(2, 7, 32),
        torch.rand(2, 7, 2, coordinates),
        torch.randn(2, 26, 32),
        torch.tensor(sizes),
        torch.tensor([0, 20]),
    ]
    more = {}
    if "input_spatial_shapes_hw" in type(attention).forward.__code__.co_varnames:
        more["input_spatial_shapes_hw"] = sizes

    def run() -> dict[str, Tensor]:
        attention.zero_grad(set_to_none=True)
        out = attention(*arguments, **more)
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
        gradients = {name: one.grad.clone() for name, one in attention.named_parameters()}
        return {"out": out.detach(), **gradients}

    expected = run()
    calls = counting(monkeypatch)
    with accelerate(attention) as done:
        calls.clear()  # of the comparison
        found = run()
    assert len(done.replaced) == 1 and len(calls) == 1
    assert_equal_to(found, expected)


def test_a_wrapper_as_rfdetr_has_it() -> None:
    class Inner:
        model, inputs = tiny("rf_detr")

    class Outer:
        model = Inner()

    with accelerate(Outer()) as done:
        assert done.model == "RfDetrForObjectDetection" and len(done.replaced) == 2
