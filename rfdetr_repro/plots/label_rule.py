"""Which detections of a picture get a label, and where: labels must not bury the picture.

The rule, for every drawing of detections:

- Up to FEW objects all may have a label. Of more objects one of each class may, the best that has
  room for a label, so that the colours of the boxes are explained.
- In order of falling score, a label stands above its box, else below, else inside at the top; it
  is left out where it would cover another label, or more than COVERS of another box.
- All labels together cover at most SHARE of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

FEW = 20  # objects
COVERS = 0.25  # share of another box
SHARE = 0.1  # of the picture


class Placed(NamedTuple):
    """A label: the row of its detection, and its upper left corner in px."""

    row: int
    left: float
    top: float


def place_labels(
    boxes_xyxy: Array,
    labels: Array,
    scores: Array | None,
    size_of: Callable[[int], tuple[float, float]],
    picture_hw: tuple[int, int],
) -> list[Placed]:
    """The labels that the rule allows, best first.

    ``boxes_xyxy`` float (n, 4) px, ``labels`` int (n,), ``scores`` float (n,) or None (ground
    truth, which counts in its own order); ``size_of`` gives the (width, height) in px of the label
    of a row; ``picture_hw``: (height, width) in px.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    order = list(range(len(boxes))) if scores is None else np.argsort(-scores, kind="stable")
    dense = len(boxes) > FEW
    explained: set[int] = set()  # classes that have a label
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    left_over = SHARE * picture_hw[0] * picture_hw[1]
    placed: list[Placed] = []
    taken: list[tuple[float, float, float, float]] = []
    for row in map(int, order):
        if dense and int(labels[row]) in explained:
            continue
        width, height = size_of(row)
        if width * height > left_over:
            continue
        for left, top in _places(boxes[row], width, height, picture_hw):
            rectangle = (left, top, left + width, top + height)
            covered = _covered(rectangle, boxes) / np.maximum(areas, 1e-9)
            covered[row] = 0
            if (covered <= COVERS).all() and not _meets(rectangle, taken):
                placed.append(Placed(row, left, top))
                taken.append(rectangle)
                left_over -= width * height
                explained.add(int(labels[row]))
                break
    return placed


def _places(
    box: Array, width: float, height: float, picture_hw: tuple[int, int]
) -> list[tuple[float, float]]:
    """Above, below, and inside the box, as far as that is inside the picture."""
    left = float(np.clip(box[0], 0, max(picture_hw[1] - width, 0)))
    tops = [float(box[1]) - height, float(box[3]), float(max(box[1], 0))]
    inside = [top for top in tops[:2] if 0 <= top and top + height <= picture_hw[0]]
    fits = box[2] - box[0] >= 2 * width and box[3] - box[1] >= 3 * height
    return [(left, top) for top in [*inside, *tops[2:] * bool(fits or not inside)]]


def _covered(rectangle: Sequence[float], boxes: Array) -> Array:
    low = np.maximum(boxes[:, :2], np.array(rectangle[:2]))
    high = np.minimum(boxes[:, 2:], np.array(rectangle[2:]))
    return np.prod(np.clip(high - low, 0, None), axis=1)


def _meets(rectangle: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    return any(
        rectangle[0] < other[2]
        and other[0] < rectangle[2]
        and rectangle[1] < other[3]
        and other[1] < rectangle[3]
        for other in others
    )
