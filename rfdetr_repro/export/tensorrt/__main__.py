"""``python -m rfdetr_repro.export.tensorrt``: builds an engine from an artifact."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .engine import main

if __name__ == "__main__":
    sys.exit(run_main(main))
