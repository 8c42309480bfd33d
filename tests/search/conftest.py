"""Fixtures of several files of this folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SPACE, TINY

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.detector import Detector


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN/supernet.safetensors and a data folder beside it."""
    folder = tmp_path_factory.mktemp("search")
    data = write_embedded(
        folder / "data", EmbeddedConfig(64, train_images=2, val_images=9, test_images=1), workers=1
    )
    split = read_split(data, "val")
    torch.manual_seed(0)
    model = replace(TINY.model, num_classes=len(split.classes.names))
    card = ModelCard(
        model, TINY.arch, tuple(split.classes.names), tuple(split.classes.category_ids), SPACE
    )
    (folder / "run").mkdir()
    save_detector(
        folder / "run" / "supernet.safetensors", Detector(model, TINY.arch).state_dict(), card
    )
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """A fresh run folder."""
    return Path(shutil.copytree(place / "run", tmp_path / "run"))
