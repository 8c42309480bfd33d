"""The operators against the plain formulation of the same function, timed in turn in one process.

The work of ms_deform_attn is a gather: each sample reads 4 pixels of 16 channels, 256 bytes in float32, and does 64
multiply-adds on them, so the limit is the rate of 64-byte loads from cache, not arithmetic. ``extra_info`` holds both times and
their ratio (above 1: we are faster).
Run: pytest benchmarks/test_ops.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import interleaved_ms
from torch import Tensor

from rfdetr_repro.ops import (
    HAS_SPLIT_LINEAR,
    build_info,
    ms_deform_attn,
    ms_deform_attn_reference,
    split_linear,
    split_linear_pack,
)

HEADS, CHANNELS = 16, 16
CASES = {  # name: (batch, queries, level sizes, points); nano, small/medium, three levels, training
    "b1-q300-24x24": (1, 300, [(24, 24)], 2),
    "b1-q300-36x36": (1, 300, [(36, 36)], 2),
    "b1-q300-3levels": (1, 300, [(40, 40), (20, 20), (10, 10)], 4),
    "b16-q300-24x24": (16, 300, [(24, 24)], 2),
    "b2-q3900-36x36": (2, 3900, [(36, 36)], 2),
}
Levels = list[tuple[int, int]]


def inputs(case: str, device: str = "cpu") -> tuple[Levels, list[Tensor]]:
    batch, queries, levels, points = CASES[case]
    generator = torch.Generator().manual_seed(0)
    grid = (batch, queries, HEADS, len(levels), points)
    value = torch.randn(batch, sum(height * width for height, width in levels), HEADS, CHANNELS, generator=generator)
    tensors = [value, torch.rand(*grid, 2, generator=generator), torch.rand(grid, generator=generator)]
    return levels, [tensor.to(device).requires_grad_() for tensor in tensors]


def forward(op: Callable[..., Tensor], levels: Levels, tensors: list[Tensor]) -> Callable[[], Any]:
    def call() -> Tensor:
        with torch.no_grad():
            return op(tensors[0], levels, *tensors[1:])

    return call


def forward_backward(op: Callable[..., Tensor], levels: Levels, tensors: list[Tensor]) -> Callable[[], Any]:
    upstream = torch.randn(*tensors[1].shape[:2], HEADS * CHANNELS, device=tensors[0].device)

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(op(tensors[0], levels, *tensors[1:]), tensors, upstream)

    return call


def comparison(best_ms: dict[str, float]) -> dict[str, float]:
    return {**{f"{name}_ms": time for name, time in best_ms.items()}, "ratio": best_ms["grid_sample"] / best_ms["ours"]}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("work", [forward, forward_backward], ids=["forward", "forward+backward"])
def test_cpu(benchmark: Any, threads: int, case: str, work: Callable[..., Callable[[], Any]]) -> None:
    levels, tensors = inputs(case)
    calls = {"ours": work(ms_deform_attn, levels, tensors), "grid_sample": work(ms_deform_attn_reference, levels, tensors)}
    best = interleaved_ms(calls)
    benchmark.extra_info.update(comparison(best), threads=threads, build=str(build_info()))
    benchmark.pedantic(calls["ours"], rounds=10, warmup_rounds=1)
    print(f"\n{case} {threads} thread(s): {best['ours']:.3f} ms, grid_sample {best['grid_sample']:.3f} ms")
    assert best["ours"] < best["grid_sample"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("work", [forward, forward_backward], ids=["forward", "forward+backward"])
def test_cuda(benchmark: Any, case: str, dtype: torch.dtype, work: Callable[..., Callable[[], Any]]) -> None:
    levels, tensors = inputs(case, "cuda")
    tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]

    def waited(call: Callable[[], Any]) -> Callable[[], None]:
        return lambda: (call(), torch.cuda.synchronize())[1]

    def upstream_matches(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: op(*args).float()  # one upstream gradient type for every value type

    ops = {"ours": ms_deform_attn, "grid_sample": ms_deform_attn_reference}
    calls = {name: waited(work(upstream_matches(op), levels, tensors)) for name, op in ops.items()}
    best = interleaved_ms(calls)
    benchmark.extra_info.update(comparison(best), gpu=torch.cuda.get_device_name())
    benchmark.pedantic(calls["ours"], rounds=20, warmup_rounds=2)


LINEARS = {"qkv": (580, 384, 1152), "fc1": (580, 384, 1536), "fc2": (580, 1536, 384)}  # of Nano at 384: rows, inputs, outputs


@pytest.mark.skipif(not HAS_SPLIT_LINEAR, reason="this processor has no AMX-BF16")
@pytest.mark.parametrize("case", LINEARS)
def test_split_linear(case: str, threads: int, benchmark: Any) -> None:
    """Against the float32 linear layer. The limit: 6 (3 parts) or 3 (2 parts) bfloat16 products at the rate of the AMX unit."""
    rows, inputs, outputs = LINEARS[case]
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    calls = {"float32": lambda: torch.nn.functional.linear(x, weight, bias)}
    for parts in (3, 2):
        calls[f"{parts}_parts"] = partial(split_linear, x, split_linear_pack(weight, parts), bias)
    best = interleaved_ms(calls)
    benchmark(calls["3_parts"])
    operations = 2e-6 * rows * inputs * outputs  # Gflop/s = this / ms
    benchmark.extra_info.update({f"{name}_ms": round(ms, 3) for name, ms in best.items()}, threads=threads)
    benchmark.extra_info.update({f"{name}_gflops": round(operations / ms) for name, ms in best.items()})
    benchmark.extra_info.update(speedup=best["float32"] / best["3_parts"], speedup_2_parts=best["float32"] / best["2_parts"])
