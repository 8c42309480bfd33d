"""Detections drawn on a picture at its own size, and the rule of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rfdetr_repro.plots.detections import (
    Annotations,
    best_of_each_box,
    class_color,
    draw_detections,
)
from rfdetr_repro.plots.label_rule import COVERS, FEW, SHARE, place_labels
from rfdetr_repro.plots.overlay import draw_over


def rectangles(placed: Any, size: tuple[float, float]) -> list[tuple[float, ...]]:
    return [(one.left, one.top, one.left + size[0], one.top + size[1]) for one in placed]


def overlap(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


@pytest.mark.parametrize("seed", range(30))
def test_labels_cover_neither_each_other_nor_the_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hw = (int(rng.integers(80, 900)), int(rng.integers(80, 900)))
    count = int(rng.integers(0, 60))
    corner = rng.uniform(0, 0.95, (count, 2)) * [hw[1], hw[0]]
    boxes = np.column_stack(
        [corner, np.minimum(corner + rng.uniform(5, 150, (count, 2)), hw[::-1])]
    )
    labels, scores = rng.integers(0, 4, count), rng.uniform(0, 1, count)
    size = (float(rng.uniform(20, 90)), float(rng.uniform(8, 20)))
    placed = place_labels(boxes, labels, scores, lambda row: size, hw)
    drawn = rectangles(placed, size)
    for index, one in enumerate(drawn):
        assert all(overlap(one, other) == 0 for other in drawn[:index])
        for row, box in enumerate(boxes):
            area = (box[2] - box[0]) * (box[3] - box[1])
            assert row == placed[index].row or overlap(one, box) <= COVERS * area + 1e-6
    assert len(drawn) * size[0] * size[1] <= SHARE * hw[0] * hw[1]
    if count > FEW:
        assert len(placed) <= len(set(labels.tolist()))
        assert len({int(labels[one.row]) for one in placed}) == len(placed)


def test_a_lone_object_has_its_label_and_ground_truth_too() -> None:
    box = np.array([[100.0, 100, 200, 180]])
    for scores in (np.array([0.9]), None):
        (placed,) = place_labels(box, np.array([1]), scores, lambda row: (60, 14), (400, 500))
        assert (placed.row, placed.left, placed.top) == (0, 100, 86)
    top = np.array([[0.0, 0, 200, 380]])  # no room above, none below
    (placed,) = place_labels(top, np.array([1]), None, lambda row: (60, 14), (384, 500))
    assert placed.top == 0


def test_boxes_and_masks_are_drawn_where_they_are() -> None:
    image = np.full((80, 120, 3), 200, dtype=np.uint8)
    mask = np.zeros((1, 80, 120), dtype=bool)
    mask[0, 30:50, 40:70] = True
    found = Annotations(np.array([[40.0, 30, 70, 50]]), np.array([0]), np.array([0.9]), mask)
    drawn = draw_over(image.copy(), found, ["cat"])
    changed = (drawn != 200).any(axis=2)
    color = np.array([int(class_color(0)[i : i + 2], 16) for i in (1, 3, 5)])
    for row, column in ((30, 40), (49, 69), (30, 69), (49, 40), (40, 40), (30, 55)):
        assert np.array_equal(drawn[row, column], color)
    assert changed[30:50, 40:70].all()
    outside = changed.copy()
    outside[30:50, 40:70] = False
    rows = np.flatnonzero(outside.any(axis=1))
    assert len(rows) and rows.max() < 30, "the label stands above the box"
    assert drawn.shape == image.shape and drawn.dtype == np.uint8


def test_the_given_array_is_not_changed_unless_it_can_be_written() -> None:
    image = np.full((40, 40, 3), 9, dtype=np.uint8)
    image.setflags(write=False)
    found = Annotations(np.array([[3.0, 3, 30, 30]]), np.array([0]), np.array([0.9]))
    assert (image == 9).all() and (draw_over(image, found) != 9).any()


@pytest.mark.parametrize(
    "box",
    [[-5.0, -5, 3, 3], [38, 38, 40, 40], [0, 0, 40, 40], [10, 10, 10.2, 10.2], [39.9, 0, 40, 9]],
)
def test_boxes_at_the_border_and_tiny_boxes(box: list[float]) -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    found = Annotations(np.array([box]), np.array([0]), np.array([0.9]))
    assert draw_over(image, found, ["a"]).any()


def test_every_letter_of_a_name_can_be_drawn() -> None:
    image = np.zeros((300, 900, 3), dtype=np.uint8)
    names = ["Blutplättchen", "тромбоцит", "犬", "\\frac{US$}{%}", "a" * 400, "🦊", "\t\n"]
    boxes = np.array([[10.0, 40 + 35 * row, 100, 60 + 35 * row] for row in range(len(names))])
    found = Annotations(boxes, np.arange(len(names)), np.linspace(0.9, 0.5, len(names)))
    assert draw_over(image, found, names).any()


def test_a_dense_picture_is_not_buried_by_text() -> None:
    """The share of the picture that drawing changes, beyond the outlines of the boxes."""
    rng = np.random.default_rng(0)
    image = np.full((512, 512, 3), 120, dtype=np.uint8)
    corner = rng.uniform(0, 490, (150, 2))
    boxes = np.column_stack([corner, corner + 18])
    found = Annotations(boxes, np.zeros(150, dtype=int), rng.uniform(0.3, 1, 150))
    drawn = draw_over(image.copy(), found, ["nucleus"])
    inside = np.zeros((512, 512), dtype=bool)
    for left, top, right, bottom in boxes.round().astype(int):
        inside[top:bottom, left:right] = True
    changed = (drawn != 120).any(axis=2)
    assert 0 < (changed & ~inside).mean() < 0.01


def test_the_same_rule_in_the_figures() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 90, (40, 2))
    found = Annotations(
        np.column_stack([corner, corner + 8]), np.arange(40) % 2, rng.uniform(0.5, 1, 40)
    )
    figure = Figure(figsize=(6.7, 3.5))
    FigureCanvasAgg(figure)
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    draw_detections(figure, [image], [found], class_names=["one", "two"], columns=1)
    assert len(figure.axes[0].texts) <= 2 and len(figure.axes[0].patches) == 40
    figure = Figure(figsize=(6.7, 3.5))
    few = Annotations(found.boxes_xyxy[:1], found.labels[:1], found.scores[:1])
    draw_detections(figure, [image], [few], class_names=["one", "two"], columns=1)
    assert len(figure.axes[0].texts) == 1


def test_the_best_of_each_box_is_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        count = int(rng.integers(0, 60))
        corner = rng.uniform(0, 60, (count, 2))
        boxes = np.column_stack([corner, corner + rng.uniform(5, 40, (count, 2))])
        found = Annotations(boxes, np.arange(count), np.sort(rng.uniform(0, 1, count))[::-1])
        kept: list[int] = []
        for row in range(count):
            worst = 0.0
            for other in kept:
                inner = overlap(boxes[row], boxes[other])
                areas = [np.prod(boxes[one][2:] - boxes[one][:2]) for one in (row, other)]
                worst = max(worst, inner / (sum(areas) - inner))
            kept += [row] * bool(worst < 0.7)
        assert best_of_each_box(found).labels.tolist() == kept
