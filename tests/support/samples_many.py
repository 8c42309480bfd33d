"""A worker of a search that dies once. A module of its own: workers import it by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_repro.search.evaluation import EvaluationSource


@dataclass(frozen=True)
class FatalSource(EvaluationSource):
    """Each attempt at an item is a line in RUN/attempts; one of the first three kills its process
    by SIGKILL (RUN/killed).
    """

    def __call__(self) -> Callable[[Any], Any]:  # type: ignore[override]
        evaluation = super().__call__()
        run = self.checkpoint.parent

        def work(item: Any) -> Any:
            with open(run / "attempts", "a") as stream:
                stream.write(f"{os.getpid()} {item!r}\n")
            if len(attempts(run)) >= 3:
                # by the first to come, if two come at once
                with suppress(FileExistsError), open(run / "killed", "x") as stream:
                    stream.write(f"{os.getpid()} {item!r}")
                    stream.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return evaluation(item)

        return work


def attempts(run: Path) -> list[str]:
    """ "PID ITEM" of every attempt."""
    return (run / "attempts").read_text().splitlines()
