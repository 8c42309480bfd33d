"""Shared by ``test_rounds.py`` and others: Machine, bursts."""

from __future__ import annotations

import numpy as np
from samples_bench import VirtualClock

from rfdetr_repro.bench.loop import Call

TRUE_MS = np.geomspace(2.0, 40.0, 18)


class Machine:
    """Engines by name on a clock that only they and waiting move. ``state`` (seconds) -> factor on
    every run at that time.

    A run after an idle spell, or after another engine, is ``cold_ms`` slower; one run later the
    engine is warm.
    """

    def __init__(
        self, state=lambda s: 1.0, noise: float = 0.02, cold_ms: float = 0.0, seed: int = 0
    ) -> None:
        self.clock, self.state, self.noise, self.cold_ms = VirtualClock(), state, noise, cold_ms
        self.rng, self.last, self.ended_ns, self.runs = (
            np.random.default_rng(seed),
            "",
            -(10**12),
            0,
        )

    def call(self, name: str, ms: float) -> Call:
        def run() -> None:
            idle_s = (self.clock.now_ns() - self.ended_ns) / 1e9
            cold = self.cold_ms if idle_s > 0.02 or self.last != name else 0.0
            factor = self.state(self.clock.now_ns() / 1e9) * np.exp(self.rng.normal(0, self.noise))
            self.clock.sleep((ms + cold) * factor / 1e3)
            self.last, self.ended_ns, self.runs = name, self.clock.now_ns(), self.runs + 1

        return Call(run, name)

    def calls(self) -> dict[str, Call]:
        return {f"{ms:.3f}": self.call(f"{ms:.3f}", ms) for ms in TRUE_MS}


def bursts(seed: int, share: float = 0.35, length_s: float = 1.5, factor: float = 2.5):
    """Load that comes and goes: spells of about ``length_s`` in which everything takes ``factor``
    times as long.
    """
    busy = np.random.default_rng(seed).random(4000) < share
    return lambda s: factor if busy[int(s / length_s) % len(busy)] else 1.0
