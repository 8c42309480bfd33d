"""The compiled preprocessing gives, bit for bit, what Pillow and NumPy give: any size, window,
stride and instruction set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rfdetr_repro import _pictures, ops
from rfdetr_repro.data.decoding import decode_array
from rfdetr_repro.data.network_input import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    View,
    network_input,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED, PLAIN

ROOT = Path(__file__).resolve().parents[2]
PILLOW = tuple(map(int, PIL.__version__.split(".")[:1]))
Window = tuple[int, int, int, int]


def pillow(picture: np.ndarray, hw: tuple[int, int], window: Window) -> np.ndarray:
    """uint8 (*hw, 3): two resizes of one direction each, whose order Pillow 13 chooses."""
    image = Image.fromarray(picture)
    (height, width), (new_height, new_width) = picture.shape[:2], hw
    left, top, right, bottom = window
    filter_ = Image.Resampling.BILINEAR
    if height > new_height and height - new_height > 2 * (width - new_width):
        first = image.resize((width, new_height), filter_, (0, top, width, bottom))
        whole = first.resize((new_width, new_height), filter_, (left, 0, right, new_height))
    else:
        first = image.resize((new_width, height), filter_, (left, 0, right, height))
        whole = first.resize((new_width, new_height), filter_, (0, top, new_width, bottom))
    return np.asarray(whole)


def four_nearest(picture: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """float32 (*hw, 3) in 0..255 in NumPy, as PyTorch interpolates with align_corners=False."""

    def nearest(side: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale, half = np.float32(side / size), np.float32(0.5)
        position = (np.arange(size, dtype=np.float32) + half) * scale - half
        centre = np.maximum(position, np.float32(0))
        first = np.minimum(centre.astype(np.int64), side - 1)
        return first, np.minimum(first + 1, side - 1), centre - first.astype(np.float32)

    top, bottom, down = nearest(picture.shape[0], hw[0])
    left, right, across = nearest(picture.shape[1], hw[1])
    down, across = down[:, None, None], across[None, :, None]
    values = picture.astype(np.float32)
    upper = values[top][:, left] * (1 - across) + values[top][:, right] * across
    lower = values[bottom][:, left] * (1 - across) + values[bottom][:, right] * across
    return upper * (1 - down) + lower * down


def normalised(values: np.ndarray) -> np.ndarray:
    """(H, W, 3) in 0..255 -> float32 (3, H, W), ImageNet's normalisation."""
    parts = values.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    mean, std = (np.float32(given)[:, None, None] for given in (IMAGENET_MEAN, IMAGENET_STD))
    return (parts - mean) / std


def drawn(seed: int, height: int, width: int, kind: str = "noise") -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "extremes":  # sums that land on a half, and on the largest value
        return (255 * rng.integers(0, 2, (height, width, 3))).astype(np.uint8)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


sides = st.integers(1, 90) | st.integers(1, 400)


@settings(max_examples=300, deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 99), st.sampled_from(("noise", "extremes")))
def test_antialiased_pixels_are_pillows_bit_for_bit(
    height: int, width: int, new_height: int, new_width: int, seed: int, kind: str
) -> None:
    picture = drawn(seed, height, width, kind)
    hw = new_height, new_width
    expected = pillow(picture, hw, (0, 0, width, height))
    assert np.array_equal(network_input([picture], hw, normalised=True)[0], normalised(expected))
    if PILLOW >= (13,):
        whole = Image.fromarray(picture).resize((new_width, new_height), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(whole), expected)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_views_are_pillows_windows_bit_for_bit(data: st.DataObject) -> None:
    height, width = data.draw(sides), data.draw(sides)
    hw = data.draw(sides), data.draw(sides)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    flip = data.draw(st.booleans())
    picture = drawn(0, height, width)
    window = left, top, right, bottom
    expected = pillow(picture, hw, window)
    expected = expected[:, ::-1] if flip else expected
    found = network_input([picture], hw, normalised=True, views=[View(window, flip)])[0]
    assert np.array_equal(found, normalised(expected))


@settings(max_examples=200, deadline=None)
@given(sides, sides, sides, sides)
def test_plain_values_are_numpys_bit_for_bit(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    picture = drawn(1, height, width)
    hw = new_height, new_width
    expected = normalised(four_nearest(picture, hw))
    assert np.array_equal(network_input([picture], hw, PLAIN, normalised=True)[0], expected)


@pytest.mark.parametrize("hw", [(1080, 1920), (1920, 1080), (480, 640), (5000, 3), (3, 5000)])
@pytest.mark.parametrize("rule", [ANTIALIASED, PLAIN])
def test_sizes_of_photographs(hw: tuple[int, int], rule: str) -> None:
    picture = drawn(2, *hw)
    expected = (
        pillow(picture, (384, 384), (0, 0, hw[1], hw[0]))
        if rule == ANTIALIASED
        else four_nearest(picture, (384, 384))
    )
    found = network_input([picture], (384, 384), rule, normalised=True)[0]
    assert np.array_equal(found, normalised(expected))


# pictures that are not dense arrays of RGB, made from a dense one
STRIDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "every second column": lambda dense: np.repeat(dense, 2, axis=1)[:, ::2],
    "every second row": lambda dense: np.repeat(dense, 2, axis=0)[::2],
    "rgb of rgba": lambda dense: np.dstack([dense, dense[..., :1]])[..., :3],
    "bgr turned round": lambda dense: np.ascontiguousarray(dense[..., ::-1])[..., ::-1],
    "channels first": lambda dense: np.ascontiguousarray(dense.transpose(2, 0, 1)).transpose(
        1, 2, 0
    ),
    "upside down": lambda dense: np.ascontiguousarray(dense[::-1])[::-1],
    "mirrored": lambda dense: np.ascontiguousarray(dense[:, ::-1])[:, ::-1],
    "part of a larger one": lambda dense: np.pad(dense, ((3, 2), (4, 1), (0, 0)))[3:-2, 4:-1],
    "transposed": lambda dense: np.ascontiguousarray(dense.transpose(1, 0, 2)).transpose(1, 0, 2),
}


