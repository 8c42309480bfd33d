"""The paper's tables with published and measured values, and a campaign's own tables.

This module does not import PyTorch.
"""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "build_scoreboard": "command",
        "build_tables": "command",
        "frame": "frames",
        "load_records": "command",
    },
)
