"""Where the time of a call goes, operator by operator, on a machine that is not quiet.

Every operator of a call is timed in each of several rounds and its best time kept; their sum is
what the call would take if nothing had interrupted it. Python between the operators is left out,
alike for all calls compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Clock(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, float]] = []  # operator and its arguments' shapes, ms

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        elapsed = 1e3 * (time.perf_counter() - started)
        shapes = " ".join(
            "x".join(map(str, value.shape)) for value in args[:3] if hasattr(value, "shape")
        )
        self.rows.append((f"{func.overloadpacket} {shapes}", elapsed))
        return result


def operator_ms(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """For each call, the best time in ms of its operators, summed by operator and shapes; the calls
    take turns.
    """
    best: dict[str, list[tuple[str, float]]] = {}
    for call in calls.values():
        call()  # warm-up: packed weights, thread pool
    for _ in range(rounds):
        for name, call in calls.items():
            with _Clock() as clock:
                call()
            known = best.setdefault(name, clock.rows)
            if [operator for operator, _ in known] != [operator for operator, _ in clock.rows]:
                raise ValueError(f"{name} does not run the same operators every time")
            best[name] = [
                (operator, min(ms, again))
                for (operator, ms), (_, again) in zip(known, clock.rows, strict=True)
            ]
    totals: dict[str, dict[str, float]] = {name: {} for name in calls}
    for name, rows in best.items():
        for operator, ms in rows:
            totals[name][operator] = totals[name].get(operator, 0.0) + ms
    return totals
