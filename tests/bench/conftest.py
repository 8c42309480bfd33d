"""The memory of a file is measured by its own tests only: each measurement starts a process."""

from __future__ import annotations

import pytest

MEASURED = 123_400_000


@pytest.fixture(autouse=True)
def known_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfdetr_repro.bench.cells.peak_memory_bytes", lambda *_: MEASURED)
