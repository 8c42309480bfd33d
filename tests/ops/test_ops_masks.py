"""The mask operators on tensors, on every device; test_masks.py has the rest of them, on arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import DEVICES
from samples_masks import blobs, expected, unpacked

from rfdetr_repro import ops


@pytest.mark.parametrize("device", DEVICES)
def test_tensor_operator_on_every_device(device: str) -> None:
    logits = blobs(5, 27, 27).to(device)
    size = (121, 203)
    wanted = expected(logits.cpu(), *size)
    assert torch.equal(ops.masks_from_logits(logits, *size).cpu(), wanted)
    bits = ops.masks_from_logits(logits, *size, packed=True).cpu()
    np.testing.assert_array_equal(unpacked(bits.numpy(), 203), wanted.numpy())


def test_opcheck() -> None:
    logits = blobs(2, 5, 6)
    boxes = torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9]])
    torch.library.opcheck(torch.ops.rfdetr.masks_from_logits.default, (logits, 11, 13, None, False))
    torch.library.opcheck(torch.ops.rfdetr.masks_from_logits.default, (logits, 11, 13, boxes, True))
    torch.library.opcheck(torch.ops.rfdetr.mask_runs.default, (logits, 11, 13, boxes))


def test_mask_logits() -> None:
    queries = torch.randn(2, 5, 8)
    pixels = torch.randn(2, 8, 3, 4)
    bias = torch.randn(1)
    torch.testing.assert_close(
        ops.mask_logits(queries, pixels, bias),
        torch.einsum("bnd,bdhw->bnhw", queries, pixels) + bias,
    )
