"""Pairs of detections that two programs give for one image; order does not matter.

This module does not import PyTorch.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from .session import Array, Detections


def match(expected: Detections, found: Detections, same_object: float) -> Array:
    """Matched index pairs, int64 (n, 2), of one image: the assignment of detections with equal
    labels that has the least sum of box and score differences.

    ``same_object``: boxes with a coordinate farther apart than this part of the image are not
    matched.
    """
    box = np.abs(expected.boxes_xyxy[0][:, None] - found.boxes_xyxy[0][None]).max(-1)  # (K, K)
    cost = box + np.abs(expected.scores[0][:, None] - found.scores[0][None])
    possible = (expected.labels[0][:, None] == found.labels[0][None]) & (box <= same_object)
    rows, columns = linear_sum_assignment(np.where(possible, cost, 1e3))
    kept = possible[rows, columns]
    return np.stack([rows[kept], columns[kept]], axis=1)


def differences(expected: Detections, found: Detections, pairs: Array) -> Array:
    """The largest differences of each pair of :func:`match`, float (n, 3): a box's coordinate, the
    score, and a mask logit, which is relative to the largest expected logit of the matched masks
    where that exceeds 1 and is 0 without masks.
    """
    rows, columns = pairs.T
    box = np.abs(expected.boxes_xyxy[0][rows] - found.boxes_xyxy[0][columns]).max(-1)
    score = np.abs(expected.scores[0][rows] - found.scores[0][columns])
    mask = np.zeros(len(pairs))
    if len(pairs) and expected.masks is not None and found.masks is not None:
        logits = expected.masks[0][rows]
        apart = np.abs(logits - found.masks[0][columns]).reshape(len(pairs), -1).max(-1)
        mask = apart / max(1.0, np.abs(logits).max())
    return np.stack([box, score, mask], axis=-1)
