"""``python -m rfdetr_repro VERB``: the same as the program ``rfdetr-repro``."""

from __future__ import annotations

import sys

from rfdetr_repro.cli import main

if __name__ == "__main__":
    sys.exit(main())
