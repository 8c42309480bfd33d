"""``python -m rfdetr_repro.train``: trains a supernet, or one fixed size."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .command import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run_main(main))
