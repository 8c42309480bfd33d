"""``python -m rfdetr_repro.data.embedded``: writes the embedded data set."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .dataset import main

if __name__ == "__main__":
    sys.exit(run_main(main))
