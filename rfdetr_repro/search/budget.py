"""A ceiling for the latency of one image. A target (:mod:`.targets`) is a neighbourhood instead."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from rfdetr_repro.records.pareto import frontier, metric
from rfdetr_repro.records.record import MeasuredRecord, Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import QUANTILES

LONGEST_MS = 1e6
ALLOWANCE = 0.1  # the bound of a latency model's error that holds for 95 % of the files


@dataclass(frozen=True)
class Budget:
    """A ceiling for the latency of one image.

    Args:
        ms: the ceiling in milliseconds, above 0.
        quantile: the statistic of the samples that has to stay below it, one of ``QUANTILES``.
        mode: the latency mode, "buffered" or "sustained".
        metric: what is maximised below it: ap, ap50, mask_ap or mask_ap50.

    Raises :class:`InputError` for other values.
    """

    ms: float
    quantile: str = "median"
    mode: str = "buffered"
    metric: str = "ap"

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 < self.ms < LONGEST_MS:  # false for NaN too
            raise InputError(f"a budget of {self.ms!r} ms", hint="give a number of ms above 0")
        if self.quantile not in QUANTILES:
            raise InputError(
                f"unknown quantile {self.quantile!r}", hint=f"choose one of {', '.join(QUANTILES)}"
            )
        metric(self.metric)

    @property
    def name(self) -> str:
        """The stem of the chosen file, such as ``best-5ms`` or ``best-5ms-p95``."""
        tail = "" if self.quantile == "median" else f"-{self.quantile}"
        return f"best-{self.ms:g}ms{tail}"

    def latency_of(self, measured: MeasuredRecord) -> float | None:
        """The quantile in ms; None where too few samples were taken for it."""
        latency = measured.latency
        return {
            "median": latency.median_ms,
            "p90": latency.p90_ms,
            "p95": latency.p95_ms,
            "p99": latency.p99_ms,
        }[self.quantile]

    def candidates(self, records: Iterable[Record], limit: int) -> list[Record]:
        """At most ``limit`` members of the frontier of modelled latency and ``metric`` that may lie
        within the budget, the most accurate first.

        A modelled latency may be too high by ``ALLOWANCE``, so files up to that much above the
        ceiling are measured too. Where none is, the fastest configuration is measured, so that a
        refusal names a measured latency.
        """
        front = frontier(records, "latency", self.metric)
        most = self.ms * (1 + ALLOWANCE)
        within = [one for one in front if one.latency and one.latency.median_ms <= most]
        return (within or front[:1])[::-1][:limit]

    def kept_by(self, records: Iterable[Record]) -> bool:
        """Whether a measured file is within the budget."""
        return any(latency <= self.ms for latency in self._measured(records).values())

    def faster(self, records: Iterable[Record], confirmed: Iterable[Record]) -> list[Record]:
        """The configuration to measure after all files of ``confirmed`` turned out too slow; empty
        where the fastest member of the frontier of ``records`` is among them.

        Of the members that the model calls faster than every measured file, this is the most
        accurate that is within the budget if the model is as wrong about it as about those files;
        where there is none, the fastest member.
        """
        measured = self._measured(confirmed)
        front = [one for one in frontier(records, "latency", self.metric) if one.latency]
        modelled = {_arch(one): one.as_latency().ms for one in front}
        known = [arch for arch in measured if arch in modelled]
        if not known:
            return []
        error = statistics.median(measured[arch] / modelled[arch] for arch in known)
        least = min(modelled[arch] for arch in known)
        left = [one for one in front if one.as_latency().ms < least]
        within = [one for one in left if one.as_latency().ms * error <= self.ms]
        return (within or left[:1])[-1:]

    def _measured(self, records: Iterable[Record]) -> dict[Arch, float]:
        """Architecture -> the quantile of its file's latency in the budget's mode, where known."""
        found = {}
        for record in records:
            measured = MeasuredRecord.of(record)
            if measured is None or measured.protocol.mode != self.mode:
                continue
            latency = self.latency_of(measured)
            if latency is not None:
                found[_arch(record)] = latency
        return found


def _arch(record: Record) -> Arch:
    return record.as_searched().arch
