"""``python -m rfdetr_repro.mean``: means over the data sets of a benchmark."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .records.aggregate import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run_main(main))
