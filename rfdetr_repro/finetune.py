"""``python -m rfdetr_repro.finetune``: trains one found architecture after the search."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .search.finetune import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run_main(main))
