"""Choices for target latencies: the best configuration within a tolerance of each target (the
paper's RF100-VL models: 10 %).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfdetr_repro.records.pareto import frontier, metric
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.ranges import plain_digits

from .budget import Budget


@dataclass(frozen=True)
class Targets:
    """Target latencies in ms, each with a relative ``tolerance``.

    Raises :class:`InputError` for values that are not positive, or given twice.
    """

    latencies_ms: tuple[float, ...]
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        # false for NaN too
        numbers = all(isinstance(ms, (int, float)) and 0 < ms < 1e6 for ms in self.latencies_ms)
        if not self.latencies_ms or not numbers or not 0 < self.tolerance < 1:
            raise InputError(
                f"the target latencies {self.latencies_ms} with the tolerance {self.tolerance:g} "
                f"are not possible",
                hint="give positive latencies in ms and a tolerance between 0 and 1",
            )
        if len(set(self.latencies_ms)) != len(self.latencies_ms):
            raise InputError(
                "the target latencies name a latency twice", hint="leave one of the two out"
            )

    @classmethod
    def parse(cls, text: str, tolerance: float = 0.1) -> Targets:
        """The targets in a text such as ``"2.3,3.5,4.4"``, in milliseconds."""
        try:
            if not plain_digits(text):
                raise ValueError(text)
            return cls(tuple(float(part) for part in text.split(",")), tolerance)
        except ValueError as error:
            raise InputError(
                f"{text!r} is not a list of latencies",
                hint="write milliseconds, such as 2.3,3.5,4.4",
            ) from error

    def reaches(self, target_ms: float, latency_ms: float) -> bool:
        """Whether a latency is within the tolerance of a target."""
        return abs(latency_ms - target_ms) <= self.tolerance * target_ms * (1 + 1e-9)

    def check(self, latency_ms: Mapping[Arch, float]) -> None:
        """Raises :class:`InputError`, which names the nearest configuration, for a target that no
        configuration reaches.
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
        """At most ``per_target`` members of the frontier within each target's tolerance, best by
        ``y`` first; there may be none.
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
    records: Sequence[Record],
    limit: int,
    y: str = "ap",
    targets: Targets | None = None,
    budget: Budget | None = None,
) -> list[Arch]:
    """Architectures to measure by the full protocol.

    The frontier of (modelled latency, ``y``), thinned evenly to ``limit``; or, with ``targets``, an
    equal share of ``limit`` for each target, because a measured latency may turn out to be outside
    the tolerance; or, with ``budget``, the most accurate that may lie within it.
    """
    if budget is not None:
        chosen = budget.candidates(records, limit)
    elif targets is not None:
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
    targets: Targets,
    confirmed: Sequence[Record],
    y: str = "ap",
    mode: str = "buffered",
    file_of: Callable[[Arch], Path] | None = None,
) -> list[str]:
    """One line per target, by the confirmed file's latency in the deciding mode; ``file_of`` gives
    the measured file, which the line names.
    """
    metric_y = metric(y)
    lines = []
    decided = [
        one for one in confirmed if one.protocol and one.protocol.mode == mode and one.latency
    ]
    for target, picks in targets.picks(decided, 1, y).items():
        found = (
            f"no confirmed configuration is within {targets.tolerance:.0%} by its measured {mode} "
            f"latency"
        )
        for pick in picks:
            value = metric_y.value(pick)
            score = percent(value, absent="unknown")
            arch = pick.as_searched().arch
            result = f"{metric_y.name} {score}, {pick.as_latency().ms:.3g} ms {mode}"
            file = "" if file_of is None else f", file {file_of(arch)}"
            found = f"{arch.key}, {result}{file}"
        lines.append(f"target {target:g} ms: {found}")
    return lines
