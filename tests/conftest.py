"""Shared by all tests: one thread unless a test asks for more, a tiny data set, and the skip rule of GPU tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composed data set of 8 train, 2 val and 2 test images of 64 px, new for each module."""
    from rfdetr_repro.data.embedded import EmbeddedConfig, write_embedded

    config = EmbeddedConfig(64, train_images=8, val_images=2, test_images=2)
    return write_embedded(tmp_path_factory.mktemp("data"), config, workers=1)


@pytest.fixture(scope="module")
def split(folder: Path) -> CocoSplit:
    """Its train split."""
    from rfdetr_repro.data.coco import read_split

    return read_split(folder, "train")


def _gpu_missing() -> str:
    """Why GPU tests cannot run here; empty when they can."""
    import torch

    if not torch.backends.cuda.is_built():
        return "this PyTorch is not built for CUDA"
    return "" if torch.cuda.is_available() else "no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if "gpu" in item.keywords]
    reason = _gpu_missing() if marked else ""
    for item in marked if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))
