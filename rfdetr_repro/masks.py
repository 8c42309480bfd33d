"""Masks at image size from mask logits, on NumPy arrays and without PyTorch: what evaluation and a deployment machine need.

The rule is the model's own (architecture facts section 11): bilinear with ``align_corners=False``, then logit > 0. Only cells on
an outline are computed and no enlarged map is stored: run lengths of 100 masks of a full-HD image cost a few megabytes.
The same code is the PyTorch operator :func:`rfdetr_repro.ops.masks_from_logits`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from .errors import InputError

try:
    _masks: Any = import_module("._masks", __package__)  # csrc/python/masks.cpp
except ImportError as error:
    raise InputError(
        f"the compiled mask module does not load ({error})",
        mend="build it from the repository with: pip install --no-build-isolation -e .",
    ) from error

MOST_PIXELS = 2**31 - 1  # of one mask: run lengths are 32-bit
NO_BOXES = np.zeros((0, 4), dtype=np.float32)


def build_info() -> dict[str, Any]:
    """What the module was built with: ``compiler``."""
    return {"compiler": _masks.compiler()}


def bitmaps(logits: Any, height: int, width: int, *, boxes_xyxy: Any = None, threads: int = 1) -> np.ndarray:
    """Float logits (K, h, w) -> bool (K, height, width).

    ``boxes_xyxy`` (K, 4), pixels of the image: sets only pixels whose centre is inside (the model itself does not crop).
    Raises :class:`InputError` for other shapes, for sizes below 1 and for 2^31 or more pixels.
    """
    return _masks.bitmaps(*_checked(logits, height, width, boxes_xyxy, threads))


def packed_bits(logits: Any, height: int, width: int, *, boxes_xyxy: Any = None, threads: int = 1) -> np.ndarray:
    """As :func:`bitmaps`, one bit per pixel: uint8 (K, height, ceil(width / 8)), ``np.unpackbits(..., bitorder="little")``."""
    return _masks.bits(*_checked(logits, height, width, boxes_xyxy, threads))


def rles(logits: Any, height: int, width: int, *, boxes_xyxy: Any = None, threads: int = 1) -> list[dict[str, Any]]:
    """As :func:`bitmaps`, in COCO's compressed run lengths: K dicts ``{"size": [height, width], "counts": bytes}``."""
    arguments = _checked(logits, height, width, boxes_xyxy, threads)
    return [{"size": [height, width], "counts": counts} for counts in _masks.counts(*arguments)]


def _checked(logits: Any, height: int, width: int, boxes_xyxy: Any, threads: int) -> tuple[np.ndarray, int, int, np.ndarray, int]:
    grid = np.asarray(logits, dtype=np.float32)
    if grid.ndim != 3 or 0 in grid.shape[1:]:
        raise InputError(f"mask logits must have shape (K, h, w) with h, w >= 1, not {grid.shape}")
    if height < 1 or width < 1 or height * width > MOST_PIXELS or max(grid.shape[1:]) >= 2**24:
        raise InputError(f"cannot enlarge masks of {grid.shape[1]} x {grid.shape[2]} to {height} x {width} pixels")
    boxes = NO_BOXES if boxes_xyxy is None else np.asarray(boxes_xyxy, dtype=np.float32)
    if boxes_xyxy is not None and boxes.shape != (len(grid), 4):
        raise InputError(f"boxes must have shape ({len(grid)}, 4), not {boxes.shape}")
    if threads < 1:
        raise InputError(f"threads {threads} must be at least 1")
    return grid, height, width, boxes, threads
