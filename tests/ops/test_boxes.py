"""Box formats and overlaps against hand-computed cases and properties."""

from __future__ import annotations

import pytest
import torch

from rfdetr_repro.ops import boxes

CASES = [  # two boxes xyxy, IoU, GIoU
    ((0, 0, 2, 2), (0, 0, 2, 2), 1.0, 1.0),
    ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
    ((0, 0, 1, 1), (2, 0, 3, 1), 0.0, -1 / 3),
    ((0, 0, 2, 1), (0, 0, 1, 1), 0.5, 0.5),
    ((0, 0, 1, 1), (1, 0, 2, 1), 0.0, 0.0),  # touching
    ((1, 1, 1, 1), (1, 1, 1, 1), 0.0, 0.0),  # no area at all
]


def random_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return boxes.cxcywh_to_xyxy(
        torch.rand(*shape, 4, generator=generator, dtype=torch.float64) + 0.05
    )


@pytest.mark.parametrize(("a", "b", "iou", "giou"), CASES)
def test_known_overlaps(a: tuple, b: tuple, iou: float, giou: float) -> None:
    left = torch.tensor([a], dtype=torch.float64)
    right = torch.tensor([b], dtype=torch.float64)
    assert boxes.paired_iou(left, right).item() == pytest.approx(iou, abs=1e-12)
    assert boxes.paired_giou(left, right).item() == pytest.approx(giou, abs=1e-12)


def test_formats() -> None:
    cxcywh = torch.tensor([[0.5, 0.25, 1.0, 0.5], [3.0, 4.0, 2.0, 6.0]])
    xyxy = torch.tensor([[0.0, 0.0, 1.0, 0.5], [2.0, 1.0, 4.0, 7.0]])
    assert torch.equal(boxes.cxcywh_to_xyxy(cxcywh), xyxy)


def test_bounds_and_symmetry() -> None:
    a = random_boxes(50, seed=3)
    b = random_boxes(40, seed=4)
    iou = boxes.paired_iou(a[:, None], b)
    giou = boxes.paired_giou(a[:, None], b)
    assert ((0 <= iou) & (iou <= 1)).all() and ((-1 <= giou) & (giou <= iou + 1e-12)).all()
    assert torch.allclose(giou, boxes.paired_giou(b[:, None], a).T)


@pytest.mark.parametrize("function", [boxes.paired_iou, boxes.paired_giou])
def test_gradients(function) -> None:
    a = random_boxes(4, seed=5).requires_grad_()
    b = random_boxes(4, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(function, (a, b))


def test_gradient_is_finite_without_area() -> None:
    point = torch.zeros(1, 4, requires_grad=True)
    boxes.paired_giou(point, torch.zeros(1, 4)).sum().backward()
    assert point.grad.isfinite().all()


def test_empty_sets() -> None:
    none = torch.zeros(0, 4)
    some = random_boxes(3).float()
    assert boxes.paired_giou(none[:, None], some).shape == (0, 3)
    assert boxes.paired_iou(some[:, None], none).shape == (3, 0)
    assert boxes.paired_giou(none, none).shape == (0,)
