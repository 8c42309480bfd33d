"""The one resize, normalisation and the training augmentations, with boxes and masks following the
pixels.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from samples_coco import ellipse

from rfdetr_repro.data.coco import Sample
from rfdetr_repro.data.network_input import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    network_input,
    normalise,
)
from rfdetr_repro.data.transforms import make_batch


def sample(seed: int = 0, height: int = 60, width: int = 80, count: int = 3) -> Sample:
    """Objects are ellipses painted white on black, so an image shows where its masks must be."""
    rng = np.random.default_rng(seed)
    masks = np.stack([ellipse(rng, height, width) for _ in range(count)])
    boxes = []
    for mask in masks:
        ys, xs = mask.nonzero()
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    image = np.repeat((masks.any(axis=0) * 255).astype(np.uint8)[..., None], 3, axis=2)
    return Sample(image, np.array(boxes, np.float32), np.arange(count), masks, 7)


def pixels(image: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """uint8 (*hw, 3) of the antialiased rule."""
    return np.rint(255 * network_input([image], hw)[0].transpose(1, 2, 0)).astype(np.uint8)


def test_resize_is_pillows_antialiased_bilinear() -> None:
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((32, 24), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels(image, (24, 32)), np.asarray(expected))
    assert np.array_equal(pixels(image, (61, 83)), image)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # a filter without antialiasing would keep the stripes
    assert np.abs(pixels(stripes, (16, 16))[:, 1:-1].astype(int) - 128).max() <= 1


def test_transforms_import_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import rfdetr_repro.data.transforms as t; "
        "print(t.SMALLEST_CROP)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "0.5" in done.stdout, done.stderr


def test_normalise() -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    expected = (images - np.float32(IMAGENET_MEAN).reshape(3, 1, 1)) / np.float32(
        IMAGENET_STD
    ).reshape(3, 1, 1)
    assert normalise(images) == pytest.approx(expected) and normalise(images).dtype == np.float32
    assert normalise(torch.from_numpy(images)).numpy() == pytest.approx(expected, abs=1e-6)


def test_evaluation_batch_is_resize_and_normalise() -> None:
    one = sample(0)
    two = sample(1, 33, 47)
    batch = make_batch([one, two], (32, 48))
    assert batch.images.shape == (2, 3, 32, 48) and batch.images.dtype == torch.float32
    assert batch.images[0].numpy() == pytest.approx(
        network_input([one.image], (32, 48), normalised=True)[0]
    )
    target = batch.targets[1]
    assert (target.image_id, target.boxes_cxcywh.dtype, target.labels.dtype) == (
        7,
        torch.float32,
        torch.int64,
    )
    x0, y0, x1, y1 = two.boxes_xyxy[0] / np.array([47, 33, 47, 33])
    assert target.boxes_cxcywh[0].tolist() == pytest.approx(
        [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], abs=1e-6
    )
    assert (
        target.masks is not None
        and target.masks.shape == (3, 32, 48)
        and target.masks.dtype == torch.bool
    )
    assert (
        make_batch([Sample(one.image, one.boxes_xyxy, one.labels, None, 1)], (32, 32))
        .targets[0]
        .masks
        is None
    )


@pytest.mark.parametrize("seed", range(8))
def test_boxes_and_masks_follow_the_pixels(seed: int) -> None:
    batch = make_batch(
        [sample(seed)],
        (64, 64),
        np.random.default_rng(seed),
        flip_probability=0.5,
        crop_probability=1.0,
    )
    target = batch.targets[0]
    white = batch.images[0, 0] > normalise(torch.full((3, 1, 1), 0.5))[0]
    assert target.masks is not None
    assert (white != target.masks.any(dim=0)).float().mean() < 0.03  # differs at the outlines only
    for box, mask in zip(target.boxes_cxcywh, target.masks, strict=True):
        assert (
            (box[2:] > 0).all()
            and (box[:2] - box[2:] / 2 >= -1e-6).all()
            and (box[:2] + box[2:] / 2 <= 1 + 1e-6).all()
        )
        ys, xs = mask.nonzero(as_tuple=True)
        if len(xs) > 20:
            found = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 64
            assert (
                found - torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
            ).abs().max() < 0.06


def test_flip_mirrors_exactly() -> None:
    one = sample()
    plain, flipped = (
        make_batch([one], (60, 80), np.random.default_rng(0), flip, 0.0) for flip in (0.0, 1.0)
    )
    assert torch.equal(flipped.images, plain.images.flip(-1))
    assert torch.equal(flipped.targets[0].masks, plain.targets[0].masks.flip(-1))
    # same size: nothing moves
    assert torch.equal(plain.targets[0].masks, torch.from_numpy(one.masks))
    mirrored = plain.targets[0].boxes_cxcywh.clone()
    mirrored[:, 0] = 1 - mirrored[:, 0]
    assert torch.allclose(flipped.targets[0].boxes_cxcywh, mirrored)


def test_crop_is_half_to_whole_and_drops_what_it_leaves_out() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    corners = np.float32([[0, 0, 4, 4], [196, 96, 200, 100], [0, 0, 200, 100]])
    widths = []
    dropped = 0
    for seed in range(40):
        target = make_batch(
            [Sample(image, corners, np.array([0, 1, 2]), np.ones((3, 100, 200), bool), 1)],
            (50, 50),
            np.random.default_rng(seed),
            0.0,
            1.0,
        ).targets[0]
        # covers any window
        assert target.labels[-1] == 2 and target.boxes_cxcywh[-1].tolist() == [0.5, 0.5, 1.0, 1.0]
        assert len(target.labels) == len(target.boxes_cxcywh) == len(target.masks)
        dropped += 3 - len(target.labels)
        # of the window as a part of the image, where wholly inside
        widths += (4 / (200 * target.boxes_cxcywh[:-1, 2])).tolist()
    assert dropped > 20 and min(widths) >= 0.49 and max(widths) > 0.8


def test_one_sample_does_not_depend_on_its_neighbours() -> None:
    alone = sample(0)
    pair = sample(1)
    first = make_batch([alone, pair], (32, 32), np.random.default_rng(3), 0.5, 0.5)
    second = make_batch([alone, alone], (32, 32), np.random.default_rng(3), 0.5, 0.5)
    assert torch.equal(first.images[0], second.images[0]) and not torch.equal(
        first.images[1], second.images[1]
    )


def test_image_without_objects() -> None:
    no_boxes = np.zeros((0, 4), np.float32)
    no_labels = np.zeros(0, np.int64)
    no_masks = np.zeros((0, 9, 9), bool)
    empty = Sample(np.zeros((9, 9, 3), np.uint8), no_boxes, no_labels, no_masks, 1)
    target = make_batch([empty], (16, 16), np.random.default_rng(0), 0.5, 0.5).targets[0]
    assert (
        target.boxes_cxcywh.shape == (0, 4)
        and target.masks is not None
        and target.masks.shape == (0, 16, 16)
    )
