"""``python -m rfdetr_repro.report``: the report of a run as PDF and HTML."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .build import main

if __name__ == "__main__":
    sys.exit(run_main(main))
