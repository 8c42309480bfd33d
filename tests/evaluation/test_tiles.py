"""Tiles of a picture, against a simulation: a detector that finds every visible part of every
object in each tile must give the objects themselves after merging.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rfdetr_repro.data.segmentation import rle_of_crop
from rfdetr_repro.evaluation.tiles import Crop, Merged, Part, Tiling, Window, detect_in_tiles, merge
from rfdetr_repro.spec.errors import InputError

Array = np.ndarray[Any, Any]


class Scene:
    """Random objects in a random picture, and a random tiling."""

    def __init__(self, seed: int, least_px: float = 3.0) -> None:
        rng = np.random.default_rng(seed)
        height, width = (int(side) for side in rng.integers(100, 700, 2))
        self.hw = height, width
        tile_hw = tuple(int(side) for side in rng.integers(40, 260, 2))
        overlap = float(rng.choice([0, 0.1, 0.2, 0.35, 0.5]))
        self.windows = Tiling(tile_hw, overlap).windows(self.hw, (64, 64))  # type: ignore[arg-type]
        count = int(rng.integers(1, 40))
        largest = least_px + float(rng.choice([10, 30, 200]))  # larger than some tiles
        corners = rng.uniform(0, 1, (count, 2)) * [width - least_px - 1, height - least_px - 1]
        far = np.minimum(corners + rng.uniform(least_px, largest, (count, 2)), [width, height])
        self.boxes = np.round(np.concatenate([corners, far], axis=1), 2)
        self.labels = rng.integers(0, 3, count)
        self.scores = rng.uniform(0.3, 1, count)

    def seen(self, window: Window) -> Part:
        """What a perfect detector finds in a tile."""
        edges = np.array([window.left, window.top, window.right, window.bottom])
        low = np.maximum(self.boxes[:, :2], edges[:2])
        high = np.minimum(self.boxes[:, 2:], edges[2:])
        rows = np.flatnonzero((high > low).all(axis=1))
        placed = np.concatenate([low, high], axis=1)[rows] - np.tile(edges[:2], 2)
        return Part(placed, self.scores[rows], self.labels[rows])

    def merged(self) -> Merged:
        return detect_in_tiles(self.windows, self.seen, self.hw)


def as_set(boxes: Array, labels: Array) -> list[tuple[float, ...]]:
    return sorted(map(tuple, np.column_stack([np.round(boxes, 1), labels]).tolist()))


@pytest.mark.parametrize("block", range(5))
def test_a_perfect_detector_of_tiles_is_a_perfect_detector_of_the_picture(block: int) -> None:
    for seed in range(40 * block, 40 * block + 40):
        scene = Scene(seed)
        found = scene.merged()
        right = as_set(scene.boxes.astype(np.float32), scene.labels)
        assert as_set(found.boxes_xyxy, found.labels) == right, f"scene {seed}"
        assert (np.diff(found.scores) <= 0).all()
        assert sorted(found.scores.tolist()) == pytest.approx(sorted(scene.scores), abs=1e-6)


def test_the_simulation_shows_what_merging_is_for() -> None:
    """Without merging, and with suppression alone, the same scenes are wrong."""
    wrong = 0
    for seed in range(20):
        scene = Scene(seed)
        parts = [scene.seen(window) for window in scene.windows]
        alone = sum(len(part.scores) for part in parts)
        wrong += alone != len(scene.boxes)
    assert wrong >= 18


def test_coverage_and_overlap_of_tiles() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        hw = tuple(int(side) for side in rng.integers(16, 900, 2))
        how: Any = rng.choice([1, 2, 5]) if rng.random() < 0.5 else tuple(rng.integers(16, 300, 2))
        how = int(how) if not isinstance(how, tuple) else (int(how[0]), int(how[1]))
        overlap = float(rng.uniform(0, 0.5))
        windows = Tiling(how, overlap).windows(hw, (32, 32))  # type: ignore[arg-type]
        shown = np.zeros(hw, dtype=bool)
        for window in windows:
            assert 0 <= window.top < window.bottom <= hw[0]
            assert 0 <= window.left < window.right <= hw[1]
            shown[window.top : window.bottom, window.left : window.right] = True
        assert shown.all() and len({window.hw for window in windows}) == 1
        rows = sorted({(window.top, window.bottom) for window in windows})
        for (_, bottom), (top, _) in pairwise(rows):
            assert bottom - top >= overlap * windows[0].hw[0] - 1.001
        if isinstance(how, int):
            assert len(rows) <= how


def test_forms_of_a_tiling() -> None:
    assert Tiling.parse("auto").windows((100, 300), (100, 128))[0].hw == (100, 128)
    assert len(Tiling.parse("3", 0.0).windows((300, 300), (64, 64))) == 9
    assert Tiling.parse("48x64").windows((480, 640), (1, 1))[0].hw == (48, 64)
    assert Tiling.parse("480x640").windows((100, 100), (1, 1)) == [Window(0, 0, 100, 100)]
    for text in ("0", "-1", "x", "640", "8x640", "480x", "auto2", "1.5", ""):
        if text != "640":
            with pytest.raises(ValueError, match="is no tiling"):
                Tiling.parse(text)
    with pytest.raises(InputError, match="more than 100000"):
        Tiling((16, 16)).windows((9000, 9000), (64, 64))


def test_two_objects_that_one_tile_tells_apart_stay_two() -> None:
    """Nested boxes of one class, and the same box twice, in the common area of two tiles."""
    windows = [Window(0, 0, 100, 100), Window(0, 60, 100, 160)]
    boxes = np.array([[65, 20, 95, 60], [66, 21, 94, 59], [65, 20, 95, 60]], dtype=float)
    scores, labels = np.array([0.9, 0.8, 0.7]), np.zeros(3, dtype=int)
    parts = [Part(boxes, scores, labels), Part(boxes - [60, 0, 60, 0], scores, labels)]
    found = merge(windows, parts, (100, 160))
    assert np.allclose(found.boxes_xyxy, boxes) and found.scores.tolist() == pytest.approx(scores)


def test_a_cut_part_that_nothing_continues_is_kept_and_a_covered_one_is_not() -> None:
    windows = [Window(0, 0, 100, 100), Window(0, 80, 100, 180)]
    # whole on the right; on the left a strip of the same object that is far too narrow and low
    whole = np.array([[5.0, 10, 60, 90]])
    strip = np.array([[85.0, 10, 100, 35]])
    zero, one = np.zeros(1, dtype=int), np.ones(1, dtype=int)
    parts = [Part(strip, np.array([0.95]), zero), Part(whole, np.array([0.6]), zero)]
    found = merge(windows, parts, (100, 180))
    assert found.boxes_xyxy.tolist() == [[85, 10, 140, 90]]
    other = [Part(strip, np.array([0.95]), one), Part(whole, np.array([0.6]), zero)]
    assert len(merge(windows, other, (100, 180)).scores) == 2, "classes are merged one by one"
    alone = [Part(strip, np.array([0.95]), zero), Part(whole[:0], np.zeros(0), zero[:0])]
    assert merge(windows, alone, (100, 180)).boxes_xyxy.tolist() == strip.tolist()


def test_more_objects_than_a_model_has_queries_are_kept() -> None:
    """Each tile keeps its own best detections; the picture keeps them all."""
    xy = np.stack(np.meshgrid(np.arange(5, 395, 10), np.arange(5, 395, 10)), -1).reshape(-1, 2)
    boxes = np.column_stack([xy - 3, xy + 3]).astype(float)
    scores, queries = np.linspace(0.9, 0.4, len(boxes)), 120

    def seen(window: Window) -> Part:
        inside = ((boxes[:, :2] >= [window.left, window.top]).all(axis=1)) & (
            boxes[:, 2:] <= [window.right, window.bottom]
        ).all(axis=1)
        rows = np.flatnonzero(inside)[:queries]
        corner = [window.left, window.top] * 2
        return Part(boxes[rows] - corner, scores[rows], np.zeros(len(rows), dtype=int))

    found = detect_in_tiles(Tiling((100, 100)).windows((400, 400), (1, 1)), seen, (400, 400))
    assert len(found.scores) == len(boxes) == 1521
    assert as_set(found.boxes_xyxy, found.labels) == as_set(boxes, np.zeros(len(boxes)))


def test_parts_of_a_noisy_detector_are_one_box() -> None:
    """Boxes that are off by up to a pixel and a half, with scores of their own in each tile."""
    errors, counts = [], []
    for seed in range(60):
        scene = Scene(seed, least_px=20)
        rng = np.random.default_rng(seed)
        # objects apart from each other, so that each has one right answer
        rows: list[int] = []
        for row, box in enumerate(scene.boxes):
            gap = 8
            far = all(
                (box[:2] - gap > scene.boxes[other, 2:]).any()
                or (box[2:] + gap < scene.boxes[other, :2]).any()
                for other in rows
            )
            rows += [row] * far
        scene.boxes, scene.labels, scene.scores = (
            values[rows] for values in (scene.boxes, scene.labels, scene.scores)
        )

        def noisy(window: Window, scene: Scene = scene, rng: Any = rng) -> Part:
            part = scene.seen(window)
            wide = (part.boxes_xyxy[:, 2:] - part.boxes_xyxy[:, :2] >= 8).all(axis=1)
            boxes = part.boxes_xyxy[wide] + rng.uniform(-1.5, 1.5, (int(wide.sum()), 4))
            limits = np.array([*window.hw[::-1]] * 2)
            return Part(
                np.clip(boxes, 0, limits), rng.uniform(0.3, 1, len(boxes)), part.labels[wide]
            )

        found = detect_in_tiles(scene.windows, noisy, scene.hw)
        counts.append((len(found.scores), len(rows)))
        for box in found.boxes_xyxy:
            errors.append(np.abs(scene.boxes - box).max(axis=1).min())
    assert sum(found for found, _ in counts) == pytest.approx(
        sum(right for _, right in counts), rel=0.02
    )
    # without overlap up to 8 px of an object are in no detection
    assert np.mean(np.array(errors) <= 10) >= 0.97
    assert np.median(errors) <= 1.5


# -- masks -----------------------------------------------------------------------------------------


def disc(hw: tuple[int, int], centre: tuple[float, float], radius: float) -> Array:
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_masks_of_parts_are_the_mask_of_the_object(overlap: float) -> None:
    hw = (200, 260)
    objects = [disc(hw, (60, 70), 22), disc(hw, (110, 130), 55), disc(hw, (30, 220), 9)]

    def seen(window: Window) -> Part:
        masks = [mask[window.top : window.bottom, window.left : window.right] for mask in objects]
        rows = [row for row, mask in enumerate(masks) if mask.any()]
        boxes = []
        for row in rows:
            y, x = np.nonzero(masks[row])
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        scores = np.array([0.9 - 0.1 * row for row in rows])
        return Part(
            np.array(boxes, dtype=float).reshape(-1, 4),
            scores,
            np.zeros(len(rows), dtype=int),
            [masks[row] for row in rows],
        )

    windows = Tiling((64, 80), overlap).windows(hw, (1, 1))
    found = detect_in_tiles(windows, seen, hw)
    assert found.masks is not None and len(found.masks) == len(found.scores) == 3
    for row, mask in enumerate(objects):
        assert np.array_equal(found.masks[row], mask)
        rle = found.masks.rles()[row]
        assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
    assert np.array_equal(found.masks[[2, 0]][0], objects[2])


def test_run_lengths_of_a_crop_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in rng.integers(1, 12, 2))
        rows, columns = int(rng.integers(0, height + 1)), int(rng.integers(0, width + 1))
        top = int(rng.integers(0, height - rows + 1))
        left = int(rng.integers(0, width - columns + 1))
        inside = rng.random((rows, columns)) < rng.choice([0.2, 0.6, 1.0])
        whole = np.zeros((height, width), dtype=np.uint8)
        whole[top : top + rows, left : left + columns] = inside
        expected = coco_mask.encode(np.asfortranarray(whole))
        found = rle_of_crop(inside, top, left, (height, width))
        assert found == {"size": [height, width], "counts": expected["counts"].decode()}


def test_an_empty_mask_is_empty() -> None:
    crop = Crop.of(np.zeros((5, 6), dtype=bool), Window(10, 20, 15, 26))
    assert crop.inside.size == 0 and Crop.union([crop]).inside.size == 0
