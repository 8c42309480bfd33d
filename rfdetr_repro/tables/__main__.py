"""``python -m rfdetr_repro.tables``: published numbers beside measured ones."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .command import main

if __name__ == "__main__":
    sys.exit(run_main(main))
