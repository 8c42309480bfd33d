"""Inputs shared by the operator's tests: devices, level layouts, random arguments, and a float64
oracle.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LEVELS = [[(6, 7)], [(5, 4), (1, 3), (2, 1), (1, 1)]]  # one map; four, with sides of a single pixel


def flat(levels: list[tuple[int, int]]) -> list[int]:
    return [side for size in levels for side in size]


def sample_inputs(
    levels: list[tuple[int, int]],
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    away_from_knots: bool = False,
    seed: int = 0,
    **sizes: int,
) -> list[Tensor]:
    """value, sampling_locations (some outside the map), attention_weights; drawn on the CPU, so
    equal on every device.

    ``sizes`` may set batch, queries, heads, channels, points. ``away_from_knots`` keeps samples at
    least 1/10 pixel from pixel centres and from the rim, where the slope jumps and finite
    differences or rounding pick either side.
    """
    want = dict(batch=2, queries=3, heads=3, channels=4, points=2) | sizes
    generator = torch.Generator().manual_seed(seed)
    grid = (want["batch"], want["queries"], want["heads"], len(levels), want["points"])
    pixels = sum(height * width for height, width in levels)
    value = torch.randn(
        want["batch"],
        pixels,
        want["heads"],
        want["channels"],
        generator=generator,
        dtype=torch.float64,
    )
    locations = torch.rand(*grid, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.randn(grid, generator=generator, dtype=torch.float64)
    if away_from_knots:
        # (L, 1, 2)
        sides = torch.tensor([[width, height] for height, width in levels], dtype=torch.float64)[
            :, None
        ]
        at = locations * sides - 0.5
        locations = (at.floor() + (at - at.floor()).clamp(0.1, 0.9) + 0.5) / sides
        # too coarse for 1/10 pixel: halves of pixels are exact enough
        if dtype in (torch.float16, torch.bfloat16):
            locations = ((at.floor() + 0.5).clamp(-0.5, None) + 0.5) / sides
    return [tensor.to(device=device, dtype=dtype) for tensor in (value, locations, weights)]


def assert_same_for_any_threads(results: Callable[[], list[Tensor]]) -> None:
    """Bitwise the same on one, two and three threads, and again on three."""
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            runs.append(results())
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def peak_growth(setup: str, work: str) -> int:
    """Bytes by which ``work`` raises the peak memory of a fresh process that has run ``setup``;
    compiled code's memory counts.
    """
    if not Path("/proc/self/status").is_file():
        # ru_maxrss would be at least the parent's
        pytest.skip("peak memory of a process is read from /proc")
    peak = "int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    code = f"import re\n{setup}\nbefore = {peak}\n{work}\nprint({peak} - before)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def hat_oracle(
    value: Tensor, levels: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The definition, in float64: every pixel weighted by max(0, 1 - |dx|) * max(0, 1 - |dy|).

    Shares no code with any kernel.
    """
    value, locations, weights = value.double(), locations.double(), weights.double()
    total = 0
    start = 0
    for level, (height, width) in enumerate(levels):
        # (B, H, W, M, D)
        image = value[:, start : start + height * width].unflatten(1, (height, width))
        start += height * width
        at_x, at_y = locations[:, :, :, level].unbind(-1)  # (B, Q, M, P)
        columns, rows = (
            torch.arange(side, dtype=torch.float64, device=value.device) for side in (width, height)
        )
        hat_x = (1 - (at_x[..., None] * width - 0.5 - columns).abs()).clamp(min=0)
        hat_y = (1 - (at_y[..., None] * height - 0.5 - rows).abs()).clamp(min=0)
        total = total + torch.einsum(
            "bqmp,bqmph,bqmpw,bhwmd->bqmd", weights[:, :, :, level], hat_y, hat_x, image
        )
    return total.flatten(2)


def fused_inputs(
    levels: list, *, dtype: torch.dtype, device: str = "cpu", seed: int = 0, **sizes: int
) -> list[Tensor]:
    """value, offsets, reference boxes, logits; the locations they give stay off pixel centres as in
    ``sample_inputs``.
    """
    value, locations, logits = sample_inputs(
        levels, dtype=torch.float64, device=device, seed=seed, away_from_knots=True, **sizes
    )
    generator = torch.Generator().manual_seed(seed + 1)
    boxes = (
        torch.rand(*locations.shape[:2], 4, generator=generator, dtype=torch.float64).to(device)
        * 0.5
        + 0.2
    )
    offsets = (
        (locations - boxes[:, :, None, None, None, :2])
        / boxes[:, :, None, None, None, 2:]
        * 2
        * locations.shape[4]
    )
    return [tensor.to(dtype) for tensor in (value, offsets, boxes, 3 * logits)]
