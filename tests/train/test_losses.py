"""Matching and losses: optimality, groups, empty targets, and each formula against a direct
computation.
"""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from tiny import ARCH, TRAIN, images_for, tiny_detector

from rfdetr_repro.data.transforms import Target
from rfdetr_repro.model.detector import Outputs
from rfdetr_repro.train.dense import DenseHead, smallest_box_at
from rfdetr_repro.train.losses import count_boxes, detection_losses, iou_aware_classification
from rfdetr_repro.train.mask_points import (
    PointDraws,
    dice_loss,
    mask_costs,
    mask_losses,
    nearest_pixels,
    uncertain_points,
)
from rfdetr_repro.train.matcher import match, stage_costs


def target(count: int, seed: int = 0, masks: bool = True) -> Target:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
    size = torch.rand(count, 2, generator=generator) * 0.3 + 0.1
    boxes = torch.cat([centre, size], dim=1)
    rows = (torch.arange(64) + 0.5) / 64
    inside = [((rows - box[i]).abs() < box[i + 2] / 2) for box in boxes for i in (1, 0)]
    drawn = (
        torch.stack([y[:, None] & x[None] for y, x in zip(inside[::2], inside[1::2], strict=True)])
        if count
        else torch.zeros(0, 64, 64, dtype=torch.bool)
    )
    return Target(
        boxes, torch.randint(18, (count,), generator=generator), drawn if masks else None, seed
    )


def outputs_of(queries: int, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(1, queries, 4, generator=generator) * 0.4 + 0.2
    return Outputs(torch.randn(1, queries, 18, generator=generator), boxes, None)


def test_match_is_optimal_in_every_group() -> None:
    outputs = outputs_of(8)
    wanted = target(3)
    (((rows, columns),),) = match([outputs], [wanted], 2, TRAIN)
    cost = stage_costs(outputs, [wanted], TRAIN, None).T
    assert len(rows) == 6 and sorted(columns[:3].tolist()) == [0, 1, 2]
    for group in range(2):
        block = cost[group * 4 : group * 4 + 4]
        best = min(
            sum(block[row, column] for column, row in enumerate(order))
            for order in permutations(range(4), 3)
        )
        assert (rows[group * 3 : group * 3 + 3] // 4 == group).all()
        assert cost[
            rows[group * 3 : group * 3 + 3], columns[group * 3 : group * 3 + 3]
        ].sum() == pytest.approx(float(best))


def test_not_finite_costs_do_not_raise() -> None:
    outputs = outputs_of(4)
    outputs.boxes_cxcywh[0, 1] = torch.nan
    outputs.boxes_cxcywh[0, 2] = torch.inf
    (((rows, _),),) = match([outputs], [target(2)], 1, TRAIN)
    assert not {1, 2} & set(rows.tolist())


def test_classification_loss_is_the_formula() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    ious = torch.tensor([0.6, 0.0], dtype=torch.float64)
    rows = torch.tensor([1, 3])
    labels = torch.tensor([0, 2])
    loss = iou_aware_classification(logits, rows, labels, ious)
    expected = 0.0
    p = logits.sigmoid()
    for q in range(4):
        for c in range(3):
            if (q, c) in ((1, 0), (3, 2)):
                t = max(0.01, float(p[q, c]) ** 0.25 * float(ious[0 if q == 1 else 1]) ** 0.75)
                expected += -t * p[q, c].log() - (1 - t) * (1 - p[q, c]).log()
            else:
                expected += -(p[q, c] ** 2) * (1 - p[q, c]).log()
    assert float(loss) == pytest.approx(float(expected))
    got, want = (
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected)
    )
    assert torch.allclose(got, want)  # the background weight p^2 carries gradient, t does not


def test_losses_cover_every_stage_and_empty_images() -> None:
    detector = tiny_detector()
    images = images_for(ARCH, 2)
    maps = detector.features(images, 16, 1)
    outputs = detector.training_outputs(maps, (64, 64), ARCH)
    total, parts = detection_losses(outputs, [target(3), target(0)], 3, TRAIN, PointDraws(0))
    assert {name.split("/")[0] for name in parts} == {"layer1", "layer2", "encoder"}
    assert {name.split("/")[1] for name in parts} == {
        "class",
        "l1",
        "giou",
        "mask_bce",
        "mask_dice",
    }
    total.backward()
    unused = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert not unused
    nothing, _ = detection_losses(
        detector.training_outputs([one.detach() for one in maps], (64, 64), ARCH),
        [target(0)] * 2,
        3,
        TRAIN,
    )
    assert (
        nothing.isfinite()
        and count_boxes([target(0)], 13) == 1.0
        and count_boxes([target(2)], 13) == 26.0
    )


def test_perfect_masks_cost_nothing() -> None:
    detector = tiny_detector()
    wanted = target(2)
    maps = detector.features(images_for(ARCH, 1), 16, 1)
    features = detector.training_outputs(maps, (64, 64), ARCH).encoder.masks
    points = torch.rand(50, 2)
    bce, dice = mask_costs(features, 0, wanted.masks, points)
    assert bce.shape == (27 if ARCH.tokens < 10 else 30, 2) and (dice >= 0).all()
    truth = wanted.masks.float().flatten(1)
    assert (
        dice_loss((truth - 0.5) * 200, truth).max()
        < 1e-3
        < 0.5
        < dice_loss((0.5 - truth) * 200, truth).min()
    )
    empty = (torch.zeros(0, dtype=torch.long),) * 2
    assert mask_losses(features, [empty], [wanted.masks], PointDraws(0)).tolist() == [0.0, 0.0]


def test_points_prefer_the_boundary_and_follow_the_generator() -> None:
    logits = torch.linspace(-10, 10, 32).expand(1, 32, 32)  # zero crossing at x = 0.5
    first, second = (
        uncertain_points(logits, 100, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert (first[0, :75, 0] - 0.5).abs().mean() < 0.15 < (first[0, 75:, 0] - 0.5).abs().mean()


def test_dense_loss_counts_the_smallest_box_and_has_gradients() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.8, 0.8], [0.5, 0.5, 0.2, 0.2]])
    assert smallest_box_at(
        torch.tensor([[0.5, 0.5], [0.2, 0.2], [0.01, 0.01]]), boxes
    ).tolist() == [1, 0, -1]
    assert smallest_box_at(torch.rand(3, 2), torch.zeros(0, 4)).tolist() == [-1, -1, -1]
    detector = tiny_detector()
    head = DenseHead(detector.config)
    memory = torch.randn(2, 32, 4, 4, requires_grad=True)
    loss, tokens = head.loss(memory, [target(2), target(0)])
    loss.backward()
    assert (
        loss > 0
        and 0 < tokens < 16
        and memory.grad[0].abs().sum() > 0
        and head.boxes.weight.grad.abs().sum() > 0
    )
    nothing, tokens = head.loss(memory, [target(0)] * 2)
    assert nothing.isfinite() and tokens == 0


