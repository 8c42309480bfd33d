"""COCO's AP of an architecture on any subset of the images, from the ranked matches that
:mod:`.columns` keeps. Needs NumPy alone.

The arithmetic is that of this project's evaluator, step by step, so that the numbers are equal to
the last bit (``tests/search/test_nasbench_build.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
THRESHOLDS = 10  # IoU 0.50, 0.55, ..., 0.95
_RECALLS = np.array(np.linspace(0.0, 1.0, 101).tolist())
_EPSILON = np.spacing(1)


def average_precision(
    label: Array, place: Array, accepted: Array, objects: Array, inside: Array
) -> float | None:
    """AP over the images where ``inside`` is true, as a fraction: 101 recalls, mean over the ten
    thresholds and the classes with objects; None if no class has an object.

    ``label``, ``place`` and ``accepted`` (n,): class, image and bits of the thresholds of each
    detection, by class and falling score. ``objects`` int (images, classes); ``inside`` bool
    (images,).
    """
    total = objects[inside].sum(0)
    values = np.full((THRESHOLDS, len(_RECALLS), len(total)), -1.0)
    kept = inside[place]
    label, accepted = label[kept], accepted[kept].astype(np.int64)
    ends = np.searchsorted(label, np.arange(len(total) + 1))
    bits = np.arange(THRESHOLDS)[:, None]
    for number in np.flatnonzero(total):
        # how many objects must be found to reach each recall
        needed = np.searchsorted(np.arange(total[number] + 1) / total[number], _RECALLS)
        hits = (accepted[ends[number] : ends[number + 1]] >> bits) & 1 == 1
        true = np.cumsum(hits, axis=1, dtype=float)
        false = np.cumsum(~hits, axis=1, dtype=float)
        precision = true / (true + false + _EPSILON)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row in range(THRESHOLDS):
            found = np.flatnonzero(hits[row])
            # at recall 0, the best precision anywhere
            at = np.concatenate([best[row, :1] if len(best[row]) else [0.0], best[row, found]])
            reached = needed < len(at)
            values[row, :, number] = np.where(reached, at[np.minimum(needed, len(at) - 1)], 0.0)
    valid = values[values > -1]
    return float(valid.mean()) if len(valid) else None
