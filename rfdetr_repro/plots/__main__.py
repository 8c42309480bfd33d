"""``python -m rfdetr_repro.plots``: the figures of the paper and of a campaign."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .figures import main

if __name__ == "__main__":
    sys.exit(run_main(main))