@pytest.mark.parametrize("rule", [ANTIALIASED, PLAIN])
@pytest.mark.parametrize("name", STRIDED)
def test_strides_do_not_matter(name: str, rule: str) -> None:
    for hw in ((50, 70), (70, 30), (1, 1), (2, 40)):
        dense = drawn(3, *hw)
        strided = STRIDED[name](dense)
        assert np.array_equal(strided, dense)
        expected = network_input([dense], (24, 32), rule)
        assert np.array_equal(network_input([strided], (24, 32), rule), expected)


def test_grey_and_rgba_arrays_become_rgb_first() -> None:
    grey = drawn(4, 40, 50)[..., 0]
    rgba = np.dstack([drawn(5, 40, 50), np.full((40, 50), 7, np.uint8)])
    for array, rgb in ((grey, np.repeat(grey[..., None], 3, axis=2)), (rgba, rgba[..., :3])):
        found = network_input([decode_array(array)], (16, 24))[0]
        expected = pillow(np.ascontiguousarray(rgb), (16, 24), (0, 0, 50, 40))
        assert np.array_equal(found, expected.transpose(2, 0, 1) / np.float32(255))
    broadcast = np.broadcast_to(grey[..., None], (40, 50, 3))  # a channel stride of 0
    assert np.array_equal(
        network_input([broadcast], (16, 24)), network_input([broadcast.copy()], (16, 24))
    )


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(InputError, match="a picture must be uint8"):
        network_input([picture], (2, 2))


@pytest.mark.parametrize("window", [(0, 0, 5, 4), (-1, 0, 2, 2), (2, 0, 2, 4), (0, 3, 4, 2)])
def test_a_window_outside_the_picture_is_refused(window: Window) -> None:
    to = np.empty((3, 2, 2), np.float32)
    scale = (0.0,) * 3, (1.0,) * 3
    with pytest.raises(ValueError, match="window"):
        _pictures.network_input(drawn(0, 4, 4), to, window, False, True, *scale)
    with pytest.raises(ValueError, match="contiguous rows"):
        _pictures.network_input(
            drawn(0, 4, 4), to.transpose(0, 2, 1)[:, :, ::-1], (0, 0, 4, 4), False, True, *scale
        )


INSTRUCTIONS = """
import hashlib, numpy as np
from rfdetr_repro import _pictures
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.spec.resize_rules import RULES
made = hashlib.sha256()
for seed, hw in enumerate(((50, 70), (90, 33), (7, 200), (300, 20), (1, 1))):
    picture = np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)
    for rule in RULES:
        made.update(network_input([picture], (40, 24), rule, normalised=True).tobytes())
print(_pictures.isa(), made.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    found = {}
    for name in ("", "sse4.1", "avx2", "avx512", "plain"):
        done = subprocess.run(
            [sys.executable, "-c", INSTRUCTIONS],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "RFDETR_ISA": name},
        )
        if done.returncode == 0:
            isa, digest = done.stdout.split()
            assert not name or isa == name
            found[name] = digest
        else:
            assert "this processor has no kernels" in done.stderr
    assert len(found) >= 2 and len(set(found.values())) == 1


@pytest.mark.parametrize("antialias", [True, False])
def test_the_operator_on_tensors_gives_the_same_bits(antialias: bool) -> None:
    pictures = np.stack([drawn(seed, 45, 61) for seed in range(3)])
    rule = ANTIALIASED if antialias else PLAIN
    expected = network_input(list(pictures), (24, 32), rule, normalised=True)
    tensor = torch.from_numpy(pictures)
    for strided in (tensor, tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
        found = ops.network_input(
            strided, 24, 32, mean=IMAGENET_MEAN, std=IMAGENET_STD, antialias=antialias
        )
        assert np.array_equal(found.numpy(), expected)
    scale = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])
    torch.library.opcheck(
        torch.ops.rfdetr.network_input.default, (tensor, 24, 32, scale, antialias)
    )
    assert ops.network_input(tensor[:0], 24, 32).shape == (0, 3, 24, 32)


@pytest.mark.parametrize(
    ("shape", "dtype", "size", "word"),
    [
        ((1, 4, 4), torch.uint8, (2, 2), "uint8"),
        ((1, 4, 4, 4), torch.uint8, (2, 2), "uint8"),
        ((1, 4, 4, 3), torch.float32, (2, 2), "uint8"),
        ((1, 4, 4, 3), torch.uint8, (0, 2), "input must have"),
        ((1, 4, 4, 3), torch.uint8, (1 << 20, 1 << 20), "input must have"),
        ((1, 0, 4, 3), torch.uint8, (2, 2), "picture must have"),
    ],
)
def test_the_operator_refuses_other_tensors(
    shape: tuple[int, ...], dtype: torch.dtype, size: tuple[int, int], word: str
) -> None:
    with pytest.raises((RuntimeError, ValueError), match=word):
        ops.network_input(torch.zeros(shape, dtype=dtype), *size)
