"""Masks from logits: bool, packed bits and run lengths, of tensors and arrays, against interpolate
> 0 and pycocotools.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from samples import peak_growth
from samples_masks import blobs, expected, unpacked

from rfdetr_repro import ops
from rfdetr_repro.data import mask_logits as masks
from rfdetr_repro.spec.errors import InputError


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_all_forms_agree_with_interpolate(data: st.DataObject) -> None:
    # up and down
    h, w, height, width = (data.draw(st.integers(1, top)) for top in (12, 12, 50, 50))
    tensor = blobs(3, h, w, seed=data.draw(st.integers(0, 99)))
    wanted = expected(tensor, height, width).numpy()
    logits = tensor.numpy()
    threads = data.draw(st.integers(1, 3))
    np.testing.assert_array_equal(masks.bitmaps(logits, height, width, threads=threads), wanted)
    np.testing.assert_array_equal(
        unpacked(masks.packed_bits(logits, height, width, threads=threads), width), wanted
    )
    rles = masks.rles(logits, height, width, threads=threads)
    np.testing.assert_array_equal(coco.decode(rles).transpose(2, 0, 1).astype(bool), wanted)
    # byte for byte
    assert rles == [coco.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in wanted]
    np.testing.assert_array_equal(ops.masks_from_logits(tensor, height, width).numpy(), wanted)
    np.testing.assert_array_equal(
        unpacked(ops.masks_from_logits(tensor, height, width, packed=True).numpy(), width), wanted
    )
    runs, starts = ops.mask_runs(tensor, height, width)
    for mask, low, high in zip(wanted, starts, starts[1:], strict=False):
        lengths = runs[low:high].tolist()
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        np.testing.assert_array_equal(flat.reshape(width, height).T, mask)


SPECIAL = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-44, -1e-44, 3e38, -3e38]


@pytest.mark.parametrize("size", [(30, 41), (5, 4)], ids=str)
def test_special_logits(size: tuple[int, int]) -> None:
    """Not at the map's own size, where interpolate itself gives 0 * inf or not depending on its
    code path.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 7, 9, generator=generator)
    for index in torch.randint(0, logits.numel(), (120,), generator=generator).tolist():
        logits.view(-1)[index] = SPECIAL[index % len(SPECIAL)]
    np.testing.assert_array_equal(masks.bitmaps(logits, *size), expected(logits, *size).numpy())


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, -float("inf"), float("nan")])
def test_constant_and_single_pixel_maps(value: float) -> None:
    for shape in ((1, 1, 1), (2, 5, 3)):
        logits = torch.full(shape, value)
        wanted = expected(logits, 6, 11).numpy()
        np.testing.assert_array_equal(masks.bitmaps(logits, 6, 11), wanted)
        np.testing.assert_array_equal(
            coco.decode(masks.rles(logits, 6, 11)).transpose(2, 0, 1).astype(bool), wanted
        )
        assert masks.bitmaps(logits, 1, 1).shape == (shape[0], 1, 1)


def test_no_masks() -> None:
    assert masks.rles(np.zeros((0, 3, 3)), 4, 5) == [] and masks.bitmaps(
        np.zeros((0, 3, 3)), 4, 5
    ).shape == (0, 4, 5)
    nothing = torch.zeros(0, 3, 3)
    assert (
        ops.masks_from_logits(nothing, 4, 5).shape == (0, 4, 5)
        and len(ops.mask_runs(nothing, 4, 5)[0]) == 0
    )


def test_crop_to_boxes() -> None:
    logits = blobs(6, 9, 11) + 0.5
    size = (40, 53)
    boxes = torch.tensor(
        [
            [3.2, 4, 30.5, 33.5],
            [-5, -5, 99, 99],
            [10, 10, 10, 20],
            [20, 9, 5, 30],
            [float("nan"), 0, 9, 9],
            [0, 20.4, 53, 40],
        ]
    )
    x = torch.arange(53) + 0.5
    y = torch.arange(40)[:, None] + 0.5
    left, top, right, bottom = (side[:, None, None] for side in boxes.T)
    wanted = (
        expected(logits, *size) & (x >= left) & (x < right) & (y >= top) & (y < bottom)
    ).numpy()
    assert wanted[0].any() and wanted[5].any() and not wanted[2:5].any()
    np.testing.assert_array_equal(masks.bitmaps(logits, *size, boxes_xyxy=boxes), wanted)
    np.testing.assert_array_equal(
        unpacked(masks.packed_bits(logits, *size, boxes_xyxy=boxes), 53), wanted
    )
    decoded = (
        coco.decode(masks.rles(logits, *size, boxes_xyxy=boxes)).transpose(2, 0, 1).astype(bool)
    )
    np.testing.assert_array_equal(decoded, wanted)
    np.testing.assert_array_equal(
        ops.masks_from_logits(logits, *size, boxes_xyxy=boxes).numpy(), wanted
    )


def test_run_lengths_of_a_full_hd_image_need_no_enlarged_map() -> None:
    setup = """
import sys, numpy as np
sys.modules["torch"] = None
from rfdetr_repro.data import mask_logits as masks
y, x = np.mgrid[:108, :108]
logits = np.float32([2 + k / 10 - np.hypot(x - k, y - k) / 9 for k in range(100)])
masks.rles(logits[:1], 108, 108)
"""
    assert peak_growth(setup, "assert len(masks.rles(logits, 1080, 1920)) == 100") < 6 << 20
    # so the measure does see compiled memory
    assert peak_growth(setup, "masks.bitmaps(logits, 1080, 1920)") > 180 << 20


BAD = {
    "axes": (np.zeros((3, 3)), 4, 4, {}, "shape"),
    "empty map": (np.zeros((1, 0, 3)), 4, 4, {}, "h, w >= 1"),
    "size 0": (np.zeros((1, 3, 3)), 0, 4, {}, "cannot enlarge"),
    "too many pixels": (np.zeros((1, 3, 3)), 2**16, 2**15, {}, "cannot enlarge"),
    "boxes": (np.zeros((1, 3, 3)), 4, 4, {"boxes_xyxy": np.zeros((2, 4))}, "boxes must"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    logits, height, width, more, message = BAD[case]
    with pytest.raises(InputError, match=message):
        masks.rles(logits, height, width, **more)
    tensors = {name: torch.from_numpy(value).float() for name, value in more.items()}
    with pytest.raises(RuntimeError, match=message.replace("shape", "must be")):
        ops.masks_from_logits(torch.from_numpy(logits), height, width, **tensors)
    with pytest.raises(InputError, match="threads"):
        masks.rles(np.zeros((1, 3, 3)), 4, 4, threads=0)


def test_bad_numbers() -> None:
    with pytest.raises(InputError, match="mask logits must be an array of numbers"):
        masks.rles([[["a"]]], 4, 4)
    with pytest.raises(InputError, match="boxes must be an array of numbers"):
        masks.rles(np.zeros((1, 3, 3)), 4, 4, boxes_xyxy=[["a", 0, 1, 1]])
    with pytest.raises(InputError, match="height 4.0 must be a whole number"):
        masks.rles(np.zeros((1, 3, 3)), 4.0, 4)  # type: ignore[arg-type]


def test_works_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from rfdetr_repro.data import mask_logits as masks; "
        "print(masks.rles([[[1.0]]], 2, 3))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0 and "'size': [2, 3]" in done.stdout, done.stderr
