"""Shared by ``test_tables_intervals.py`` and others: noise, sure, three, tuned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from samples_run import protocol_record

from rfdetr_repro.records.ap_intervals import encode
from rfdetr_repro.records.record import Record, Resampled
from rfdetr_repro.spec.arch import Arch

FAST = Arch(96, 16, 1, 0, 10)
MIDDLE = Arch(128, 16, 1, 1, 15)
SLOW = Arch(160, 16, 1, 2, 25)


def sure(
    record: Record, ap: float, low: float, high: float, shift: np.ndarray | float = 0.0
) -> Record:
    """The Record with this AP, its interval, and resamples that share their luck; ``shift``: what
    this one has of its own.
    """
    luck = 0.03 * np.random.default_rng(0).normal(size=400)
    resampled = Resampled(
        "bootstrap", 150, 400, 0, 80.0, "draws", encode(np.clip(ap + luck + shift, 0, 1))
    )
    changes = {"ap": ap, "ap_low": low, "ap_high": high, "resampled": resampled}
    return replace(record, accuracy=replace(record.accuracy, **changes))


def noise(size: float) -> np.ndarray:
    return size * np.random.default_rng(1).normal(size=400)


def three() -> list[Record]:
    """Intervals that overlap; the second is better than the first by a paired 2 points, the third
    by less than its own noise.
    """
    return [
        sure(protocol_record(FAST), 0.40, 0.34, 0.46),
        sure(protocol_record(MIDDLE), 0.42, 0.36, 0.48, noise(0.002)),
        sure(protocol_record(SLOW), 0.425, 0.365, 0.485, noise(0.01)),
    ]


def tuned(record: Record, variant: str, digest: str) -> Record:
    parts = {
        name: replace(getattr(record, name), artifact_sha256=digest * 32)
        for name in ("accuracy", "mask_accuracy", "latency")
    }
    artifact = replace(record.artifact, sha256=digest * 32)
    return replace(record, model=replace(record.model, variant=variant), artifact=artifact, **parts)
