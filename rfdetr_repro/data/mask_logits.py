"""Masks at image size from mask logits, on NumPy arrays and without PyTorch, for evaluation and for
deployment.

The rule is the model's own (architecture facts section 11): bilinear with ``align_corners=False``,
then logit > 0. Only cells on an outline are computed and no enlarged map is stored: run lengths of
100 masks of a full-HD image take a few megabytes. The PyTorch operator
:func:`rfdetr_repro.ops.masks_from_logits` shares this code.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from rfdetr_repro.spec.errors import InputError, LibraryNotBuilt

try:
    _masks: Any = import_module("rfdetr_repro._masks")  # csrc/python/masks.cpp
except ImportError as error:
    raise LibraryNotBuilt(f"the compiled mask module does not load ({error})") from error

MOST_PIXELS = 2**31 - 1  # of one mask: run lengths are 32-bit
NO_BOXES = np.zeros((0, 4), dtype=np.float32)


def build_info() -> dict[str, Any]:
    """How the module was built: ``compiler``."""
    return {"compiler": _masks.compiler()}


def bitmaps(
    logits: Any, height: int, width: int, *, boxes_xyxy: Any = None, threads: int = 1
) -> np.ndarray:
    """Float logits (K, h, w) -> bool (K, height, width).

    ``boxes_xyxy`` (K, 4), in pixels of the image, sets only pixels whose centre is inside (the
    model itself does not crop). Raises :class:`InputError` for other shapes, for sizes below 1 and
    for 2^31 or more pixels.
    """
    return _masks.bitmaps(*_checked(logits, height, width, boxes_xyxy, threads))


def packed_bits(
    logits: Any, height: int, width: int, *, boxes_xyxy: Any = None, threads: int = 1
) -> np.ndarray:
    """Like :func:`bitmaps`, with one bit per pixel: uint8 (K, height, ceil(width / 8)), for
    ``np.unpackbits(..., bitorder="little")``.
    """
    return _masks.bits(*_checked(logits, height, width, boxes_xyxy, threads))


def rles(
    logits: Any, height: int, width: int, *, boxes_xyxy: Any = None, threads: int = 1
) -> list[dict[str, Any]]:
    """Like :func:`bitmaps`, as COCO's compressed run lengths: K dicts ``{"size": [height, width],
    "counts": bytes}``.
    """
    grid, height, width, boxes, threads = _checked(logits, height, width, boxes_xyxy, threads)
    return [
        {"size": [height, width], "counts": counts}
        for counts in _masks.counts(grid, height, width, boxes, threads)
    ]


def _checked(
    logits: Any, height: int, width: int, boxes_xyxy: Any, threads: int
) -> tuple[np.ndarray, int, int, np.ndarray, int]:
    grid = _float32(logits, "mask logits")
    for name, size in (("height", height), ("width", width), ("threads", threads)):
        if not isinstance(size, (int, np.integer)):
            raise InputError(f"{name} {size!r} must be a whole number")
    if grid.ndim != 3 or 0 in grid.shape[1:]:
        raise InputError(f"mask logits must have shape (K, h, w) with h, w >= 1, not {grid.shape}")
    if height < 1 or width < 1 or height * width > MOST_PIXELS or max(grid.shape[1:]) >= 2**24:
        raise InputError(
            f"cannot enlarge masks of {grid.shape[1]} x {grid.shape[2]} to {height} x {width} "
            f"pixels"
        )
    boxes = NO_BOXES if boxes_xyxy is None else _float32(boxes_xyxy, "boxes")
    if boxes_xyxy is not None and boxes.shape != (len(grid), 4):
        raise InputError(f"boxes must have shape ({len(grid)}, 4), not {boxes.shape}")
    if threads < 1:
        raise InputError(f"threads {threads} must be at least 1")
    return grid, int(height), int(width), boxes, int(threads)


def _float32(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers ({error})") from error
