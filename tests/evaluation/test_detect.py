"""Pictures of every kind, ranking with ties, masks at picture size, unseen patch sizes: what
prediction is made of.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples import peak_growth
from samples_coco import picture

from rfdetr_repro.data.segmentation import decode_mask, masks_to_bitmaps, masks_to_rle
from rfdetr_repro.evaluation.predict_images import load_picture
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.postprocess import best_first
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PRESETS


def test_every_kind_of_picture_is_the_same_picture(tmp_path: Path) -> None:
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds: list[Any] = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(pixels),
        pixels,
        tensor,
        tensor.float() / 255,
    ]
    for kind in kinds:
        assert np.array_equal(load_picture(kind), pixels)


def test_unusual_files(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "one.png")
    assert load_picture(tmp_path / "one.png").tolist() == [[[9, 8, 7]]]
    wide = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    Image.fromarray(wide).save(tmp_path / "sixteen.png")
    assert np.array_equal(
        load_picture(tmp_path / "sixteen.png")[..., 1], np.rint(wide / 257).astype(np.uint8)
    )
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red = load_picture(tmp_path / "cmyk.jpg")
    assert red.shape == (2, 3, 3) and red[0, 0, 0] > 200 > 60 > red[0, 0, 1]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(picture(40, 60)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_picture(tmp_path / "turned.jpg").shape == (60, 40, 3)
    for mode in ("L", "P", "RGBA", "1"):
        assert load_picture(Image.new(mode, (5, 4))).shape == (4, 5, 3)


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    whole = tmp_path / "whole.jpg"
    Image.fromarray(picture()).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:-200])
    for name in ("empty.jpg", "cut.jpg", "absent.jpg"):
        with pytest.raises(InputError, match=name):
            load_picture(tmp_path / name)
    for wrong in (
        picture().astype(float),
        picture()[None],
        torch.zeros(4, 5, 6),
        3,
        np.zeros((0, 5, 3), np.uint8),
    ):
        with pytest.raises(InputError, match="image"):
            load_picture(wrong)
    with pytest.raises(InputError, match="0..1"):
        load_picture(torch.randn(3, 8, 8))


def test_equal_scores_come_in_order_of_index() -> None:
    generator = torch.Generator().manual_seed(0)
    for k in (1, 7, 20, 30):
        values = torch.randint(0, 4, (5, 30), generator=generator).float()
        found, index = best_first(values, k)
        for row in range(5):
            wanted = sorted(range(30), key=lambda column: (-values[row, column].item(), column))[:k]
            assert index[row].tolist() == wanted and torch.equal(found[row], values[row, wanted])


def test_bitmaps_are_the_decoded_rles() -> None:
    logits = torch.randn(7, 13, 17, generator=torch.Generator().manual_seed(0)) - 0.5
    logits[2] = -1
    bitmaps = masks_to_bitmaps(logits, 96, 131)
    rles = masks_to_rle(logits, 96, 131)
    assert all(
        np.array_equal(bitmap, decode_mask(rle, 96, 131))
        for bitmap, rle in zip(bitmaps, rles, strict=True)
    )


def test_a_hundred_masks_of_a_large_picture_need_little_beyond_the_result() -> None:
    setup = """
import numpy as np
from rfdetr_repro.data.segmentation import masks_to_bitmaps
logits = np.random.default_rng(0).normal(size=(100, 96, 96)).astype(np.float32)
masks_to_bitmaps(logits[:1], 108, 192)
"""
    work = (
        "bitmaps = masks_to_bitmaps(logits, 1080, 1920); assert bitmaps.shape == (100, 1080, 1920)"
    )
    result = 100 * 1080 * 1920
    assert result * 0.95 < peak_growth(setup, work) < result + (64 << 20)


@pytest.mark.parametrize("patch", [14, 18, 21, 27])
def test_unseen_patch_sizes_run_at_640(patch: int) -> None:
    """The paper's fixed-resolution family: patch sizes never trained, 640 px rounded down to whole
    windows.
    """
    row = replace(PRESETS["nano"].model, queries=20, groups=1)
    with torch.device("meta"):  # shapes only: the arithmetic of unseen patches is test_vit's
        arch = Arch(640, patch, 2, 2, 20)
        detector = Detector(replace(row, patch=patch, pos_grid=arch.grid_hw[0]), arch)
        outputs = detector.eval()(torch.empty(1, 3, *arch.input_hw))
    assert arch.input_hw[0] == {14: 616, 18: 612, 21: 630, 27: 594}[
        patch
    ] and outputs.logits.shape == (1, 20, 91)
