"""A tiny checkpoint, pictures, and a run of the predict command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from samples_coco import CATEGORIES, picture
from tiny import tiny_detector

from rfdetr_repro import predict
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import with_classes
from rfdetr_repro.spec.labels import Labels

NAMES = tuple(name for _, name in CATEGORIES)
IDS = tuple(key for key, _ in CATEGORIES)


def write_checkpoint(path: Path) -> Path:
    """A tiny detector with the classes of NAMES."""
    detector = with_classes(tiny_detector(), Labels(NAMES, IDS))
    save_detector(
        path, detector.state_dict(), ModelCard(detector.config, detector.arch, NAMES, IDS)
    )
    return path


def write(path: Path, seed: int = 0) -> Path:
    """A picture of samples_coco."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed=seed)).save(path)
    return path


def run(checkpoint: Path, out: Path, *arguments: object) -> list[dict[str, Any]]:
    """The predict command's list of pictures and their objects."""
    predict.main([*map(str, arguments), "--checkpoint", str(checkpoint), "--out", str(out)])
    return json.loads((out / "predictions.json").read_text())
