"""A/A measurements: one file, measured twice, interleaved as if the file were two models.

The difference of the two is the error of the measurement itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rfdetr_repro.records.record import Itself, Latency
from rfdetr_repro.records.samples import Series, load_samples
from rfdetr_repro.records.statistics import compare_series
from rfdetr_repro.spec.errors import InputError


def itself(first: Series, second: Series, samples_sha256: str | None = None) -> Itself:
    """Compares the second measurement with the first.

    ``samples_sha256``: hash of the second measurement's raw samples.
    """
    one = first.counted
    two = second.counted
    verdict = compare_series(two, one)
    median_ms = float(np.median(one.ms))
    low, high = (
        (bound / median_ms for bound in verdict.interval_ms)
        if verdict.interval_ms
        else (None, None)
    )
    return Itself(
        float(np.median(two.ms)),
        verdict.difference_ms / median_ms,
        verdict.word,
        low,
        high,
        samples_sha256,
    )


def stored_twin(folder: Path, latency: Latency) -> Itself | None:
    """The comparison from the raw samples next to a store; None where the file was measured
    once.
    """
    if latency.itself is None:
        return None
    first = latency.samples_sha256
    second = latency.itself.samples_sha256
    if first is None or second is None:
        raise InputError(
            "the Record of an A/A measurement names only one set of raw samples", folder
        )
    return itself(load_samples(folder, first), load_samples(folder, second), second)
