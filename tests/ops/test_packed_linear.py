"""The float32 linear layer of packed weights: as exact as float32, used only where it may be."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from samples import assert_same_for_any_threads
from samples_linear import changed_layers, error, example
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rfdetr_repro.model import linear
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.linear import Linear
from rfdetr_repro.model.projector import ConvNorm, neighbourhoods
from rfdetr_repro.ops import packed_linear, packed_linear_pack
from rfdetr_repro.spec.presets import preset

# rows, inputs, outputs: whole and broken blocks of rows, chunks and blocks of inputs, panels
SHAPES = [
    (580, 384, 1152),
    (37, 1537, 100),
    (1, 1, 1),
    (7, 5, 3),
    (300, 2048, 256),
    (131, 520, 49),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_as_exact_as_float32(shape: tuple[int, int, int]) -> None:
    x, weight, bias = example(*shape)
    exact = F.linear(x.double(), weight.double(), bias.double())
    plain = F.linear(x, weight, bias)
    found = packed_linear(x, packed_linear_pack(weight), bias)
    assert found.shape == plain.shape and found.dtype == torch.float32
    # chunks of inputs have an error of their own; a quarter of the last bit of 1
    assert error(found, exact) <= 2 * error(plain, exact) + 2.0**-25


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_what_follows_the_product(activation: str, scaled: bool, added: bool) -> None:
    x, weight, bias = example(29, 70, 43)
    scale = torch.linspace(-2, 2, 43) if scaled else None
    residual = torch.randn(29, 43) if added else None
    exact = F.linear(x.double(), weight.double(), bias.double())
    exact = {"none": lambda y: y, "relu": F.relu, "gelu": F.gelu}[activation](exact)
    exact = exact if scale is None else exact * scale
    exact = exact if residual is None else exact + residual
    found = packed_linear(x, packed_linear_pack(weight), bias, activation, scale, residual)
    torch.testing.assert_close(found.double(), exact, atol=3e-6, rtol=3e-6)


def test_activations_over_their_whole_range() -> None:
    x = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([0.0, -0.0, 1e-30, -1e-30])])
    wide = torch.cat([x, torch.tensor([float("inf"), float("nan")])])[:, None]
    identity = packed_linear_pack(torch.ones(1, 1))
    found = packed_linear(wide, identity, torch.zeros(1), "gelu")[:, 0]
    assert bool(found[-1].isnan())
    exact = F.gelu(x.double())
    assert bool(((found[:-2] - exact).abs() <= 4e-7 * x.abs().clamp(min=1)).all())
    relu = packed_linear(wide, identity, torch.zeros(1), "relu")[:, 0]
    assert torch.equal(relu[:-1], F.relu(wide[:-1, 0])) and bool(relu[-1].isnan())


def test_rows_do_not_depend_on_each_other_nor_on_threads() -> None:
    x, weight, bias = example(100, 1536, 200)
    packed = packed_linear_pack(weight)
    whole = packed_linear(x, packed, bias, "gelu")
    assert_same_for_any_threads(lambda: [packed_linear(x, packed, bias, "gelu")])
    assert torch.equal(packed_linear(x[40:57], packed, bias, "gelu"), whole[40:57])
    x[3, 5] = float("nan")
    broken = packed_linear(x, packed, bias, "gelu")
    assert bool(broken[3].isnan().all()) and torch.equal(broken[4:], whole[4:])


def test_any_strides() -> None:
    x, weight, bias = example(50, 64, 40)
    expected = packed_linear(x, packed_linear_pack(weight), bias)
    wide = torch.zeros(50, 200)
    wide[:, 7:71] = x
    assert torch.equal(packed_linear(wide[:, 7:71], packed_linear_pack(weight), bias), expected)
    turned = x.t().contiguous().t()
    assert torch.equal(packed_linear(turned, packed_linear_pack(weight), bias), expected)
    assert torch.equal(packed_linear_pack(weight.t().contiguous().t()), packed_linear_pack(weight))
    assert packed_linear(x[:0], packed_linear_pack(weight), bias).shape == (0, 40)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w, b: packed_linear_pack(w.double()), "float32"),
        (lambda x, w, b: packed_linear_pack(w[:0]), "empty"),
        (lambda x, w, b: packed_linear(x[:, :3], packed_linear_pack(w), b), "must come from"),
        (lambda x, w, b: packed_linear(x, packed_linear_pack(w), b.new_zeros(99)), "must come"),
        (lambda x, w, b: packed_linear(x[None], packed_linear_pack(w), b), "rows, inputs"),
        (lambda x, w, b: packed_linear(x, packed_linear_pack(w), b, "relu", b[:2]), "scale must"),
        (
            lambda x, w, b: packed_linear(x, packed_linear_pack(w), b, residual=x[:, :2]),
            "residual must",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(*example(4, 8, 5))


@pytest.fixture
def packed_only(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Linear layers use packed weights on any processor; the number of outputs of each product."""
    made: list[int] = []

    def counted(*args, **kwargs) -> Tensor:
        made.append(len(args[2]))
        return packed_linear(*args, **kwargs)

    monkeypatch.setattr(linear, "HAS_SPLIT_LINEAR", False)
    monkeypatch.setattr(linear, "HAS_PACKED_LINEAR", True)
    monkeypatch.setattr(linear, "packed_linear", counted)
    return made


