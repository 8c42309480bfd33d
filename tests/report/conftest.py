"""A browser, and the explorer's page in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from samples_explorer import measured, written


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        opened.look(1200)
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of which many files were measured, in two modes, by one protocol."""
    return written(tmp_path_factory.mktemp("page"), measured())
