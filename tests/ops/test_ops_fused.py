"""ms_deform_attn_fused (softmax and box-relative locations inside), and both attention operators
under vmap and every ISA.
"""

from __future__ import annotations

import pytest
import torch
from samples import DEVICES, LEVELS, assert_same_for_any_threads, flat, fused_inputs, sample_inputs
from torch import Tensor

from rfdetr_repro import ops
from rfdetr_repro.ops import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_fused_reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [8, 16, 5])
def test_values_and_gradients(device: str, dtype: torch.dtype, levels: list, channels: int) -> None:
    inputs = [
        t.requires_grad_()
        for t in fused_inputs(levels, dtype=dtype, device=device, channels=channels)
    ]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    out = ms_deform_attn_fused(inputs[0], levels, *inputs[1:])
    expected = ms_deform_attn_fused_reference(wide[0], levels, *wide[1:])
    assert out.dtype == dtype and out.shape == expected.shape
    assert (out.double() - expected).abs().max() <= TOLERANCE[dtype] * (expected.abs().max() + 1)
    if dtype in (torch.float16, torch.bfloat16):
        return  # rounded offsets move samples over pixel centres, where the slope jumps
    upstream = torch.randn_like(out)
    ours = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(expected, wide, upstream.double())
    for a, b, tensor in zip(ours, theirs, inputs, strict=True):
        assert a.dtype == tensor.dtype
        assert (a.double() - b).abs().max() <= 4 * TOLERANCE[dtype] * (b.abs().max() + 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("empty", ["batch", "queries", "heads", "channels", "points"])
def test_empty(device: str, empty: str) -> None:
    """The gradients are zero, also those of boxes without a head or a channel."""
    boxes = torch.rand(*(0 if empty == name else 2 for name in ("batch", "queries")), 4)
    sizes = {"batch": 2, "queries": 2, "channels": 16, empty: 0}
    value, offsets, logits = sample_inputs(LEVELS[0], dtype=torch.float32, device=device, **sizes)
    inputs = [t.requires_grad_() for t in (value, offsets, boxes.to(device), logits)]
    out = ms_deform_attn_fused(inputs[0], LEVELS[0], *inputs[1:])
    assert out.shape == (*boxes.shape[:2], value.shape[2] * value.shape[3]) and not out.any()
    grads = torch.autograd.grad(out.sum(), inputs)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in inputs]
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_gradcheck_of_both_orders(device: str, levels: list) -> None:
    inputs = [
        t.requires_grad_()
        for t in fused_inputs(levels, dtype=torch.float64, device=device, channels=3, queries=2)
    ]

    def function(value: Tensor, offsets: Tensor, boxes: Tensor, logits: Tensor) -> Tensor:
        return ms_deform_attn_fused(value, levels, offsets, boxes, logits)

    assert torch.autograd.gradcheck(function, inputs, nondet_tol=1e-9, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, nondet_tol=1e-9, fast_mode=True)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device: str) -> None:
    levels = LEVELS[1]
    inputs = [
        t.requires_grad_()
        for t in fused_inputs(levels, dtype=torch.float32, device=device, channels=16)
    ]
    torch.library.opcheck(
        torch.ops.rfdetr.ms_deform_attn_fused.default, (inputs[0], flat(levels), *inputs[1:])
    )
    upstream = torch.randn(2, 3, 48, device=device)
    plain = [t.detach() for t in inputs]
    backward = torch.ops.rfdetr.ms_deform_attn_fused_backward.default
    torch.library.opcheck(backward, (upstream, plain[0], flat(levels), *plain[1:]))


@pytest.mark.parametrize("device", DEVICES)
def test_points_and_logits_that_are_not_finite(device: str) -> None:
    """A point that is nowhere contributes nothing; a NaN logit makes its head's output NaN, as the
    softmax does.
    """
    value, offsets, boxes, logits = fused_inputs(
        LEVELS[0], dtype=torch.float32, device=device, channels=16
    )
    offsets[:] = 0  # the middle of the box
    offsets[0, 1, :, :, 0] = float("inf")
    inputs = [t.requires_grad_() for t in (value, offsets, boxes, logits)]
    out = ms_deform_attn_fused(inputs[0], LEVELS[0], *inputs[1:])
    grads = torch.autograd.grad(out.square().sum(), (value, offsets, logits))
    assert (
        out.isfinite().all()
        and all(g.isfinite().all() for g in grads)
        and not grads[1][0, 1, :, :, 0].any()
    )
    broken = logits.detach().clone()
    broken[0, 0, 1, 0, 0] = float("nan")
    out = ms_deform_attn_fused(value, LEVELS[0], offsets, boxes, broken).unflatten(-1, (3, 16))
    assert out[0, 0, 1].isnan().all() and out[0, 0, 0].isfinite().all()


