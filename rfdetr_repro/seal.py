"""``python -m rfdetr_repro.seal``: which Records of a store are unaltered."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .records.seal import main

if __name__ == "__main__":
    sys.exit(run_main(main))
