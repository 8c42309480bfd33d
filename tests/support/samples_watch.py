"""Shared by ``test_gpu_watch.py`` and others: Playing, QUIET, recording."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rfdetr_repro.bench.gpu.watch import Reading

QUIET = Reading(
    0.0,
    sm_mhz=1980,
    memory_mhz=2619,
    temperature_c=41,
    power_w=310.0,
    energy_j=1000.0,
    reasons=0,
    throttled_ns={"power": 5, "thermal": 7, "board limit": 0, "reliability": 0},
    processes=(),
)


def recording(count: int = 5, **changes: list[Any]) -> list[Reading]:
    """``count`` quiet readings; each change is a list with one value per reading."""
    rows = [replace(QUIET, time_s=0.02 * i, energy_j=1000.0 + 6.2 * i) for i in range(count)]
    return [
        replace(row, **{name: values[i] for name, values in changes.items()})
        for i, row in enumerate(rows)
    ]


class Playing:
    """Replays a recording, repeats its last reading, or performs the action of a step."""

    def __init__(self, steps: list[Any]) -> None:
        self.steps = steps
        self.at = 0

    def read(self) -> Reading:
        step = self.steps[min(self.at, len(self.steps) - 1)]
        self.at += 1
        return step() if callable(step) else step
