"""``python -m reports.build --run runs/NAME``: the report of a run as PDF and HTML; see
:mod:`rfdetr_repro.report.build`.
"""

from __future__ import annotations

import sys

from rfdetr_repro.report.build import main
from rfdetr_repro.spec.errors import run_main

if __name__ == "__main__":
    sys.exit(run_main(main))
