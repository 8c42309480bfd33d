"""The float32 linear layer on the AMX unit: as exact as float32, and used only where it may be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import assert_same_for_any_threads
from samples_linear import changed_layers, error, example
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rfdetr_repro.model import linear
from rfdetr_repro.model.linear import Linear
from rfdetr_repro.ops import HAS_SPLIT_LINEAR, split_linear, split_linear_pack

needs_amx = pytest.mark.skipif(not HAS_SPLIT_LINEAR, reason="this processor has no AMX-BF16")
# rows, inputs, outputs
SHAPES = [
    (580, 384, 1152),
    (33, 64, 91),
    (1, 32, 4),
    (47, 1024, 64),
    (17, 544, 33),
    (70, 1536, 384),
]


@needs_amx
@pytest.mark.parametrize("gelu", [False, True], ids=["linear", "gelu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_three_parts_are_as_exact_as_float32(shape: tuple[int, int, int], gelu: bool) -> None:
    x, weight, bias = example(*shape)
    exact = F.linear(x.double(), weight.double(), bias.double())
    plain = F.linear(x, weight, bias)
    if gelu:
        exact, plain = F.gelu(exact), F.gelu(plain)
    found = split_linear(x, split_linear_pack(weight, 3), bias, gelu)
    assert found.shape == plain.shape and found.dtype == torch.float32
    # a quarter of the last bit of 1
    assert error(found, exact) <= 1.1 * error(plain, exact) + 2.0**-25


@needs_amx
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_parts_keep_sixteen_bits(shape: tuple[int, int, int]) -> None:
    x, weight, bias = example(*shape)
    exact = F.linear(x.double(), weight.double(), bias.double())
    allowed = 2.0**-16 * F.linear(x.abs(), weight.abs()) + 1e-6
    assert bool(
        ((split_linear(x, split_linear_pack(weight, 2), bias) - exact).abs() <= allowed).all()
    )


@needs_amx
def test_gelu_over_its_whole_range() -> None:
    x = torch.cat(
        [
            torch.linspace(-30, 30, 6001),
            torch.tensor([0.0, -0.0, 1e-30, -1e-30, float("inf"), float("nan")]),
        ]
    )
    wide = torch.zeros(len(x), 32)
    wide[:, 0] = x
    identity = torch.zeros(32, 32)
    identity[0, 0] = 1
    with_nan = split_linear(wide, split_linear_pack(identity, 3), torch.zeros(32), True)[:, 0]
    assert bool(with_nan[-1].isnan())
    found = with_nan[:-2]
    exact = F.gelu(x[:-2].double())
    assert bool(((found - exact).abs() <= 4e-7 * x[:-2].abs().clamp(min=1)).all())


@needs_amx
def test_rows_do_not_depend_on_each_other_nor_on_threads() -> None:
    x, weight, bias = example(100, 1536, 96)
    packed = split_linear_pack(weight, 3)
    whole = split_linear(x, packed, bias)
    assert_same_for_any_threads(lambda: [split_linear(x, packed, bias)])
    assert torch.equal(split_linear(x[40:57], packed, bias), whole[40:57])
    x[3, 5] = float("nan")
    broken = split_linear(x, packed, bias)
    assert bool(broken[3].isnan().all()) and torch.equal(broken[4:], whole[4:])


@needs_amx
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_linear_pack(torch.zeros(4, 33), 3), "multiple of 32"),
        (lambda: split_linear_pack(torch.zeros(4, 32), 4), "parts must be 2 or 3"),
        (lambda: split_linear_pack(torch.zeros(4, 32, dtype=torch.float64), 3), "float32"),
        (
            lambda: split_linear(
                torch.zeros(2, 64), split_linear_pack(torch.zeros(4, 32), 3), torch.zeros(4)
            ),
            "must come from",
        ),
        (
            lambda: split_linear(
                torch.zeros(2, 32), split_linear_pack(torch.zeros(4, 32), 3), torch.zeros(40)
            ),
            "must come from",
        ),
        (
            lambda: split_linear(
                torch.zeros(2, 2, 32), split_linear_pack(torch.zeros(4, 32), 3), torch.zeros(4)
            ),
            "rows, inputs",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts of every split product made."""
    made: list[int] = []

    def counted(x: Tensor, packed: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
        made.append(packed.shape[-1] // 1024)
        return split_linear(x, packed, bias, gelu)

    monkeypatch.setattr(linear, "split_linear", counted)
    return made


@needs_amx
def test_gradients_in_training(calls: list[int]) -> None:
    """Outputs and the gradient of the inputs are split products of the weight as it is, packed anew
    each time.
    """
    layer = Linear(64, 96)
    x = torch.randn(20, 64, requires_grad=True)
    upstream = torch.randn(20, 96)
    arguments = (x, layer.weight, layer.bias)
    for _ in range(2):
        ours = torch.autograd.grad(layer(x), arguments, upstream)
        wide = [tensor.detach().double().requires_grad_() for tensor in arguments]
        expected = torch.autograd.grad(torch.nn.functional.linear(*wide), wide, upstream.double())
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)
        layer.weight.data.add_(1)
    assert calls == [3, 3, 3, 3]


@needs_amx
def test_used_for_float32_only(calls: list[int]) -> None:
    layer = Linear(64, 96)
    x = torch.randn(20, 64)
    with torch.no_grad():
        layer(x[:15]), layer.double()(x.double()), layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        assert not calls
        with FlopCounterMode(display=False) as counter:
            layer(x)
        assert calls == [3] and counter.get_total_flops() == 2 * 20 * 64 * 96
        exported = torch.export.export(layer, (x,))
    assert calls == [3] and all("split" not in str(node.target) for node in exported.graph.nodes)


@needs_amx
def test_precision_high_takes_two_parts(calls: list[int]) -> None:
    layer = Linear(64, 96)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with torch.inference_mode():
            layer(torch.randn(20, 64))
    finally:
        torch.set_float32_matmul_precision(before)
    assert calls == [2]


@needs_amx
def test_a_changed_weight_is_packed_again() -> None:
    x = torch.randn(20, 64)
    for change, layer in changed_layers(x):
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), msg=change)


def test_without_the_unit_it_is_the_plain_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "HAS_SPLIT_LINEAR", False)
    monkeypatch.setattr(linear, "HAS_PACKED_LINEAR", False)
    layer = Linear(64, 96, gelu=True)
    x = torch.randn(20, 64)
    with torch.inference_mode():
        assert torch.equal(layer(x), F.gelu(F.linear(x, layer.weight, layer.bias)))
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.skipif(HAS_SPLIT_LINEAR, reason="this processor has AMX-BF16")
def test_without_the_unit_the_op_says_so() -> None:
    with pytest.raises(RuntimeError, match="AMX"):
        split_linear_pack(torch.zeros(4, 32), 3)


@needs_amx
def test_exporters_see_the_plain_layer(calls: list[int]) -> None:
    layer = Linear(64, 96)
    x = torch.randn(20, 64)
    with torch.no_grad():
        with linear.plain_linear():
            layer(x)
        assert not calls
        layer(x)
    assert calls == [3]
