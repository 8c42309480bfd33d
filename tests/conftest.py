"""Shared by all tests: one thread unless a test asks for more, and the skip rule of GPU tests."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


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
