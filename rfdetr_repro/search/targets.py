"""Picks for target latencies: the best configuration within a tolerance of each (the paper's
RF100-VL models: 10 %).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rfdetr_repro.records.pareto import frontier, metric
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import percent


@dataclass(frozen=True)
class Targets:
    """``latencies_ms`` wanted, each to ``tolerance`` (a part of it)."""

    latencies_ms: tuple[float, ...]
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        # NaN fails
        numbers = all(isinstance(ms, (int, float)) and 0 < ms < 1e6 for ms in self.latencies_ms)
        if not self.latencies_ms or not numbers or not 0 < self.tolerance < 1:
            raise InputError(
                f"target latencies {self.latencies_ms} to {self.tolerance:g}",
                hint="positive ms, a tolerance in (0, 1)",
            )

    @classmethod
    def parse(cls, text: str, tolerance: float = 0.1) -> Targets:
        """``"2.3,3.5,4.4"``: milliseconds."""
        try:
            return cls(tuple(float(part) for part in text.split(",")), tolerance)
        except ValueError as error:
            raise InputError(
                f"{text!r} is no list of latencies", hint="write milliseconds like 2.3,3.5,4.4"
            ) from error

    def reaches(self, target_ms: float, latency_ms: float) -> bool:
        return abs(latency_ms - target_ms) <= self.tolerance * target_ms * (1 + 1e-9)

    def check(self, latency_ms: Mapping[Arch, float]) -> None:
        """Raises :class:`InputError` for a target that no configuration reaches, with the nearest
        one.
        """
        for target in self.latencies_ms:
            if not any(self.reaches(target, ms) for ms in latency_ms.values()):
                near = min(latency_ms, key=lambda arch: abs(latency_ms[arch] - target))
                what = f"no configuration within {self.tolerance:.0%} of {target:g} ms"
                raise InputError(
                    what, hint=f"the nearest is {near.key} at {latency_ms[near]:.3g} ms"
                )

    def picks(
        self, records: Iterable[Record], per_target: int = 1, y: str = "ap"
    ) -> dict[float, list[Record]]:
        """Best by ``y`` first, at most ``per_target`` of the frontier within each target's
        tolerance; maybe none.
        """
        found: dict[float, list[Record]] = {}
        known = list(records)
        for target in self.latencies_ms:
            near = [
                r
                for r in known
                if r.latency is not None and self.reaches(target, r.latency.median_ms)
            ]
            front = frontier(near, "latency", y)
            found[target] = sorted(front, key=metric(y).cost)[:per_target]
        return found


def candidates(
    records: Sequence[Record], limit: int, y: str = "ap", targets: Targets | None = None
) -> list[Arch]:
    """Architectures that get the full protocol: of the frontier of (modelled latency, ``y``)
    thinned evenly to ``limit``, or with ``targets`` an equal share of ``limit`` for each, since a
    modelled latency may prove to lie outside the tolerance.
    """
    if targets is not None:
        picked = targets.picks(records, max(1, limit // len(targets.latencies_ms)), y)
        chosen = [record for near in picked.values() for record in near]
    else:
        chosen = frontier(records, "latency", y)
        if len(chosen) > limit > 1:
            chosen = [chosen[round(i * (len(chosen) - 1) / (limit - 1))] for i in range(limit)]
        elif limit == 1:
            chosen = chosen[-1:]
    return list(
        dict.fromkeys(record.model.arch for record in chosen if record.model.arch is not None)
    )


def describe_picks(
    targets: Targets, confirmed: Sequence[Record], y: str = "ap", mode: str = "buffered"
) -> list[str]:
    """One line per target, by the latency of the confirmed file in the mode that was decided by."""
    metric_y = metric(y)
    lines = []
    decided = [
        one for one in confirmed if one.protocol and one.protocol.mode == mode and one.latency
    ]
    for target, picks in targets.picks(decided, 1, y).items():
        found = (
            f"no confirmed configuration lies within {targets.tolerance:.0%}, by its measured "
            f"{mode} latency"
        )
        for pick in picks:
            value = metric_y.value(pick)
            score = percent(value, absent="unknown")
            told = f"{metric_y.name} {score}, {pick.as_latency().ms:.3g} ms {mode}"
            found = f"{pick.as_searched().arch.key}, {told}"
        lines.append(f"target {target:g} ms: {found}")
    return lines
