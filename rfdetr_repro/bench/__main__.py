"""``python -m rfdetr_repro.bench``: accuracy and latency Records of artifacts."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.errors import run_main

from .command.arguments import parser
from .command.run import main

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run_main(main))
