"""Shared by all tests: one thread unless a test asks for more, a tiny data set, and the skip rule
of GPU tests.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

os.environ.setdefault("OMP_NUM_THREADS", "1")
# tests of several threads run beside other tests: a thread that waits leaves the core to them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# a background job of a shell ignores SIGINT, a program under nohup SIGHUP; children inherit that
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the tests that need it skip themselves
    pass
else:
    # nothing is timed
    settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composed data set of 8 train, 2 val and 2 test images of 64 px, new for each module."""
    from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded

    config = EmbeddedConfig(64, train_images=8, val_images=2, test_images=2)
    return write_embedded(tmp_path_factory.mktemp("data"), config, workers=1)


@pytest.fixture(scope="module")
def split(folder: Path) -> CocoSplit:
    """Its train split."""
    from rfdetr_repro.data.coco import read_split

    return read_split(folder, "train")


def _slow_files_first(items: list[pytest.Item]) -> None:
    """Workers take whole files in this order: a long file that came last would leave all other
    workers idle.
    """
    slow = {item.path for item in items if "slow" in item.keywords}
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -sizes[item.path], item.path))


def _gpu_missing() -> str:
    """Why GPU tests cannot run here; empty when they can."""
    import torch

    if not torch.backends.cuda.is_built():
        return "this PyTorch is not built for CUDA"
    return "" if torch.cuda.is_available() else "no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _slow_files_first(items)
    marked = [item for item in items if "gpu" in item.keywords]
    reason = _gpu_missing() if marked else ""
    for item in marked if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _lines_of_the_library() -> Iterator[None]:
    """Tests see the lines of the library as the user of a command does."""
    from rfdetr_repro.spec import logs

    logs.show()
    yield
    logs.hide()


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """What a test sets PyTorch's threads to ends with the test: results of others, equal to the
    last bit, depend on it.
    """
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    yield
    if before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)
