"""ms_deform_attn: values and gradients against grid_sample and a float64 hat-function oracle,
registration, edge cases.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import DEVICES, LEVELS, assert_same_for_any_threads, flat, hat_oracle, sample_inputs

from rfdetr_repro import ops
from rfdetr_repro.ops import deform_attn, ms_deform_attn, ms_deform_attn_reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [16, 5])
def test_values(device: str, dtype: torch.dtype, levels: list, channels: int) -> None:
    value, locations, weights = sample_inputs(levels, channels=channels, dtype=dtype, device=device)
    out = ms_deform_attn(value, levels, locations, weights)
    expected = hat_oracle(value, levels, locations, weights)
    assert out.dtype == dtype and out.shape == expected.shape
    scale = expected.abs().max().item() + 1
    assert (out.double().cpu() - expected.cpu()).abs().max().item() <= TOLERANCE[dtype] * scale
    reference = ms_deform_attn_reference(value, levels, locations, weights)
    assert reference.dtype == dtype
    assert (reference.double() - out.double()).abs().max().item() <= 2 * TOLERANCE[dtype] * scale


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_gradients_against_reference(device: str, dtype: torch.dtype, levels: list) -> None:
    inputs = sample_inputs(levels, channels=16, dtype=dtype, device=device, away_from_knots=True)
    for tensor in inputs:
        tensor.requires_grad_()
    out = ms_deform_attn(inputs[0], levels, *inputs[1:])
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = ms_deform_attn_reference(wide[0], levels, *wide[1:])
    upstream = torch.randn_like(out)
    ours = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(expected, wide, upstream.double())
    for a, b, tensor in zip(ours, theirs, inputs, strict=True):
        assert a.dtype == tensor.dtype
        assert (a.double() - b).abs().max().item() <= TOLERANCE[dtype] * (b.abs().max().item() + 1)


@pytest.mark.parametrize("queries", [20, 1000])
@pytest.mark.parametrize("channels", [16, 20])
def test_gradients_of_large_maps(queries: int, channels: int) -> None:
    """More samples than pixels and fewer: packed maps and sums in place, on the CPU."""
    levels = [(90, 80), (30, 20)]
    inputs = [
        tensor.requires_grad_()
        for tensor in sample_inputs(
            levels,
            heads=4,
            queries=queries,
            points=4,
            channels=channels,
            dtype=torch.float32,
            away_from_knots=True,
        )
    ]
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    out = ms_deform_attn(inputs[0], levels, *inputs[1:])
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(out, inputs, upstream)
    expected = ms_deform_attn_reference(wide[0], levels, *wide[1:])
    theirs = torch.autograd.grad(expected, wide, upstream.double())
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).abs().max().item() <= 2e-5 * (b.abs().max().item() + 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_gradcheck(device: str, levels: list) -> None:
    inputs = sample_inputs(
        levels, channels=3, dtype=torch.float64, device=device, away_from_knots=True, queries=2
    )
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(
        lambda v, xy, w: ms_deform_attn(v, levels, xy, w), inputs, nondet_tol=1e-9
    )


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_gradients_of_a_subset(needed: tuple[int, ...]) -> None:
    levels = LEVELS[1]
    inputs = sample_inputs(levels, channels=4, dtype=torch.float64, away_from_knots=True)
    for index in needed:
        inputs[index].requires_grad_()
    chosen = [inputs[index] for index in needed]
    ours = torch.autograd.grad(
        ms_deform_attn(inputs[0], levels, *inputs[1:]).square().sum(), chosen
    )
    theirs = torch.autograd.grad(
        ms_deform_attn_reference(inputs[0], levels, *inputs[1:]).square().sum(), chosen
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_second_derivatives(device: str, levels: list) -> None:
    inputs = sample_inputs(
        levels, channels=3, dtype=torch.float64, device=device, away_from_knots=True, queries=2
    )
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradgradcheck(
        lambda v, xy, w: ms_deform_attn(v, levels, xy, w), inputs, fast_mode=True
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_opcheck(device: str, dtype: torch.dtype) -> None:
    levels = LEVELS[1]
    value, locations, weights = (
        t.requires_grad_() for t in sample_inputs(levels, channels=16, dtype=dtype, device=device)
    )
    wide = ops.accumulate_dtype(dtype)
    args = (
        value,
        flat(levels),
        locations.detach().to(wide).requires_grad_(),
        weights.detach().to(wide).requires_grad_(),
    )
    # schema, autograd, fake tensors, AOT dispatch
    torch.library.opcheck(torch.ops.rfdetr.ms_deform_attn.default, args)
    upstream = torch.randn(
        value.shape[0], locations.shape[1], 16 * value.shape[2], dtype=dtype, device=device
    )
    plain = [tensor.detach() for tensor in (upstream, value, args[2], args[3])]
    torch.library.opcheck(
        torch.ops.rfdetr.ms_deform_attn_backward.default, (*plain[:2], flat(levels), *plain[2:])
    )


class Sampler(torch.nn.Module):
    """The op as a model calls it."""

    def forward(
        self, value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        return 2 * ms_deform_attn(value, LEVELS[1], locations, weights.softmax(-1))


def test_compile_fullgraph_with_gradients() -> None:
    inputs = [
        tensor.requires_grad_()
        for tensor in sample_inputs(LEVELS[1], channels=16, dtype=torch.float32)
    ]
    model = Sampler()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), model(*inputs))
    ours = torch.autograd.grad(compiled(*inputs).square().sum(), inputs)
    for a, b in zip(ours, torch.autograd.grad(model(*inputs).square().sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_export_and_decompositions() -> None:
    inputs = tuple(sample_inputs(LEVELS[1], channels=16, dtype=torch.float32))
    exported = torch.export.export(Sampler(), inputs)
    ours = [
        node
        for node in exported.graph.nodes
        if node.target is torch.ops.rfdetr.ms_deform_attn.default
    ]
    assert len(ours) == 1
    plain = exported.run_decompositions(ops.DECOMPOSITIONS)
    names = [str(node.target) for node in plain.graph.nodes]
    assert not any("rfdetr" in name for name in names) and sum(
        "grid_sampler" in name for name in names
    ) == len(LEVELS[1])
    torch.testing.assert_close(plain.module()(*inputs), Sampler()(*inputs), atol=1e-5, rtol=1e-5)


def test_autocast_computes_in_float32() -> None:
    value, locations, weights = sample_inputs(LEVELS[0], channels=16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = value.bfloat16().requires_grad_()
        out = ms_deform_attn(half, LEVELS[0], locations, weights.bfloat16())
    assert out.dtype == torch.float32
    torch.testing.assert_close(
        out,
        ms_deform_attn(value.bfloat16().float(), LEVELS[0], locations, weights.bfloat16().float()),
    )
    out.sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


def test_autocast_on_cuda_keeps_the_type_of_values() -> None:
    """The rule is called with tensors of the CPU; where there is a GPU, tests of the operators on
    CUDA reach it through autocast.
    """
    name = "rfdetr::ms_deform_attn"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
    value, locations, weights = sample_inputs(LEVELS[0], channels=16, dtype=torch.float32)
    half = value.bfloat16().requires_grad_()
    rule = deform_attn._keeping_values(torch.ops.rfdetr.ms_deform_attn.default)
    out = rule(half, flat(LEVELS[0]), locations, weights.bfloat16())
    assert out.dtype == torch.bfloat16
    expected = ms_deform_attn(half, LEVELS[0], locations, weights.bfloat16().float())
    assert torch.equal(out, expected)
    out.sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "bad", [5.0, -3.0, 1e30, -1e30, float("nan"), float("inf"), -float("inf"), -0.125]
)
def test_points_outside_contribute_nothing(device: str, bad: float) -> None:
    """Also exactly half a pixel out (-0.125 on a map of 4 pixels), where the weight is 0 but a
    one-sided slope is not.
    """
    levels = [(4, 4)]
    for axis in (0, 1):
        value, locations, weights = sample_inputs(
            levels, channels=16, dtype=torch.float32, device=device
        )
        locations[:, 1, :, :, 0, axis] = bad
        inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
        out = ms_deform_attn(value, levels, locations, weights)
        grads = torch.autograd.grad(out.square().sum(), inputs)
        assert out.isfinite().all() and all(grad.isfinite().all() for grad in grads)
        assert not grads[1][:, 1, :, :, 0].any() and not grads[2][:, 1, :, :, 0].any()
        mask = torch.ones_like(weights)
        mask[:, 1, :, :, 0] = 0
        inside = torch.where(
            mask[..., None] > 0, locations, torch.full_like(locations, 0.5)
        ).detach()
        torch.testing.assert_close(out, ms_deform_attn(value, levels, inside, weights * mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [16, 5])
def test_infinite_gradients_do_not_leave_the_map(dtype: torch.dtype, channels: int) -> None:
    """A corner outside the map gets nothing, not 0 times infinity: on the CPU all heads are taken
    in packed maps, because they exceed 3 MB, and few heads in place.
    """
    levels, queries, few = [(40, 40)], 801, 4
    heads = 4 + 3 * 2**20 // (2 * dtype.itemsize * 1600 * channels)
    sizes = {"batch": 1, "queries": queries, "heads": heads, "channels": channels}
    inputs = sample_inputs(levels, dtype=dtype, away_from_knots=True, **sizes)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(1, queries, heads, channels, generator=generator, dtype=dtype)
    upstream[0, ::7, :, 3], upstream[0, 3::9, :, 2] = float("inf"), -float("inf")
    upstream[0, 5::50, :, 1] = float("nan")

    def gradients(count: int) -> tuple[torch.Tensor, ...]:
        value, *others = (tensor[:, :, :count].contiguous() for tensor in inputs)
        first = upstream[:, :, :count].reshape(1, queries, -1), value, flat(levels)
        return torch.ops.rfdetr.ms_deform_attn_backward(*first, *others, False)

    packed = [tensor[:, :, :few] for tensor in gradients(heads)]
    for ours, theirs in zip(gradients(few), packed, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3, equal_nan=True)
    exact = [tensor[:, :, :few].double().requires_grad_() for tensor in inputs]
    out = ms_deform_attn_reference(exact[0], levels, *exact[1:])
    given = upstream[:, :, :few].reshape(1, queries, -1).double()
    (expected,) = torch.autograd.grad(out, exact[:1], given)
    assert expected.isinf().any() and expected.isnan().any() and expected.isfinite().any()
    torch.testing.assert_close(packed[0].double(), expected, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("empty", ["batch", "queries", "heads", "channels", "points"])
def test_empty(device: str, empty: str) -> None:
    sizes = {"channels": 16, empty: 0}
    inputs = sample_inputs(LEVELS[0], dtype=torch.float32, device=device, **sizes)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    out = ms_deform_attn(inputs[0], LEVELS[0], *inputs[1:])
    batch, _, heads, channels = inputs[0].shape
    assert out.shape == (batch, inputs[1].shape[1], heads * channels) and not out.any()
    grads = torch.autograd.grad(out.sum(), inputs)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in inputs]
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("device", DEVICES)
def test_strides_and_offsets(device: str) -> None:
    """Transposed, expanded and unaligned inputs and upstream gradients give what contiguous copies
    give.
    """
    levels = LEVELS[1]
    value, locations, weights = sample_inputs(
        levels, channels=16, dtype=torch.float32, device=device
    )
    turned = value.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    shifted = torch.cat([locations.flatten()[:1], locations.flatten()])[1:].view_as(locations)
    shared = weights[:1].expand_as(weights)
    out = ms_deform_attn(turned, levels, shifted, shared)
    torch.testing.assert_close(out, ms_deform_attn(value, levels, locations, shared.contiguous()))
    upstream = torch.randn(1, 1, out.shape[2], device=device).expand_as(out)
    (strided,) = torch.autograd.grad(out, turned, upstream, retain_graph=True)
    (plain,) = torch.autograd.grad(out, turned, upstream.contiguous())
    torch.testing.assert_close(strided, plain)


# on the CPU: gradients in place, and in packed maps (large maps with more samples than pixels)
@pytest.mark.parametrize(("levels", "queries"), [([(12, 9)], 200), ([(90, 80), (30, 20)], 1000)])
def test_reproducible_whatever_the_threads(levels: list, queries: int) -> None:
    inputs = sample_inputs(
        levels, batch=2, queries=queries, heads=5, points=4, channels=16, dtype=torch.float32
    )
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def results() -> list[torch.Tensor]:
        out = ms_deform_attn(inputs[0], levels, *inputs[1:])
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    assert_same_for_any_threads(results)


def test_more_than_2_to_31_elements() -> None:
    """Offsets are 64-bit: the last pixels of a map of 4 GiB, of which memory holds what is
    touched.
    """
    # 2^31 * 65/64 elements of 2 bytes
    side = 2**10
    heads = 32
    channels = 65
    # torch.zeros would touch every page
    value = torch.from_numpy(np.zeros((1, side * side, heads, channels), np.float16))
    value[0, -1, -1] = torch.arange(channels)
    locations = torch.full((1, 1, heads, 1, 1, 2), 1 - 0.5 / side)
    out = ms_deform_attn(value, [(side, side)], locations, torch.ones(1, 1, heads, 1, 1))
    assert (
        value.numel() > 2**31
        and torch.equal(out[0, 0, -channels:], value[0, -1, -1])
        and not out[0, 0, :-channels].any()
    )


WRONG = {
    "pixels": (dict(levels=[(3, 3)]), "pixels"),
    "odd sizes": (dict(flat=[4, 4, 1]), "pairs"),
    "zero side": (dict(flat=[0, 4, 4, 4]), "size"),
    "too many levels": (dict(flat=[1, 1] * 9), "level_sizes"),
    "axes of value": (dict(value=torch.zeros(1, 16, 16)), "value must be"),
    "axes of locations": (dict(locations=torch.zeros(1, 3, 2, 1, 2)), "sampling_locations must be"),
    "weights differ": (dict(weights=torch.zeros(1, 3, 2, 1, 1)), "differ on axis"),
    "heads differ": (
        dict(locations=torch.zeros(1, 3, 5, 1, 2, 2), weights=torch.zeros(1, 3, 5, 1, 2)),
        "with B, M of value",
    ),
    "type of locations": (
        dict(locations=torch.zeros(1, 3, 2, 1, 2, 2).double()),
        "accumulation type",
    ),
    "type of value": (
        dict(value=torch.zeros(1, 16, 2, 16, dtype=torch.int32)),
        "float32, float64, float16 or bfloat16",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_raise(case: str) -> None:
    change, message = WRONG[case]
    args = dict(
        value=torch.zeros(1, 16, 2, 16),
        locations=torch.zeros(1, 3, 2, 1, 2, 2),
        weights=torch.zeros(1, 3, 2, 1, 2),
    )
    args |= change
    sizes = change.get("flat", flat(change.get("levels", [(4, 4)])))
    with pytest.raises(RuntimeError, match=message):
        torch.ops.rfdetr.ms_deform_attn(args["value"], sizes, args["locations"], args["weights"])


def test_wrong_upstream_gradient_raises() -> None:
    value, locations, weights = sample_inputs([(4, 4)], channels=16, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="grad_output must be"):
        torch.ops.rfdetr.ms_deform_attn_backward(
            torch.zeros(1, 1, 1), value, [4, 4], locations, weights
        )


def test_missing_library_says_how_to_build(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="pip install --no-build-isolation -e ."):
        ops.library.load(tmp_path / "librfdetr_ops.so")
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(ops.LibraryNotBuilt, match="do not load"):
        ops.library.load(broken)


def test_build_info_and_no_python_symbols() -> None:
    info = ops.build_info()
    assert tuple(map(int, info["torch"].split(".")[:2])) >= (2, 10) and info["compiler"]
    assert info["cuda"] == bool(info["cuda_archs"]) and info["isa"] in (
        "plain",
        "sse4.1",
        "avx2",
        "avx512",
    )
    code = (
        "import ctypes, sys; import torch; torch.ops.load_library(sys.argv[1]); "
        "print(torch.ops.rfdetr.ms_deform_attn.default)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ops.LIBRARY)], capture_output=True, text=True, check=True
    )
    assert "rfdetr" in done.stdout  # loads as a plain library: not a Python extension module
    assert (
        b"Py_Initialize" not in ops.LIBRARY.read_bytes()
        and b"PyInit" not in ops.LIBRARY.read_bytes()
    )
