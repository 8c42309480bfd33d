"""The stages of a run that are finished, which a repeated command reads: ``RUN/stages.json``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.files import read_json, write_atomic
from rfdetr_repro.spec.stage import working_on

from .outlook import later_steps, stage_names, stage_of

log = logging.getLogger(__name__)

T = TypeVar("T")
# stages of the model that a session's budget chooses: another session may choose another model
OF_CHOSEN = ("predictions", "evaluation")


@dataclass
class Stages:
    """The finished stages and their durations: ``RUN/stages.json``.

    A stage that is repeated with nothing to do keeps its first duration and its line; the line of a
    stage in OF_CHOSEN is that of the last session.
    """

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of the flow's stages, in their order
    later_steps: int = 0  # of training, after that of the supernet

    def of(self, campaign: Campaign) -> Stages:
        """The same stages, which know their place in the campaign."""
        self.names = stage_names(campaign)
        self.later_steps = later_steps(campaign)
        return self

    def later_s(self) -> dict[str, float]:
        """Stage after the training -> estimated seconds; empty until they are estimated."""
        return self.rows.get("outlook.result", {})

    def __post_init__(self) -> None:
        if self.path.exists():
            self.rows = read_json(self.path)

    def run(
        self, name: str, title: str, work: Callable[[], tuple[T, str]], earlier_s: float = 0.0
    ) -> T:
        """Runs ``work() -> (result, one line for the report)`` and records the duration of its
        first completion, and of the part of it that was done ``earlier_s``.
        """
        again = name in self.rows
        stage = stage_of(name, title, self.names, self.later_s(), self.later_steps)
        place = "" if stage is None else f"stage {stage.number} of {stage.of} "
        log.info(f"{place}[{name}] {title}" + (" (done before; reading)" if again else ""))
        started = time.perf_counter()
        with working_on(stage):
            result, detail = work()
        if not again:
            self.note(
                name,
                {
                    "name": name,
                    "seconds": round(earlier_s + time.perf_counter() - started, 1),
                    "detail": detail,
                },
            )
        elif name in OF_CHOSEN and detail != self.rows[name]["detail"]:
            self.note(name, {**self.rows[name], "detail": detail})
        log.info(f"[{name}] {self.rows[name]['detail']}; {self.rows[name]['seconds']:.0f} s")
        return result

    def keep(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A small measured result, computed once per run."""
        key = f"{name}.result"
        if key not in self.rows:
            self.note(key, compute())
        return self.rows[key]

    def note(self, key: str, row: dict[str, Any]) -> None:
        """Stores the row of a stage."""
        self.rows[key] = row
        write_atomic(self.path, json.dumps(self.rows, indent=1))

    def timed(self) -> list[dict[str, Any]]:
        """The rows of stages that have a duration."""
        return [row for name, row in self.rows.items() if not name.endswith(".result")]