def test_pixels_of_masks_equal_grid_sample():
    """The pixels that are read without a conversion of the masks are those of PyTorch's own
    nearest sampling, on pixel borders too.
    """
    generator = torch.Generator().manual_seed(3)
    for height, width in ((1, 1), (5, 7), (64, 48), (33, 90)):
        masks = torch.rand(4, height, width, generator=generator) > 0.5
        points = torch.rand(6, 200, 2, generator=generator)
        points[:, :50, 0] = torch.randint(0, width + 1, (6, 50), generator=generator) / width
        points[:, 50:90] = (points[:, 50:90] * 8).round() / 8
        rows = torch.randint(0, 4, (6,), generator=generator)
        grid = 2 * points[:, :, None] - 1
        expected = F.grid_sample(
            masks[rows][:, None].float(),
            grid,
            mode="nearest",
            padding_mode="border",
            align_corners=False,
        )
        assert torch.equal(nearest_pixels(masks, rows, points), expected[:, 0, :, 0])


def test_projected_queries_train_as_projected_pixels():
    """The factored form that training uses has the logits, and the gradients of every parameter, of
    the head's own formula.
    """
    head = tiny_detector(seed=5).mask_head
    assert head is not None
    generator = torch.Generator().manual_seed(6)
    dim = head.pixel_proj.in_channels
    pixels = torch.randn(2, dim, 6, 5, generator=generator, requires_grad=True)
    queries = torch.randn(2, 7, dim, generator=generator, requires_grad=True)
    weights = torch.randn(2, 7, 6, 5, generator=generator)
    inputs = [pixels, queries, *head.pixel_proj.parameters(), *head.query_block.parameters()]
    results = []
    for form in (head.features, head.training_features):
        logits = form(pixels, queries).logits()
        results.append((logits, torch.autograd.grad((logits * weights).sum(), inputs)))
    (ours, ours_grads), (theirs, theirs_grads) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
