"""The CUDA kernel of masks without a GPU: its text, compiled for the host, writes the bits of the
CPU operator and nothing beside them.
"""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from cuda_host import compiled_for_the_host, pointer
from samples_masks import blobs

from rfdetr_repro import ops


class Masks(ctypes.Structure):
    _fields_ = [("logits", ctypes.c_void_p), ("boxes", ctypes.c_void_p)]
    _fields_ += [
        (name, ctypes.c_int64) for name in ("count", "height", "width", "out_height", "out_width")
    ]
    _fields_ += [("packed", ctypes.c_int), ("out", ctypes.c_void_p)]


@pytest.fixture(scope="module", params=[[], ["-DRFDETR_INDEX_LIMIT=0"]], ids=["32 bits", "64 bits"])
def mask_kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    """With the indices that fit, and as if 32 bits were too few."""
    return compiled_for_the_host("masks", tmp_path_factory.mktemp("masks"), request.param)


MASK_LOGITS = {
    "noise": lambda: torch.randn(3, 7, 9, generator=torch.Generator().manual_seed(0)),
    "blobs": lambda: blobs(3, 11, 6),
    "one row": lambda: blobs(3, 1, 9),
    "one logit": lambda: torch.tensor([[[1.0]], [[-1.0]], [[0.0]]]),
    "special": lambda: special_logits(3, 7, 9),
    "a few NaN": lambda: sparse(float("nan")),
    "a few infinite": lambda: sparse(float("inf")),
    "a few tiny": lambda: sparse(1e-44),
}


# Enlarged so much that eight pixels touch few columns of the map, or not; every alignment of rows.
MASK_SIZES = [(23, 64), (40, 97), (33, 100), (50, 302), (23, 37), (9, 16), (5, 4), (1, 1), (2, 643)]


def sparse(odd: float) -> torch.Tensor:
    """Maps of one sign, but for a few logits."""
    logits = torch.ones(3, 7, 9)
    logits[1] = -1
    for row, column in ((0, 1), (3, 8), (6, 4)):
        logits[0, row, column] = odd
        logits[1, row, column] = -odd
        logits[2, row, column] = 0 if odd == odd else odd
    return logits


def special_logits(*shape: int) -> torch.Tensor:
    """Noise with numbers for which corners of one sign do not decide the pixels between."""
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0, -0.0, 1e-44, -1e-44, 3e38])
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).flatten()
    logits[::3] = odd[torch.arange(len(logits[::3])) % len(odd)]
    logits = logits.view(shape)
    logits[0] = logits[0].abs()
    logits[1] = -logits[1].abs()
    return logits


@pytest.mark.parametrize("packed", [False, True], ids=["bool", "packed"])
@pytest.mark.parametrize("kind", MASK_LOGITS)
def test_masks_kernel_on_the_host(mask_kernels: ctypes.CDLL, packed: bool, kind: str) -> None:
    logits = MASK_LOGITS[kind]()
    crop = torch.tensor([[1.5, 2, 30, 20], [0, 0, 999, 99], [3, 3, 2, 9]])
    # neither more nor less than the pixels is written, wherever the first lies
    for size, boxes, offset in itertools.product(MASK_SIZES, (None, crop), (0, 3)):
        expected = ops.masks_from_logits(logits, *size, boxes_xyxy=boxes, packed=packed)
        room = torch.full((expected.numel() + 16,), 7, dtype=torch.uint8)
        out = room[offset : offset + expected.numel()]
        masks = Masks(pointer(logits), pointer(boxes), *logits.shape, *size, packed, pointer(out))
        assert mask_kernels.rfdetr_masks_launch(ctypes.byref(masks), None) == 0
        assert torch.equal(out, expected.to(torch.uint8).flatten()), (size, boxes, offset)
        assert bool((room[:offset] == 7).all()) and bool((room[offset + len(out) :] == 7).all())


def test_masks_kernel_with_many_rows_of_a_thread(mask_kernels: ctypes.CDLL) -> None:
    """So many masks that a thread takes several rows, and rows beyond the image are nobody's."""
    logits = blobs(160, 9, 9)
    for size, packed in (((203, 333), False), ((450, 640), True)):
        expected = ops.masks_from_logits(logits, *size, packed=packed)
        out = torch.full(expected.shape, 7, dtype=torch.uint8)
        masks = Masks(pointer(logits), None, *logits.shape, *size, packed, pointer(out))
        assert mask_kernels.rfdetr_masks_launch(ctypes.byref(masks), None) == 0
        assert torch.equal(out, expected.to(torch.uint8))
