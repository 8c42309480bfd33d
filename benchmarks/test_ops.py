"""The operators against the plain formulation of the same function and against other people's,
timed in turn in one process.

The work of ms_deform_attn is a gather: each sample reads 4 pixels of 16 channels, 256 bytes in
float32, and does 64 multiply-adds on them, so the limit is the rate of 64-byte loads from cache,
not arithmetic; that limit is measured too (one thread). The printed table has a group per case
and a row per implementation, whose name states the ratio of its median to ours with the 95 %
interval over rounds. ``extra_info``: the ratios, the best time of each in ms, the ratios of the
best times (above 1: we are faster) and the fraction of the limit reached.
torch-ms-deform-attn (the original operator with a CPU kernel of its own) takes part where it is
installed. Run: pytest benchmarks/test_ops.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.cases import CASES, HEADS, comparison, forward, forward_backward, inputs, peers
from benchmarks.studies.gather_limit import gather_ms
from benchmarks.turns import in_turns, interleaved_ms
from rfdetr_repro.data import mask_logits as masks
from rfdetr_repro.ops import (
    HAS_SPLIT_LINEAR,
    build_info,
    mask_logits,
    masks_from_logits,
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_fused_reference,
    split_linear,
    split_linear_pack,
)


def traffic(case: str) -> tuple[int, int]:
    """64-byte lines that the forward pass reads, and how many the maps have."""
    batch, queries, levels, points = CASES[case]
    lines = batch * queries * HEADS * len(levels) * points * 4
    return lines, batch * sum(height * width for height, width in levels) * HEADS


def group(case: str, work: str, threads: int) -> str:
    """Name of a case in the printed table."""
    return f"{case}, {work.replace('_', ' + ')}, {threads} thread{'s' if threads > 1 else ''}"


def limit_ms(case: str) -> float | None:
    """Least time in ms that the memory accesses of a case need, or None where unknown."""
    return gather_ms(*traffic(case))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("work", [forward, forward_backward], ids=["forward", "forward+backward"])
def test_cpu(
    benchmark: Any, threads: int, case: str, work: Callable[..., Callable[[], Any]]
) -> None:
    """Time of each implementation on ``threads`` CPU threads."""
    levels, tensors = inputs(case)
    calls = {
        name: work(op, levels, tensors) for name, op in {"ours": ms_deform_attn, **peers()}.items()
    }
    best = in_turns(benchmark, calls, group=group(case, work.__name__, threads), budget_s=2)
    limit = limit_ms(case) if threads == 1 and work is forward else None
    benchmark.extra_info.update(comparison(best), threads=threads, build=str(build_info()))
    if limit:
        lines, table = traffic(case)
        benchmark.extra_info.update(
            limit_ms=round(limit, 4), fraction_of_limit=round(limit / best["ours"], 2)
        )
        benchmark.extra_info.update(gathered_bytes=64 * lines, value_bytes=64 * table)
    assert best["ours"] < best["grid_sample"]


@pytest.mark.parametrize("case", CASES)
def test_fused_cpu(benchmark: Any, threads: int, case: str) -> None:
    """From offsets, boxes and logits, against softmax, location arithmetic and grid_sample."""
    levels, (value, offsets, logits) = inputs(case)
    boxes = torch.rand(*offsets.shape[:2], 4) * 0.5 + 0.2
    arguments = [tensor.detach() for tensor in (value, offsets, boxes, logits)]
    ops = {"ours": ms_deform_attn_fused, "grid_sample": ms_deform_attn_fused_reference}
    calls = {name: forward(op, levels, arguments) for name, op in ops.items()}
    best = in_turns(benchmark, calls, group=group(case, "fused forward", threads), budget_s=2)
    benchmark.extra_info.update(comparison(best), threads=threads)
    assert best["ours"] < best["grid_sample"]


# queries, map, image, kept
MASKS = {"108x108-full-hd": (200, 108, (1080, 1920), 100), "78x78-vga": (100, 78, (480, 640), 20)}


def mask_embeddings(case: str) -> tuple[Tensor, Tensor]:
    """Query (Q, 256) and pixel (256, h, w) embeddings whose products are blobs: each query is a
    soft disc of the map.
    """
    queries, side, _, _ = MASKS[case]
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(
        torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij"
    )
    harmonics = torch.arange(8)
    waves = [torch.cos(torch.pi * (rows * i + columns * j)) for i in harmonics for j in harmonics]
    waves += [torch.sin(torch.pi * (rows * i + columns * j)) for i in harmonics for j in harmonics]
    pixels = torch.stack(waves * 2)  # (256, h, w)
    fading = torch.tensor([1.0 / (1 + i + j) ** 2 for i in range(8) for j in range(8)] * 4)
    return torch.randn(queries, 256, generator=generator) * fading, pixels


@pytest.mark.parametrize("case", MASKS)
def test_masks_to_rle(benchmark: Any, threads: int, case: str) -> None:
    """Embeddings to COCO run lengths: all queries by einsum, enlarged, thresholded, encoded,
    against the kept ones only.
    """
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    queries, pixels = mask_embeddings(case)
    _, _, size, kept = MASKS[case]
    rows = torch.arange(kept)

    def ours() -> list[Any]:
        return masks.rles(mask_logits(queries[rows], pixels), *size, threads=threads)

    def chain() -> list[Any]:
        logits = torch.einsum("qd,dhw->qhw", queries, pixels)[rows]
        found = []
        for part in logits.split(32):
            large = torch.nn.functional.interpolate(
                part[:, None], size=size, mode="bilinear", align_corners=False
            )
            found += [
                coco.encode(np.asfortranarray(mask, dtype=np.uint8))
                for mask in (large[:, 0] > 0).numpy()
            ]
        return found

    calls = {"ours": ours, "chain": chain}
    best = in_turns(
        benchmark, calls, group=group(case, "masks to RLE", threads), budget_s=5, min_rounds=3
    )
    logits = mask_logits(queries[rows], pixels)
    best["packed_bits"] = interleaved_ms(
        {"bits": lambda: masks_from_logits(logits, *size, packed=True)}
    )["bits"]
    best["bitmaps"] = interleaved_ms({"bool": lambda: masks_from_logits(logits, *size)})["bool"]
    benchmark.extra_info.update(
        {f"{name}_ms": round(ms, 3) for name, ms in best.items()}, threads=threads
    )
    benchmark.extra_info["over_chain"] = round(best["chain"] / best["ours"], 1)
    # rounding of one product for both
    assert masks.rles(torch.einsum("qd,dhw->qhw", queries, pixels)[rows], *size) == chain()


# of Nano at 384: rows, inputs, outputs
LINEARS = {"qkv": (580, 384, 1152), "fc1": (580, 384, 1536), "fc2": (580, 1536, 384)}


@pytest.mark.skipif(not HAS_SPLIT_LINEAR, reason="this processor has no AMX-BF16")
@pytest.mark.parametrize("case", LINEARS)
def test_split_linear(case: str, threads: int, benchmark: Any) -> None:
    """Against the float32 linear layer.

    The limit: 6 (3 parts) or 3 (2 parts) bfloat16 products at the rate of the AMX unit.
    """
    rows, inputs, outputs = LINEARS[case]
    x = torch.randn(rows, inputs)
    weight = torch.randn(outputs, inputs)
    bias = torch.randn(outputs)
    calls: dict[str, Callable[[], Any]] = {
        f"{parts}_parts": partial(split_linear, x, split_linear_pack(weight, parts), bias)
        for parts in (3, 2)
    }
    calls["float32"] = lambda: torch.nn.functional.linear(x, weight, bias)
    best = in_turns(benchmark, calls, group=group(case, "linear layer", threads))
    operations = 2e-6 * rows * inputs * outputs  # Gflop/s = this / ms
    benchmark.extra_info.update(
        {f"{name}_ms": round(ms, 3) for name, ms in best.items()}, threads=threads
    )
    benchmark.extra_info.update(
        {f"{name}_gflops": round(operations / ms) for name, ms in best.items()}
    )
    benchmark.extra_info.update(
        speedup=best["float32"] / best["3_parts"], speedup_2_parts=best["float32"] / best["2_parts"]
    )
