"""Masks of YOLO26's rows and prototypes against the post-processing of ultralytics: by its present
rule, written here with PyTorch, and by the package itself where there is one.

The package is run in a process of its own, by the interpreter that RFDETR_ULTRALYTICS_PYTHON names.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples_exported import detector, ultralytics

from rfdetr_repro.data.mask_logits import bitmaps
from rfdetr_repro.export.adopt.adoption import adopt
from rfdetr_repro.runtime.session import OrtSession

Array = np.ndarray[Any, Any]
SIDE = 320  # of the input, in px
CELL = 4  # side of a cell of the prototypes, in px
OBJECTS = 32
VARIABLE = "RFDETR_ULTRALYTICS_PYTHON"
PROGRAM = """
import sys
import numpy as np, torch
from ultralytics.utils import ops
raw = {name: torch.from_numpy(value) for name, value in np.load("raw.npz").items()}
side = int(sys.argv[1])
masks = ops.process_mask(raw["protos"], raw["weights"], raw["boxes"], (side, side), upsample=True)
np.save("masks.npy", masks.bool().numpy())
"""


def objects() -> tuple[Array, Array]:
    """Logits (N, h, w) of round and nearly rectangular objects of 16 to 200 px, and boxes (N, 4)
    xyxy in px that err by 3 % of the side, as a trained detector's do.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : SIDE // CELL, 0 : SIDE // CELL] * float(CELL) + CELL / 2
    logits, boxes = [], []
    for _ in range(OBJECTS):
        x, y = rng.uniform(60, SIDE - 60, 2)
        wide, high = np.exp(rng.uniform(np.log(8), np.log(100), 2))
        power = rng.choice([2, 6])
        away = (np.abs(columns - x) / wide) ** power + (np.abs(rows - y) / high) ** power
        height = rng.uniform(3, 12)
        logits.append((height * (1 - away)).clip(-height, None))
        errors = rng.normal(0, 0.03, 4) * [wide, high, wide, high]
        boxes.append((np.array([x - wide, y - high, x + wide, y + high]) + errors).clip(0, SIDE))
    return np.stack(logits).astype(np.float32), np.stack(boxes).astype(np.float32)


def by_the_rule(logits: Array, boxes: Array, tmp_path: Path) -> Array:
    """Enlarged, above 0, then cut off at whole pixels: bool (N, SIDE, SIDE)."""
    large = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], (SIDE, SIDE), mode="bilinear", align_corners=False
    )[0].numpy()
    pixels = np.arange(SIDE)
    left, top, right, bottom = (boxes[:, index, None] for index in range(4))
    across = (pixels >= left) & (pixels < right)
    down = (pixels >= top) & (pixels < bottom)
    return (large > 0) & across[:, None, :] & down[:, :, None]


def by_the_package(logits: Array, boxes: Array, tmp_path: Path) -> Array:
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} does not name an interpreter with ultralytics")
    np.savez(tmp_path / "raw.npz", protos=logits, weights=np.eye(OBJECTS, dtype="f4"), boxes=boxes)
    request = [python, "-c", PROGRAM, str(SIDE)]
    subprocess.run(request, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    return np.load(tmp_path / "masks.npy")


@pytest.mark.parametrize("oracle", [by_the_rule, by_the_package])
def test_masks_are_those_of_the_authors(
    oracle: Callable[[Array, Array, Path], Array], tmp_path: Path
) -> None:
    """The graph cuts at cells, the authors at pixels, so that outlines differ by at most half a
    cell; 0.91 on average and 0.69 at worst is what zeros outside the box would give.
    """
    logits, boxes = objects()
    rows = np.zeros((1, 300, 6 + OBJECTS), np.float32)
    rows[0, :OBJECTS, :4] = boxes
    rows[0, :OBJECTS, 4] = np.linspace(0.9, 0.3, OBJECTS)
    rows[0, :OBJECTS, 6:] = np.eye(OBJECTS)
    path = detector(
        tmp_path / "m.onnx",
        {"output0": rows, "output1": logits[None]},
        metadata=ultralytics("segment", end2end="True"),
        image=(1, 3, SIDE, SIDE),
    )
    artifact = adopt(path, tmp_path / "out.onnx", resize="stretch")
    found = OrtSession(artifact, threads=1).run(np.zeros((1, 3, SIDE, SIDE), np.float32))
    assert found.masks is not None
    ours = bitmaps(found.masks[0, :OBJECTS], SIDE, SIDE)
    theirs = oracle(logits, boxes, tmp_path)
    common = (ours & theirs).sum((1, 2))
    overlap = common / (ours | theirs).sum((1, 2)).clip(1)
    assert overlap.mean() > 0.98 and overlap.min() > 0.93
