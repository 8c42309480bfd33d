"""``python -m rfdetr_repro.finetune``: trains one found architecture after the search."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rfdetr_repro.spec.errors import run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, whose modules are imported here: a signal that comes meanwhile ends
    the program as one that comes later does.
    """
    from .search.finetune import main as command

    command(argv)


if __name__ == "__main__":
    sys.exit(run_main(main))
