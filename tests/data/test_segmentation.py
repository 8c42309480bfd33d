"""Segmentations of COCO files: which are no masks, and what compressed run lengths mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rfdetr_repro.data.segmentation import check_segmentation, decode_mask

WRAPPED = [2**32 + 2000, 60 * 80 - 2000]  # adds up to the image in 32 bits only


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [60, 80], "counts": WRAPPED},
        {"size": [60, 80], "counts": [2**63 - 1, 2**63 - 1, 60 * 80 + 2]},
        {"size": [60, 80], "counts": [10**400]},
        {"size": [60, 80], "counts": "oooooooooo0"},
        {"size": [60, 80], "counts": "P"},
        {"size": [60, 80], "counts": [4800.5]},
        {"size": [60, 80], "counts": None},
        {"size": 60, "counts": "0"},
        [[10**400, 1, 2, 3, 4, 5]],
        [[float("nan"), 1, 2, 3, 4, 5]],
        [["1", 1, 2, 3, 4, 5]],
        [1, 2, 3, 4, 5, 6],
        "text",
    ],
)
def test_segmentations_that_would_wrap_or_crash_are_no_masks(segmentation: Any) -> None:
    with pytest.raises(ValueError):
        check_segmentation(segmentation, 60, 80)


def test_compressed_counts_are_those_of_pycocotools() -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for height, width, share in [
        (1, 1, 1.0),
        (7, 5, 0.0),
        (7, 5, 1.0),
        (90, 70, 0.5),
        (400, 300, 0.001),
        (300, 900, 0.999),
    ]:
        mask = rng.random((height, width)) < share
        mask[: height // 2, : width // 3] = True
        rle = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert np.array_equal(
            decode_mask({"size": [height, width], "counts": rle["counts"]}, height, width), mask
        )
