"""``python -m reports.roofline``: the roofline figure of a benchmark run; see
:mod:`rfdetr_repro.report.roofline`.
"""

from __future__ import annotations

import sys

from rfdetr_repro.report.roofline import main
from rfdetr_repro.spec.errors import run_main

if __name__ == "__main__":
    sys.exit(run_main(main))