def test_nan_in_value_stays_where_it_is_read() -> None:
    value, locations, weights = sample_inputs([(4, 4)], channels=16, dtype=torch.float32)
    locations[:] = 0.6  # between pixels 1 and 2 of both axes
    locations[:, 1] = -9.0
    value[:, 0] = float("nan")
    assert ms_deform_attn(value, [(4, 4)], locations, weights).isfinite().all()


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, 0, 0), (1, None, 2)], ids=str)
def test_vmap(in_dims: tuple) -> None:
    levels = LEVELS[1]
    sets = [
        sample_inputs(LEVELS[1], channels=16, dtype=torch.float32, seed=seed) for seed in range(3)
    ]
    stacked = [
        parts[0] if dim is None else torch.stack(parts, dim)
        for parts, dim in zip(zip(*sets, strict=True), in_dims, strict=True)
    ]
    mapped = torch.vmap(lambda v, xy, w: ms_deform_attn(v, levels, xy, w), in_dims=in_dims)(
        *stacked
    )
    for index in range(3):
        one = [
            t if dim is None else t.select(dim, index)
            for t, dim in zip(stacked, in_dims, strict=True)
        ]
        torch.testing.assert_close(mapped[index], ms_deform_attn(one[0], levels, *one[1:]))


def test_vmap_of_the_gradient_operator() -> None:
    """PyTorch's function transforms (grad inside vmap) do not see gradients registered in Python;
    the operator itself maps.
    """
    levels = LEVELS[0]
    backward = torch.ops.rfdetr.ms_deform_attn_fused_backward
    sets = [fused_inputs(levels, dtype=torch.float64, channels=4, seed=seed) for seed in range(2)]
    upstream = torch.randn(2, 2, 3, 12, dtype=torch.float64)
    stacked = [torch.stack(parts) for parts in zip(*sets, strict=True)]
    mapped = torch.vmap(lambda g, v, *rest: backward(g, v, flat(levels), *rest))(upstream, *stacked)
    for index, one in enumerate(sets):
        for a, b in zip(
            mapped, backward(upstream[index], one[0], flat(levels), *one[1:]), strict=True
        ):
            torch.testing.assert_close(a[index], b)


class Layer(torch.nn.Module):
    def forward(self, value: Tensor, offsets: Tensor, boxes: Tensor, logits: Tensor) -> Tensor:
        return 2 * ms_deform_attn_fused(value, LEVELS[1], offsets, boxes.sigmoid(), logits)


def test_compile_with_dynamic_shapes() -> None:
    compiled = torch.compile(Layer(), fullgraph=True, dynamic=True, backend="aot_eager")
    for queries in (3, 7):
        inputs = [
            t.requires_grad_()
            for t in fused_inputs(LEVELS[1], dtype=torch.float32, channels=16, queries=queries)
        ]
        torch.testing.assert_close(compiled(*inputs), Layer()(*inputs))
        ours = torch.autograd.grad(compiled(*inputs).square().sum(), inputs)
        for a, b in zip(
            ours, torch.autograd.grad(Layer()(*inputs).square().sum(), inputs), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_export_and_decompositions() -> None:
    inputs = tuple(fused_inputs(LEVELS[1], dtype=torch.float32, channels=16))
    exported = torch.export.export(Layer(), inputs)
    assert [
        n for n in exported.graph.nodes if n.target is torch.ops.rfdetr.ms_deform_attn_fused.default
    ]
    plain = exported.run_decompositions(ops.DECOMPOSITIONS)
    assert not any("rfdetr" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(*inputs), Layer()(*inputs), atol=1e-5, rtol=1e-5)


def test_reproducible_whatever_the_threads() -> None:
    inputs = [
        t.requires_grad_()
        for t in fused_inputs([(12, 9)], dtype=torch.float32, batch=2, queries=200, channels=16)
    ]

    def results() -> list[torch.Tensor]:
        out = ms_deform_attn_fused(inputs[0], [(12, 9)], *inputs[1:])
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    assert_same_for_any_threads(results)


WRONG_BOXES = {
    "axes": torch.zeros(1, 3),
    "queries": torch.zeros(1, 2, 4),
    "type": torch.zeros(1, 3, 4).double(),
}


@pytest.mark.parametrize("case", WRONG_BOXES)
def test_wrong_boxes_raise(case: str) -> None:
    args = (
        torch.zeros(1, 16, 2, 16),
        [4, 4],
        torch.zeros(1, 3, 2, 1, 2, 2),
        WRONG_BOXES[case],
        torch.zeros(1, 3, 2, 1, 2),
    )
    with pytest.raises(RuntimeError, match="reference_boxes must"):
        torch.ops.rfdetr.ms_deform_attn_fused(*args)


def test_many_heads_and_samples() -> None:
    """More samples than one round of the CPU kernel holds, and more of a head than it can hold."""
    levels = [(5, 4), (3, 3)]
    inputs = fused_inputs(levels, dtype=torch.float64, heads=9, points=60, channels=8)
    out = ms_deform_attn_fused(inputs[0], levels, *inputs[1:])
    torch.testing.assert_close(out, ms_deform_attn_fused_reference(inputs[0], levels, *inputs[1:]))
    too_many = fused_inputs(levels, dtype=torch.float64, points=257)
    with pytest.raises(RuntimeError, match="at most 512"):
        ms_deform_attn_fused(too_many[0], levels, *too_many[1:])
