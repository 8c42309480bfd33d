"""From a frame in memory to a network's input, against other people's ways to the same array.

Every way takes uint8 (H, W, 3) RGB in memory to float32 (3, 384, 384), normalised by ImageNet's
mean and standard deviation, into new memory. The filters differ, and so do the pixels; the name of
each group states by how much, in steps of the 256 that a channel has:

- ours and Pillow: a triangle as wide as the pixels of the result, in whole numbers, bit for bit;
- torchvision with antialiasing: the same triangle, in whole numbers for uint8 and in float32;
- OpenCV's INTER_AREA: means of boxes, no triangle. Where the frame is smaller than the input
  along an axis it becomes plain bilinear.

Ours and Pillow use one thread; torchvision and OpenCV get the number that the group names. A
package that is not installed is skipped. Run: pytest benchmarks/test_pictures.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.turns import in_turns
from rfdetr_repro.bench.parts import synthetic_frame
from rfdetr_repro.data.network_input import IMAGENET_MEAN, IMAGENET_STD, network_input

SIDE = 384
FRAMES = {"480p": (480, 640), "1080p": (1080, 1920), "2160p": (2160, 3840)}
MEAN = np.asarray(IMAGENET_MEAN, dtype=np.float32)
STD = np.asarray(IMAGENET_STD, dtype=np.float32)
Array = np.ndarray[Any, Any]
Work = Callable[[], Array]


@pytest.fixture(params=FRAMES)
def frame(request: pytest.FixtureRequest) -> Array:
    """A frame, uint8 (H, W, 3) RGB."""
    return synthetic_frame(*FRAMES[request.param]).pixels


def ours(frame: Array) -> Work:
    """The package's own way."""
    return lambda: network_input([frame], (SIDE, SIDE), normalised=True)[0]


def finished(resized: Array) -> Array:
    """uint8 (H, W, 3) -> float32 (3, H, W), normalised, with NumPy."""
    scaled = (resized.astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def levels(one: Array, other: Array) -> tuple[float, float]:
    """(mean, largest) difference of two normalised inputs, in steps of 1/255."""
    steps = np.abs(one - other) * (255 * STD[:, None, None])
    return float(steps.mean()), float(steps.max())


def compared(
    benchmark: Any, frame: Array, threads: int, calls: dict[str, Work]
) -> tuple[float, float]:
    """Times the ways in turns, ours first; the difference of the last one's pixels from ours."""
    found = {name: levels(call(), calls["ours"]()) for name, call in calls.items()}
    told = ", ".join(
        f"{name} differs by {mean:.2f} (at most {most:.0f}) of 255"
        for name, (mean, most) in found.items()
        if name != "ours"
    )
    size = f"{frame.shape[0]}x{frame.shape[1]} to {SIDE}"
    group = f"{size}, {threads} thread{'s' if threads > 1 else ''}; {told}"
    best = in_turns(benchmark, calls, group=group, budget_s=2)
    for name, (mean, most) in found.items():
        benchmark.extra_info[f"{name}_ms"] = round(best[name], 3)
        benchmark.extra_info[f"{name}_differs"] = [round(mean, 3), round(most, 2)]
    benchmark.extra_info["threads"] = threads
    return found[list(calls)[-1]]


def test_pillow(benchmark: Any, frame: Array) -> None:
    """Pillow's bilinear filter, then NumPy: the pixels are ours to half a step, the rounding of
    whole numbers in another version of Pillow.
    """

    def pillow() -> Array:
        resized = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return finished(np.asarray(resized))

    _, most = compared(benchmark, frame, 1, {"ours": ours(frame), "Pillow": pillow})
    assert most < 1.5


def test_torchvision(benchmark: Any, threads: int, frame: Array) -> None:
    """torchvision's antialiased resize of tensors, before and after the conversion to floats."""
    functional = pytest.importorskip(
        "torchvision.transforms.v2.functional", reason="torchvision is not installed"
    )
    pixels = torch.from_numpy(frame).permute(2, 0, 1)

    def whole_numbers() -> Array:
        resized = functional.resize(pixels, [SIDE, SIDE], antialias=True)
        scaled = functional.to_dtype(resized, torch.float32, scale=True)
        made: Array = functional.normalize(scaled, IMAGENET_MEAN, IMAGENET_STD).contiguous().numpy()
        return made

    def floats() -> Array:
        scaled = functional.to_dtype(pixels, torch.float32, scale=True)
        resized = functional.resize(scaled, [SIDE, SIDE], antialias=True)
        made: Array = (
            functional.normalize(resized, IMAGENET_MEAN, IMAGENET_STD).contiguous().numpy()
        )
        return made

    calls = {"ours": ours(frame), "torchvision uint8": whole_numbers, "torchvision float32": floats}
    _, most = compared(benchmark, frame, threads, calls)
    assert most < 1.5


@pytest.fixture
def cv2(threads: int) -> Iterator[Any]:
    """OpenCV with the number of threads of the test."""
    module = pytest.importorskip("cv2", reason="OpenCV is not installed")
    before = module.getNumThreads()
    module.setNumThreads(threads)
    yield module
    module.setNumThreads(before)


def test_opencv(benchmark: Any, cv2: Any, threads: int, frame: Array) -> None:
    """OpenCV's INTER_AREA, then NumPy: another filter, so only the mean is near."""

    def opencv() -> Array:
        return finished(cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA))

    mean, _ = compared(benchmark, frame, threads, {"ours": ours(frame), "INTER_AREA": opencv})
    assert mean < 2
