"""The latency model compared with later measurements: was its stated error true? Computed from
Records alone; no torch here.

A confirmed file's Record holds the latency that the model predicted (``latency.predicted_ms``) and
the error that was stated with the prediction, on engines left out of the fit. Both are for the mode
of the Record's protocol.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from rfdetr_repro.spec.metrics import share

from .pareto import backend
from .record import FINE_TUNING, Record

# bounds of the model's relative error; a coarser model is not used to rank or to meet targets
MEDIAN_BOUND = 0.03
P95_BOUND = 0.10
SURE = 0.05  # probability below which chance does not explain a deviation from the stated error


@dataclass(frozen=True)
class ModelCheck:
    """Predictions of one latency model and measured medians, both in ms, file by file.

    ``stated_median`` and ``stated_p95`` are the median and the 95 % quantile of the model's
    relative error as stated with the predictions; None where the Records do not state them.
    """

    backend: str
    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]
    stated_median: float | None
    stated_p95: float | None

    @property
    def errors(self) -> list[float]:
        """|predicted - measured| / measured, a fraction, file by file."""
        pairs = zip(self.predicted_ms, self.measured_ms, strict=True)
        return [abs(predicted / measured - 1) for predicted, measured in pairs]

    @property
    def median(self) -> float:
        """Median of :attr:`errors`, a fraction."""
        return median(self.errors)

    @property
    def worst(self) -> float:
        """Largest of :attr:`errors`, a fraction."""
        return max(self.errors)

    @property
    def held(self) -> bool | None:
        """Whether no more files lie beyond the stated 95 % quantile than chance explains; None
        where nothing was stated.
        """
        if self.stated_p95 is None:
            return None
        beyond = sum(error > self.stated_p95 for error in self.errors)
        count = len(self.errors)
        rarer = sum(
            math.comb(count, k) * 0.05**k * 0.95 ** (count - k) for k in range(beyond, count + 1)
        )
        return rarer >= SURE

    @property
    def within_bound(self) -> bool:
        """Whether the model may rank: its stated error and its error on the confirmed files stay
        within the bounds. A stated error that is unknown is not within them.
        """
        if self.stated_median is None or self.stated_p95 is None:
            return False
        return (
            self.stated_median <= MEDIAN_BOUND
            and self.stated_p95 <= P95_BOUND
            and self.median <= MEDIAN_BOUND
            and self.worst <= P95_BOUND
        )

    def describe(self) -> str:
        """Sentences for table and report: the stated error, the observed error, and the
        consequence.
        """
        stated = "stated error unknown"
        if self.stated_median is not None and self.stated_p95 is not None:
            stated = (
                f"stated error median {share(self.stated_median)}, 95 % {share(self.stated_p95)}"
            )
        count = len(self.errors)
        files = "the confirmed file" if count == 1 else f"the {count} confirmed files"
        text = (
            f"Latency model, {self.backend}: {stated}; on {files} median {share(self.median)}, "
            f"worst {share(self.worst)}."
        )
        if self.held is False:
            text += " That is more than was stated."
        if not self.within_bound:
            unknown = self.stated_median is None or self.stated_p95 is None
            which = "Whether it is within" if unknown else "It exceeds"
            known = " is unknown" if unknown else ""
            text += (
                f" {which} the bound ({bound_text()}){known}: modelled latencies rank nothing "
                f"here, measured latencies do."
            )
        return text


def bound_text() -> str:
    """The bounds of the model's error, to print."""
    return f"median {share(MEDIAN_BOUND, 0)}, 95 % {share(P95_BOUND, 0)}"


def model_checks(records: Iterable[Record]) -> list[ModelCheck]:
    """One check for each checkpoint and backend that has confirmed files with a prediction; a file
    counts once.
    """
    groups: dict[tuple[object, str], dict[str, Record]] = {}
    for record in records:
        latency = record.latency
        artifact = record.artifact
        measured = (
            record.source == "protocol" and artifact is not None and record.campaign != FINE_TUNING
        )
        if measured and latency is not None and latency.predicted_ms is not None:
            own = groups.setdefault((record.model.checkpoint_sha256, backend(record)), {})
            own[artifact.sha256] = record  # type: ignore[union-attr]
    return [_check(how, list(files.values())) for (_, how), files in groups.items()]


def _check(how: str, records: list[Record]) -> ModelCheck:
    latencies = [record.latency for record in records if record.latency is not None]
    medians = [latency.heldout_error for latency in latencies if latency.heldout_error is not None]
    tails = [latency.heldout_p95 for latency in latencies if latency.heldout_p95 is not None]
    return ModelCheck(
        how,
        tuple(latency.predicted_ms or 0.0 for latency in latencies),
        tuple(latency.median_ms for latency in latencies),
        max(medians, default=None),
        max(tails, default=None),
    )


def too_coarse(record: Record) -> bool:
    """Whether the latency comes from a latency model whose stated error is not known to be within
    the bounds.
    """
    latency = record.latency
    if latency is None or latency.method != "modelled":
        return False
    median, tail = latency.heldout_error, latency.heldout_p95
    if median is None or tail is None:
        return True
    return median > MEDIAN_BOUND or tail > P95_BOUND


def error_is_unknown(record: Record) -> bool:
    """Whether the latency comes from a latency model that states no error, or not all of it."""
    latency = record.latency
    return (
        latency is not None
        and latency.method == "modelled"
        and (latency.heldout_error is None or latency.heldout_p95 is None)
    )