def test_used_for_float32_inference_only(packed_only: list[int]) -> None:
    layer = Linear(64, 96)
    x = torch.randn(20, 64)
    layer(x).sum().backward()
    with torch.no_grad():
        layer(x[:15]), layer.double()(x.double()), layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        with linear.plain_linear():
            layer(x)
        assert not packed_only
        with FlopCounterMode(display=False) as counter:
            layer(x)
        assert packed_only == [96] and counter.get_total_flops() == 2 * 20 * 64 * 96
        exported = torch.export.export(layer, (x,))
    assert all("packed" not in str(node.target) for node in exported.graph.nodes)


def test_a_changed_weight_is_packed_again(packed_only: list[int]) -> None:
    x = torch.randn(20, 64)
    for change, layer in changed_layers(x):
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), msg=change)
    assert len(packed_only) == 8


@pytest.mark.parametrize("side", [1, 3])
def test_a_convolution_is_a_product_of_neighbourhoods(side: int, packed_only: list[int]) -> None:
    block = ConvNorm(12, 40, side)
    maps = torch.randn(2, 12, 19, 11)
    with torch.no_grad():
        with linear.plain_linear():
            expected = block(maps)
        assert not packed_only
        for given in (maps, maps.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(block(given), expected, atol=2e-6, rtol=2e-6)
    assert packed_only == [40, 40]
    taken = neighbourhoods(maps.permute(0, 2, 3, 1), side).unflatten(-1, (side * side, 12))
    assert torch.equal(taken[..., side * side // 2, :], maps.permute(0, 2, 3, 1))


@pytest.mark.parametrize("layer_scale", [False, True])
def test_a_detector_computes_the_same(layer_scale: bool, packed_only: list[int]) -> None:
    """Backbone with windows and resampled positions, projector, selection and decoder."""
    row = preset("pico")
    detector = Detector(replace(row.model, layer_scale=layer_scale), row.arch).eval()
    for parameter in detector.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    larger = replace(row.arch, resolution=row.arch.resolution + row.arch.patch * 2)
    for arch in (row.arch, larger):
        images = torch.randn(2, 3, *arch.input_hw)
        with torch.inference_mode():
            with linear.plain_linear():
                maps = detector.features(images, arch.patch, arch.windows)
                expected = detector(images, arch)
            found = detector.features(images, arch.patch, arch.windows)
            outputs = detector(images, arch)
        for ours, plain in zip(found, maps, strict=True):
            torch.testing.assert_close(ours, plain, atol=2e-5, rtol=2e-5)
        # the choice of tokens may differ where two are equally confident: compare as sets
        ours, plain = (part.logits.flatten().sort().values for part in (outputs, expected))
        torch.testing.assert_close(ours, plain, atol=2e-4, rtol=2e-4)
    assert len(packed_only) > 20


_EVERY_ISA = """
import torch, rfdetr_repro.ops as ops
assert ops.build_info()["isa"] == {isa!r}, ops.build_info()
torch.manual_seed(0)
x, weight, bias, scale = (torch.randn(*s) for s in ((45, 300), (70, 300), (70,), (70,)))
residual = torch.randn(45, 70)
exact = torch.nn.functional.gelu(x.double() @ weight.double().t() + bias) * scale + residual
found = ops.packed_linear(x, ops.packed_linear_pack(weight), bias, "gelu", scale, residual)
torch.testing.assert_close(found.double(), exact, atol=2e-4, rtol=2e-5)
"""


@pytest.mark.parametrize("isa", ["sse4.1", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    script = _EVERY_ISA.format(isa=isa)
    environment = {**os.environ, "RFDETR_ISA": isa}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    if "'isa': 'unknown'" in ran.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert ran.returncode == 0, ran.stderr
