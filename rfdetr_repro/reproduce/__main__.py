"""``python -m rfdetr_repro.reproduce``: the whole flow, from data to report."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .run import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run_main(main))
