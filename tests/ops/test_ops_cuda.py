"""What only a CUDA device can show: streams, graphs, reproducible gradients, 64-bit offsets."""

from __future__ import annotations

import pytest
import torch
from samples import fused_inputs, sample_inputs

from rfdetr_repro.ops import masks_from_logits, ms_deform_attn, ms_deform_attn_fused

pytestmark = pytest.mark.gpu
LEVELS = [(24, 24), (12, 12)]


def gradients(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    out = ms_deform_attn_fused(inputs[0], LEVELS, *inputs[1:])
    return list(torch.autograd.grad(out.float().square().sum(), inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deterministic_gradients_repeat_bit_for_bit(dtype: torch.dtype) -> None:
    inputs = [
        t.requires_grad_()
        for t in fused_inputs(LEVELS, dtype=dtype, queries=500, channels=16, device="cuda")
    ]
    usual = gradients(inputs)
    torch.use_deterministic_algorithms(True)
    try:
        first = gradients(inputs)
        second = gradients(inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for a, b in zip(first, usual, strict=True):
        assert (a - b).abs().max() <= (2e-5 if dtype == torch.float32 else 2e-2) * (
            1 + b.abs().max()
        )


@pytest.mark.parametrize("path", ["general", "direct", "staged", "sorted-1", "sorted-2"])
@pytest.mark.parametrize("channels", [16, 32])
@pytest.mark.parametrize("levels", [LEVELS[:1], LEVELS], ids=str)
def test_every_path_agrees_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, levels: list, channels: int, path: str
) -> None:
    """By RFDETR_CUDA_PATH: the host itself takes the staged and sorted kernels for more queries."""
    monkeypatch.setenv("RFDETR_CUDA_PATH", path)
    inputs = fused_inputs(levels, dtype=torch.float32, queries=300, heads=4, channels=channels)
    results = []
    for device in ("cpu", "cuda"):
        own = [tensor.detach().to(device).requires_grad_() for tensor in inputs]
        out = ms_deform_attn_fused(own[0], levels, *own[1:])
        results.append([out, *torch.autograd.grad(out.square().sum(), own)])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, atol=1e-4, rtol=1e-3)


def test_captured_in_a_graph() -> None:
    """Forward and backward replay on new inputs, with no synchronisation inside."""
    inputs = [
        t.requires_grad_()
        for t in sample_inputs(LEVELS, dtype=torch.float32, queries=300, channels=16, device="cuda")
    ]

    def work() -> tuple[torch.Tensor, ...]:
        out = ms_deform_attn(inputs[0], LEVELS, *inputs[1:])
        return out, *torch.autograd.grad(out.square().sum(), inputs)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    with torch.no_grad():
        inputs[0].copy_(torch.randn_like(inputs[0]))
    graph.replay()
    for found, wanted in zip(captured, work(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_runs_on_the_current_stream() -> None:
    inputs = sample_inputs(LEVELS, dtype=torch.float32, queries=300, channels=16, device="cuda")
    wanted = ms_deform_attn(inputs[0], LEVELS, *inputs[1:])
    late = torch.zeros_like(inputs[0])
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        # the values arrive late: a kernel on another stream would read zeros
        torch.cuda._sleep(50_000_000)
        late.copy_(inputs[0])
        found = ms_deform_attn(late, LEVELS, *inputs[1:])
    stream.synchronize()
    torch.testing.assert_close(found, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_device_of_its_tensors() -> None:
    inputs = sample_inputs(LEVELS, dtype=torch.float32, queries=300, channels=16, device="cuda:1")
    found = ms_deform_attn(inputs[0], LEVELS, *inputs[1:])
    wanted = ms_deform_attn(inputs[0].cpu(), LEVELS, *(tensor.cpu() for tensor in inputs[1:]))
    torch.testing.assert_close(found.cpu(), wanted, atol=1e-5, rtol=1e-5)


def test_more_than_2_to_31_elements() -> None:
    side = 2**10
    heads = 32
    channels = 65
    value = torch.zeros(1, side * side, heads, channels, dtype=torch.bfloat16, device="cuda")
    value[0, -1, -1] = torch.arange(channels)
    locations = torch.full((1, 1, heads, 1, 1, 2), 1 - 0.5 / side, device="cuda")
    out = ms_deform_attn(
        value, [(side, side)], locations, torch.ones(1, 1, heads, 1, 1, device="cuda")
    )
    assert value.numel() > 2**31 and torch.equal(out[0, 0, -channels:], value[0, -1, -1])


@pytest.mark.parametrize("width", [1920, 1919])
@pytest.mark.parametrize("packed", [False, True], ids=["bool", "packed"])
def test_masks_have_the_bits_of_the_cpu(width: int, packed: bool) -> None:
    """More than 2^31 pixels, the last masks compared; noise, so that every pixel is computed."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1100, 108, 108, generator=generator)
    found = masks_from_logits(logits.cuda(), 1080, width, packed=packed)
    assert found[0].numel() * len(found) * (8 if packed else 1) > 2**31
    for part in (slice(0, 2), slice(-2, None)):
        wanted = masks_from_logits(logits[part], 1080, width, packed=packed)
        assert torch.equal(found[part].cpu(), wanted)
